"""Files of torch.save: read right, in both formats, and unable to run or to grow."""

import io
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.noise2inverse.torch_archives import LEGACY_START, StoredTensor, read_torch_archive
from quietbeam.reconstruction.errors import ReductionError

ZIP, LEGACY = True, False


def saved(value, zipped):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def read(content, folder):
    path = folder / "file.torch"
    path.write_bytes(content)
    return read_torch_archive(path)


def zip_file(pickle, records=(), **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("a/data.pkl", pickle)
        for name, content in records:
            archive.writestr(name, content)
    return file.getvalue()


def legacy_file(pickle, storages=b"\x80\x02]."):
    system = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
    return LEGACY_START + b"\x80\x02M\xe9\x03." + system + pickle + storages


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor_pickle(length=2, offset=0, shape=b"K\x02\x85", stride=b"K\x01\x85"):
    """Give the pickle of {"t": tensor} over a storage of `length` float32 under the key "0"."""
    number = b"J" + struct.pack("<i", length)
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number + b"tQ"
    offset = b"J" + struct.pack("<i", offset)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + stride + b"\x89}tR"
    return b"\x80\x02}" + text("t") + call + b"s."


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_values_come_back(zipped, tmp_path):
    value = OrderedDict(
        a=[1, -2, 300, 70000, 1.5, None, True, False, 2**40, "ü"], b=((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
    )
    value["c"] = {5: torch.Size([2, 3]), "empty": {}}
    assert read(saved(value, zipped), tmp_path).content == dict(value)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_come_back_as_float32(zipped, dtype, tmp_path):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype) / 8  # exact in every type
    views = {
        "whole": tensor,
        "transposed": tensor.transpose(0, 2),
        "part": tensor[1, 1:, ::2],
        "scalar": tensor[1, 2, 3],
        "parameter": torch.nn.Parameter(tensor[0]),
    }
    archive = read(saved(views, zipped), tmp_path)
    assert len(archive.storages) == 1
    found = archive.float_tensors(archive.content)
    for name, view in views.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], view.detach().float()), name
    found["part"][:] = 100
    assert torch.equal(found["whole"], tensor.float()), "each tensor has memory of its own"


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_integers_are_no_weights(zipped, tmp_path):
    archive = read(saved({"step": torch.tensor([1, 2])}, zipped), tmp_path)
    assert isinstance(archive.content["step"], StoredTensor)
    with pytest.raises(ValueError, match=r"step: expected floating point, got torch\.int64"):
        archive.float_tensors(archive.content)


def test_parts_of_storages_of_old_files(tmp_path):
    """A storage could be a part of another: (key, start, length) follow its length."""
    part = b"(" + text("1") + b"K\x03K\x02tt"
    old = tensor_pickle(length=5).replace(b"tQ", part + b"Q")
    storages = b"\x80\x02]" + text("0") + b"a." + struct.pack("<q5f", 5, *range(5))
    archive = read(legacy_file(old, storages), tmp_path)
    assert archive.float_tensors(archive.content)["t"].tolist() == [3, 4]


@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
@pytest.mark.parametrize(
    ("module", "name"),
    [("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("collections", "deque")],
)
def test_nothing_in_a_file_is_run(wrap, module, name, tmp_path):
    evidence = tmp_path / "evidence"
    call = f"c{module}\n{name}\n".encode() + text(f"touch {evidence}") + b"\x85R."
    with pytest.raises(ReductionError, match=rf"file\.torch: .* asks for {module}\.{name}, which no file"):
        read(wrap(b"\x80\x02" + call), tmp_path)
    assert not evidence.exists()


@pytest.mark.parametrize(
    "pickle",
    [
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",  # names from the stack, protocol 4
        b"iposix\nsystem\n.",  # INST
        b"\x80\x02cposix\nsystem\n)\x81.",  # NEWOBJ
        b"\x82\x01.",  # extension registry
        text("posix.system") + b")R.",  # a text is no function
        b"ctorch\nFloatStorage\n)R.",  # nor is a type of numbers
        b"ccollections\nOrderedDict\n" + text("x") + b"R.",  # arguments are a tuple
    ],
)
def test_other_ways_to_call_are_refused(pickle, tmp_path):
    with pytest.raises(ReductionError, match=r"instruction|asks for|calls what is no function"):
        read(zip_file(pickle), tmp_path)


def test_the_hand_written_pickle_is_read(tmp_path):
    """Otherwise the refusals below would show nothing."""
    content = zip_file(tensor_pickle(), [("a/data/0", struct.pack("<2f", 5, 7))])
    archive = read(content, tmp_path)
    assert archive.float_tensors(archive.content)["t"].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 3}, "storage 0: expected 3 elements, got 8 bytes"),
        ({"length": -2}, "storage 0: expected -2 elements"),
        ({"offset": 1}, "t reaches element 2 of a storage of 2"),
        ({"offset": -1}, "none of them negative"),
        ({"stride": b"K\x02\x85"}, "t reaches element 2 of a storage of 2"),
        ({"stride": b"J\xff\xff\xff\xff\x85"}, "none of them negative"),
        ({"shape": b"K\x00\x85"}, "t is empty"),
        ({"shape": b"K\x01\x85", "stride": b"\x8a\x0a" + 9 * b"\xff" + b"\x00\x85"}, "none of them negative or beyond"),
        ({"shape": b"K\x02K\x01\x86"}, "as many strides as sizes"),
        ({"shape": text("ab") + b"\x85"}, "none of them negative"),
        ({"shape": b"J\xff\xff\xff\x7f\x85", "stride": b"K\x00\x85"}, r"2147483647 elements do not fit into"),
        ({"shape": b"(" + 9 * b"K\x01" + b"t", "stride": b"(" + 9 * b"K\x01" + b"t"}, "at most 8 dimensions"),
    ],
)
def test_tensors_that_cannot_be_are_refused(options, message, tmp_path):
    content = zip_file(tensor_pickle(**options), [("a/data/0", struct.pack("<2f", 5, 7))])
    with pytest.raises((ReductionError, ValueError), match=message):
        archive = read(content, tmp_path)
        archive.float_tensors(archive.content)


def test_archives_that_could_grow_are_refused(tmp_path):
    with pytest.raises(ReductionError, match="records are compressed"):
        read(zip_file(tensor_pickle(), [("a/data/0", bytes(10**6))], compression=zipfile.ZIP_DEFLATED), tmp_path)
    claimed = zip_file(tensor_pickle(), [("a/data/0", bytes(8))])
    directory = claimed.index(b"PK\x01\x02", claimed.index(b"PK\x01\x02") + 4)
    sizes = struct.pack("<II", 10**9, 10**9)
    with pytest.raises(ReductionError, match="larger than the file"):
        read(claimed[: directory + 20] + sizes + claimed[directory + 28 :], tmp_path)


def test_many_views_of_one_storage_do_not_add_up(tmp_path):
    whole = torch.zeros(1000)
    archive = read(saved({str(i): whole for i in range(500)}, ZIP), tmp_path)
    with pytest.raises(ValueError, match="500000 elements do not fit into a file"):
        archive.float_tensors(archive.content)


def test_nested_values_are_no_bombs(tmp_path):
    depth = 10**6
    deep = read(zip_file(b"]" * depth + b"a" * (depth - 1) + b"."), tmp_path).content
    assert len(deep) == 1
    with pytest.raises(ReductionError, match="keys of text or integers"):
        read(zip_file(b"}" + doubled(100) + b"Ns."), tmp_path)


def doubled(times):
    """Pickle code of a tuple that holds the same tuple twice, and so on: 2**times numbers if it were written out."""
    return b"K\x01" + times * b"q\x00h\x00\x86"


LITTLE = b"\x80\x02}" + text("little_endian") + b"\x88s."
VERSION = b"\x80\x02M\xe9\x03."
BOMB = b"\x80\x02" + doubled(100) + b"."
LONGEST_MESSAGE = 300
"""Letters, beside the path."""


@pytest.mark.parametrize(
    ("pickles", "message"),
    [
        (BOMB + LITTLE, "expected version 1001, got tuple"),
        (b"\x80\x02]" + doubled(100) + b"a." + LITTLE, "expected version 1001, got list"),
        (b"\x80\x02" + text("1" * 9999) + b"." + LITTLE, "expected version 1001, got '1{40}'"),
        (VERSION + BOMB, "expected that it says little_endian"),
        (VERSION + b"\x80\x02}" + text("little_endian") + doubled(100) + b"s.", "expected that it says little_endian"),
        (VERSION + LITTLE + b"\x80\x02}.\x80\x02]" + doubled(100) + b"a.", "the key of a storage .* got tuple"),
        (VERSION + LITTLE + b"\x80\x02}." + BOMB, "the key of a storage .* got tuple"),
        (VERSION + LITTLE + b"\x80\x02}.\x80\x02]" + text("x" * 9999) + b"a.", "storage .* got 'x{40}'"),
        (VERSION + LITTLE + b"\x80\x02c" + 9999 * b"x" + b"\nname\n.", r"asks for x{40}\.name,"),
    ],
)
def test_no_message_writes_out_what_is_in_a_file(pickles, message, tmp_path):
    with pytest.raises(ReductionError, match=message) as refusal:
        read(LEGACY_START + pickles + bytes(8), tmp_path)
    assert len(str(refusal.value)) < len(str(tmp_path)) + LONGEST_MESSAGE


@pytest.mark.parametrize("key", [text("x" * 65), doubled(100)])
@pytest.mark.parametrize("start", [doubled(100), b"K\x00"])
def test_storages_of_odd_keys_and_places_are_refused(key, start, tmp_path):
    identifier = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + b"K\x01(K\x00" + start + b"K\x01tt"
    )
    with pytest.raises(ReductionError, match=r"expected the type of a storage and its key of at most 64") as refusal:
        read(zip_file(b"\x80\x02" + identifier + b"Q."), tmp_path)
    assert len(str(refusal.value)) < len(str(tmp_path)) + LONGEST_MESSAGE


def test_a_part_of_a_storage_begins_at_a_number(tmp_path):
    part = b"(" + text("1") + doubled(100) + b"K\x02tt"
    with pytest.raises(ReductionError, match="where a part of it begins"):
        read(legacy_file(tensor_pickle(length=5).replace(b"tQ", part + b"Q")), tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", LEGACY_START, b"\x89HDF\r\n\x1a\n", zip_file(b"N")])
def test_any_other_file_is_refused(content, tmp_path):
    with pytest.raises(ReductionError, match=r"file\.torch: not a PyTorch file of tensors"):
        read(content, tmp_path)


def test_big_endian_numbers_are_refused(tmp_path):
    records = [("a/data/0", bytes(8)), ("a/byteorder", b"big")]
    with pytest.raises(ReductionError, match="big-endian"):
        read(zip_file(tensor_pickle(), records), tmp_path)


SAMPLE = {"epoch": 3, "state_dict": OrderedDict(a=torch.ones(2, 2), b=torch.zeros(1)), "optimizer": {"state": {}}}
SAMPLES = [saved(SAMPLE, ZIP), saved(SAMPLE, LEGACY)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damage_raises_nothing_else(tmp_path_factory, content, data):
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read(bytes(damaged), tmp_path_factory.getbasetemp())
    except ReductionError as error:
        assert "file.torch" in str(error)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([zip_file, legacy_file]),
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                b"(",
                b"]",
                b"}",
                b")",
                b"N",
                b"t",
                b"a",
                b"e",
                b"s",
                b"u",
                b"q\x00",
                b"h\x00",
                b"R",
                b"b",
                b"Q",
                b"\x86",
                b"K\x01",
                b"ccollections\nOrderedDict\n",
                b"ctorch\nSize\n",
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                text("storage"),
            ]
        ),
        max_size=30,
    ).map(b"".join),
)
def test_any_pickle_is_read_or_refused(tmp_path_factory, wrap, pickle):
    try:
        read(wrap(pickle + b"."), tmp_path_factory.getbasetemp())
    except ReductionError as error:
        assert "file.torch" in str(error)
