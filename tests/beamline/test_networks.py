"""Conversion of networks between programs, by the content of the source and the name of the target."""

import os

import h5py
import pytest
import torch

from quietbeam.beamline.networks import convert_network, describe_network, parse_dilations, parse_padding
from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .jobs import answer, command, run


def network(**settings):
    net = MSD(2, 1, NetworkSettings(depth=4, **settings), generator=torch.Generator().manual_seed(0))
    net.input_mean[:], net.input_std[:] = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0])
    net.final_weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return net


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    path.write_bytes(network_bytes(network(dilations=(1, 4)), {"scan": "abc"}))
    return path


def test_networks_go_round_all_programs(source, tmp_path):
    """Scalings are powers of 2, so that their inverse is exact."""
    files = [tmp_path / name for name in ("a.torch", "b.safetensors", "c.h5", "d.safetensors", "e.safetensors")]
    convert_network(source, files[0])
    convert_network(files[0], files[1], dilations=(1, 4))
    convert_network(files[1], files[2], padding="reflect")
    convert_network(files[2], files[3])
    convert_network(files[3], files[4], padding="symmetric")
    back, provenance = load_network(files[4])
    expected, _ = load_network(source)
    assert back.settings == expected.settings
    images = torch.rand(1, 2, 12, 12)
    assert torch.equal(back(images), expected(images))
    assert provenance["converted_from"]["file"] == "c.h5"
    _, provenance = load_network(files[1])
    assert provenance["converted_from"].keys() == {
        *("format", "file", "sha256", "epoch"),
        *("dilations", "dilations_assumed"),
    }


def test_a_source_is_told_by_its_content(source, tmp_path):
    convert_network(source, tmp_path / "a.torch")
    odd = (tmp_path / "a.torch").rename(tmp_path / "a.h5")
    model, _ = convert_network(odd, tmp_path / "b.torch")
    assert model.settings.dilations == tuple(range(1, 11))
    (tmp_path / "text.torch").write_text("nothing of this kind")
    with pytest.raises(ReductionError, match=r"text\.torch: expected a network of quietbeam, msd_pytorch or msdnet"):
        convert_network(tmp_path / "text.torch", tmp_path / "c.torch")


@pytest.mark.parametrize(("given", "assumed"), [(None, True), ((1, 4), False)])
def test_dilations_that_were_assumed_are_told_and_kept(source, tmp_path, given, assumed):
    convert_network(source, tmp_path / "a.torch")
    first = convert_network(tmp_path / "a.torch", tmp_path / "b.safetensors", dilations=given)
    again = convert_network(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    for model, provenance in (first, again, load_network(tmp_path / "c.safetensors")):
        origin, taken = provenance["converted_from"], model.settings.dilations
        assert (origin["dilations"], origin["dilations_assumed"]) == (list(taken), assumed)
        told = describe_network(model, provenance)
        assert (
            f"dilations {','.join(map(str, taken))} (assumed: msd_pytorch files do not hold them)" in told
        ) == assumed


@pytest.mark.parametrize("origin", [None, 5, ["epoch"], {}])
def test_any_provenance_is_taken(tmp_path, origin):
    (tmp_path / "a.safetensors").write_bytes(network_bytes(network(), {"converted_from": origin}))
    assert "assumed" not in describe_network(*convert_network(tmp_path / "a.safetensors", tmp_path / "a.torch"))


def test_other_borders_must_be_asked_for(source, tmp_path):
    target = tmp_path / "a.h5"
    with pytest.raises(ReductionError, match=r"by symmetric borders, .* --padding reflect accepts this"):
        convert_network(source, target)
    assert not target.exists()
    convert_network(source, target, padding="reflect")
    with pytest.raises(ReductionError, match=r"by reflect borders, .* --padding symmetric accepts this"):
        convert_network(target, tmp_path / "a.torch")


def test_nothing_is_replaced_unless_wanted(source, tmp_path):
    target = tmp_path / "a.torch"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.torch is there already; --overwrite replaces it"):
        convert_network(source, target)
    assert target.read_text() == "precious"
    convert_network(source, target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.torch", "source.safetensors"]


def test_mistaken_arguments_are_told(source, tmp_path):
    with pytest.raises(ValueError, match=r"ends with \.safetensors, \.torch, \.h5"):
        convert_network(source, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="holds the dilations of its network"):
        convert_network(source, tmp_path / "a.torch", dilations=(1, 2))
    for text in ("", "1,,2", "0", "256", "1,-2", "1.5", "a"):
        with pytest.raises(ValueError, match="expected dilations like 1,2,4,8"):
            parse_dilations(text)
    assert parse_dilations("1, 2,255") == (1, 2, 255)
    with pytest.raises(ValueError, match="symmetric, reflect, got zeros"):
        parse_padding("zeros")
    assert parse_padding("reflect") == "reflect"


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["exchange/data"] = 1


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save(torch.zeros(3), path), "not a network of msd_pytorch that can be used"),
        (lambda path: path.write_bytes(b""), "got an empty file$"),
        (lambda path: path.write_bytes(bytes(range(128, 256))), "got a file of another kind$"),
        (lambda path: path.write_bytes(b"\x10" + bytes(7) + b"{" * 40), "not a network file"),
        (write_hdf5, "there is no group named network in it$"),
        (os.mkfifo, "expected a file, got something else$"),
    ],
)
def test_what_is_no_network_is_bad_data(tmp_path, write, message):
    path = tmp_path / "source"
    write(path)
    with pytest.raises(NetworkFileError, match=message) as failure:
        convert_network(path, tmp_path / "a.safetensors")
    text = str(failure.value)
    assert text.startswith(f"{path}: ")
    assert not any(odd in text for odd in ("StoredTensor", "\\x", '"', "b'"))
    assert NetworkFileError.exit_code == 3


def test_a_network_that_cannot_be_written_is_named(source, tmp_path):
    wide = tmp_path / "wide.safetensors"
    wide.write_bytes(network_bytes(network(width=2, padding="reflect"), {}))
    with pytest.raises(ReductionError, match=r"wide\.safetensors: msdnet has layers of one channel only"):
        convert_network(wide, tmp_path / "a.h5")
    broken = network()
    broken.final_weight.data.fill_(torch.nan)
    wide.write_bytes(network_bytes(broken, {}))
    with pytest.raises(NetworkFileError, match=r"wide\.safetensors: .*not finite"):
        convert_network(wide, tmp_path / "a.torch")


def test_a_missing_folder_is_named(source, tmp_path):
    with pytest.raises(ValueError, match=r"a\.torch: there is no folder .*/absent; make it first"):
        convert_network(source, tmp_path / "absent/a.torch")


def test_the_command(source, tmp_path):
    done = answer("convert-network", source, tmp_path / "a.h5", "--padding", "reflect")
    assert done.returncode == 0, done.stderr
    assert "2 to 1 channels, depth 4, width 1, dilations 1,4, reflect borders" in done.stdout
    assert "assumed" not in done.stdout
    assert answer("convert-network", source, tmp_path / "b.torch").returncode == 0
    done = run(command("convert-network", tmp_path / "b.torch", tmp_path / "b.safetensors"))
    assert "dilations 1,2,3,4,5,6,7,8,9,10 (assumed: msd_pytorch files" in done.stdout
    assert done.stdout.count("\n") == 1
    (tmp_path / "empty.h5").touch()
    for arguments, code, message in (
        (("a.h5", "a.torch"), 1, "--padding symmetric"),
        (("a.h5", "a.h5"), 2, "--overwrite"),
        (("empty.h5", "b.h5"), 3, "empty.h5: expected a network"),
    ):
        done = answer("convert-network", *(tmp_path / a if "." in a else a for a in arguments))
        assert done.returncode == code, done.stdout + done.stderr
        assert message in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
