"""Networks of msdnet: its HDF5 layout, and what its networks compute."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.noise2inverse.msdnet_files import load_msdnet, msdnet_bytes
from quietbeam.reconstruction.errors import ReductionError

from .foreign_networks import assert_equal_output, assert_same_weights, mixed_scale_dense_float64, random_network

DILATIONS = (1, 5, 2, 7)


def contents(c_in=2, c_out=3, dilations=DILATIONS):
    """Give datasets of a network, as msdnet names them."""
    rng = np.random.default_rng(1)
    depth = len(dilations)
    layers = {f"f/{i:05d}": rng.normal(0, 0.3, (c_in + i, 3, 3)) for i in range(depth)}
    shapes = {"o": (depth,), "w": (c_out, c_in + depth), "oo": (c_out,), "off_in": (c_in,), "off_out": (c_out,)}
    others = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gains = {"gam_in": rng.uniform(0.1, 3, c_in), "gam_out": rng.uniform(0.1, 3, c_out)}
    floats = {name: value.astype(np.float32) for name, value in (layers | others | gains).items()}
    return floats | {"dl": np.array(dilations, np.int32)}


def write(path, datasets, **attributes):
    attributes = {"d": len(DILATIONS), "nin": 2, "nout": 3} | attributes
    with h5py.File(path, "w") as file:
        group = file.create_group("network")
        group.attrs.update({name: value for name, value in attributes.items() if value is not None})
        for name, value in datasets.items():
            if value is not None:
                group[name] = value
    return path


def output_of(datasets, images):
    gains = [
        (datasets.get(f"gam_{side}", np.ones(count)), datasets.get(f"off_{side}", np.zeros(count)))
        for side, count in (("in", 2), ("out", 3))
    ]
    weights = [datasets[f"f/{i:05d}"][None] for i in range(len(DILATIONS))]
    biases = datasets["o"][:, None]
    final = datasets["w"], datasets["oo"]
    return mixed_scale_dense_float64(images, gains, weights, biases, *final, dilations=DILATIONS, mode="reflect")


IMAGES = np.random.default_rng(0).normal(2, 1, (2, 17, 12))


@pytest.mark.parametrize("without", [(), ("gam_in", "off_in"), ("gam_out", "off_out")])
def test_an_imported_network_computes_what_its_file_means(without, tmp_path):
    datasets = {name: value for name, value in contents().items() if name not in without}
    found, said = load_msdnet(write(tmp_path / "net.h5", datasets))
    assert said == {"format": "msdnet"}
    assert found.settings.padding == "reflect"
    assert found.settings.width == 1
    assert_equal_output(found, IMAGES, output_of(datasets, IMAGES))


def test_networks_come_back(tmp_path):
    ours = random_network(depth=7, dilations=(1, 3), padding="reflect")
    path = tmp_path / "net.h5"
    path.write_bytes(msdnet_bytes(ours))
    back, _ = load_msdnet(path)
    assert back.settings == ours.settings
    assert_same_weights(ours, back)
    assert msdnet_bytes(ours) == path.read_bytes()


def test_a_network_of_ours_has_their_layout(tmp_path):
    ours = random_network(in_channels=2, out_channels=3, depth=4, dilations=DILATIONS, padding="reflect")
    path = tmp_path / "net.h5"
    path.write_bytes(msdnet_bytes(ours))
    with h5py.File(path) as file:
        group = file["network"]
        # msdnet takes .item() of attributes and uses d as a count
        assert {name: value.item() for name, value in group.attrs.items()} == {"d": 4, "nin": 2, "nout": 3}
        datasets = {name: group[name][:] for name in contents()}
        assert sorted(group) == sorted({name.split("/")[0] for name in contents()})
    for name, value in contents().items():
        assert (datasets[name].shape, datasets[name].dtype) == (value.shape, value.dtype), name
    assert_equal_output(ours, IMAGES, output_of(datasets, IMAGES))


@pytest.mark.parametrize(
    ("dilations", "cycle"),
    [((1, 2, 1, 2, 1), (1, 2)), ((3, 3, 3), (3,)), ((1, 2, 3), (1, 2, 3)), ((1, 2, 2), (1, 2, 2))],
)
def test_dilations_are_told_by_their_cycle(dilations, cycle, tmp_path):
    path = write(tmp_path / "net.h5", contents(dilations=dilations), d=len(dilations))
    found, _ = load_msdnet(path)
    assert found.settings.dilations == cycle
    assert found.dilations == dilations


def test_what_msdnet_cannot_hold_is_refused():
    with pytest.raises(ReductionError, match="layers of one channel only, the network has width 2"):
        msdnet_bytes(random_network(depth=2, width=2, padding="reflect"))
    with pytest.raises(ReductionError, match="reflecting borders only, the network has symmetric"):
        msdnet_bytes(random_network(depth=2))
    net = random_network(depth=2, padding="reflect")
    net.output_std[0] = -1
    with pytest.raises(ReductionError, match="standard deviation of the output must be at least"):
        msdnet_bytes(net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dl": np.array([1, 2, 300, 4])}, r"dilations must lie in \[1, 255\]"),
        ({"dl": None}, "dl: missing"),
        ({"dl": np.ones(4)}, r"dl: expected numbers of shape \(4,\)"),
        ({"w": np.ones((3, 7), "f4")}, r"w: expected numbers of shape \(3, 6\)"),
        ({"o": np.full(4, np.nan, "f4")}, "bias: there are numbers that are not finite"),
        ({"f/00002": None}, "f/00002: missing"),
        ({"f/00002": np.ones((4, 3, 3, 3), "f4")}, r"f/00002: expected numbers of shape \(4, 3, 3\)"),
        ({"f": np.ones(3), **{f"f/{i:05d}": None for i in range(4)}}, "f/00000: missing|object has no attribute"),
        ({"gam_in": np.zeros(2, "f4")}, "input gain must be at least 1e-30"),
        ({"off_out": None}, "off_out: missing"),
        ({"oo": h5py.ExternalLink("other.h5", "/x")}, "oo: missing, or a link to somewhere else"),
        ({"oo": h5py.SoftLink("/network/o")}, "oo: missing, or a link to somewhere else"),
    ],
)
def test_other_networks_are_refused(changes, message, tmp_path):
    with pytest.raises(ReductionError, match=rf"net\.h5: not a network of msdnet that can be used.*({message})"):
        load_msdnet(write(tmp_path / "net.h5", contents() | changes))


@pytest.mark.parametrize("attributes", [{"d": None}, {"d": 0}, {"d": 2**40}, {"nin": 1.5}, {"nin": "x"}, {"nout": [3]}])
def test_counts_that_cannot_be_are_refused(attributes, tmp_path):
    with pytest.raises(ReductionError, match=r"net\.h5: not a network of msdnet that can be used"):
        load_msdnet(write(tmp_path / "net.h5", contents(), **attributes))


@pytest.mark.parametrize("name", ["d", "nin", "nout"])
def test_a_count_is_looked_at_before_it_is_read(name, tmp_path):
    path = write(tmp_path / "net.h5", contents())
    for value, kind in ((np.zeros(5000, "i4"), r"int32 of shape \(5000,\)"), ("x" * 9999, r"object of shape \(\)")):
        with h5py.File(path, "r+") as file:
            file["network"].attrs[name] = value
        with pytest.raises(ReductionError, match=f"{name}: expected one integer, got {kind}"):
            load_msdnet(path)


def test_files_that_could_grow_are_refused(tmp_path):
    path = write(tmp_path / "net.h5", contents() | {"w": None})
    with h5py.File(path, "a") as file:
        file["network"].create_dataset("w", data=np.ones((3, 6), "f4"), compression="gzip")
    with pytest.raises(ReductionError, match="w: expected a plain dataset"):
        load_msdnet(path)
    path = write(tmp_path / "net.h5", contents() | {"w": None, "oo": None}, nout=10**7)
    with h5py.File(path, "a") as file:
        file["network"].create_dataset("w", (10**7, 6), "f4")  # never written: takes no place
    with pytest.raises(ReductionError, match="w: larger than the file"):
        load_msdnet(path)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_any_other_file_is_refused(content, tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes(content)
    with pytest.raises(ReductionError, match=r"net\.h5: not a network of msdnet"):
        load_msdnet(path)


SAMPLE = msdnet_bytes(random_network(depth=2, padding="reflect"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_raises_nothing_else(tmp_path_factory, data):
    damaged = bytearray(SAMPLE[: data.draw(st.integers(0, len(SAMPLE)) | st.just(len(SAMPLE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "net.h5"
    path.write_bytes(damaged)
    try:
        load_msdnet(path)
    except ReductionError as error:
        assert "net.h5" in str(error)
