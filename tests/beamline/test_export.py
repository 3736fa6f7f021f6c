from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.atomic import atomic_path
from quietbeam.beamline.export import FORMATS, extract, format_of, parse_slices
from quietbeam.beamline.inspect import describe_path
from quietbeam.beamline.ome_zarr import write_ome_zarr
from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, write_archive
from quietbeam.reconstruction.errors import ArchiveError, ReductionError

SHAPE = (11, 20, 24)
NO_ZARR = pytest.mark.skipif(find_spec("zarr") is None, reason="zarr is not installed")
KINDS = [pytest.param(name, marks=[NO_ZARR] if name == "zarr" else []) for name in FORMATS]
MAX_ERROR = 0.01


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "volume.h5"
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    header = ArchiveHeader(shape=SHAPE, codec=None, max_error=MAX_ERROR, chunk_slices=4)
    write_archive(path, [encode_chunk(None, volume[i : i + 4], MAX_ERROR) for i in (0, 4, 8)], header, b"")
    return path


@pytest.fixture
def damaged(archive: Path, tmp_path: Path) -> Path:
    """Flip one bit in the last chunk: the first two decode, so that files are there when the damage is met."""
    with open_archive(archive) as whole:
        name = sorted(name for name in whole.parts if name.startswith("chunk"))[-1]
        payload = whole.read_part(name)
    content = bytearray(archive.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 1
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "damaged.h5"
    path.write_bytes(content)
    return path


def read(path: Path, file_format: str) -> np.ndarray:
    match file_format:
        case "tiff":
            return np.stack([tifffile.imread(file) for file in sorted(path.iterdir())])
        case "h5":
            with h5py.File(path) as file:
                return file["entry/data/data"][:]
        case "zarr":
            return pytest.importorskip("zarr").open_group(path, mode="r")["0"][:]
        case _:
            return np.load(path)


@pytest.mark.parametrize("file_format", KINDS)
@pytest.mark.parametrize(("slices", "expected"), [(None, slice(0, 11)), ("3:9", slice(3, 9)), ("-1", slice(10, 11))])
def test_files_hold_the_slices(archive, tmp_path, file_format, slices, expected):
    output = extract(archive, tmp_path / "out", slices, file_format)
    with open_archive(archive) as whole:
        np.testing.assert_array_equal(read(output, file_format), whole[expected])
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("file_format", KINDS)
def test_damaged_archive_leaves_nothing_and_does_not_stand_in_the_way(archive, damaged, tmp_path, file_format):
    output = tmp_path / "out" / "slices"
    output.parent.mkdir()
    with pytest.raises(ArchiveError, match="does not match its checksum"):
        extract(damaged, output, None, file_format)
    assert list(output.parent.iterdir()) == []
    extract(archive, output, None, file_format)
    assert len(read(output, file_format)) == SHAPE[0]
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("file_format", KINDS)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_extraction_left_is_removed(archive, tmp_path, file_format, kind):
    left = tmp_path / ".slices.partial"
    if kind == "folder":
        left.mkdir()
        (left / "slice_99.tiff").write_bytes(b"half")
    else:
        left.write_bytes(b"half")
    output = extract(archive, tmp_path / "slices", None, file_format)
    assert len(read(output, file_format)) == SHAPE[0]
    assert list(tmp_path.iterdir()) == [output]


def test_files_of_a_folder_are_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    output, synced = tmp_path / "out", []
    monkeypatch.setattr("quietbeam.beamline.atomic.sync", lambda path: synced.append((path.name, output.exists())))
    with atomic_path(output) as temporary:
        temporary.mkdir()
        (temporary / "slice.tiff").write_bytes(b"image")
    assert synced == [("slice.tiff", False), (temporary.name, False), (tmp_path.name, True)]


@pytest.mark.parametrize("file_format", KINDS)
def test_nothing_is_replaced(archive, tmp_path, file_format):
    output = tmp_path / "out"
    output.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="out is there already: choose another -o"):
        extract(archive, output, None, file_format)
    assert output.read_bytes() == b"precious"


@pytest.mark.parametrize("file_format", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_integers_stay_integers(tmp_path, file_format, dtype):
    volume = np.random.default_rng(0).integers(-99, 99, SHAPE).astype(dtype)
    header = ArchiveHeader(shape=SHAPE, dtype=dtype, codec=None, max_error=0, chunk_slices=16)
    write_archive(tmp_path / "volume.h5", [encode_chunk(None, volume, 0)], header, b"")
    got = read(extract(tmp_path / "volume.h5", tmp_path / "out", None, file_format), file_format)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, volume)


@pytest.mark.parametrize("pixel_size", [2e-6, None])
def test_ome_zarr_has_a_pyramid_of_means_with_its_place(tmp_path, pixel_size):
    zarr = pytest.importorskip("zarr")
    volume = np.random.default_rng(0).random((130, 9, 70)).astype(np.float32)
    parts = (volume[start : start + 16] for start in range(0, 130, 16))
    write_ome_zarr(tmp_path / "v.zarr", parts, volume.shape, volume.dtype, pixel_size=pixel_size, first_slice=5)
    group = zarr.open_group(tmp_path / "v.zarr", mode="r")
    ome, size = group.attrs["ome"], pixel_size or 1
    (multiscale,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert {axis.get("unit") for axis in multiscale["axes"]} == {"meter" if pixel_size else None}
    assert [level["path"] for level in multiscale["datasets"]] == ["0", "1", "2"]
    for level, described in enumerate(multiscale["datasets"]):
        factor, data = 2**level, group[described["path"]]
        scale, translation = described["coordinateTransformations"]
        assert data.metadata.dimension_names == ("z", "y", "x")
        assert scale["scale"] == [size * factor] * 3
        middle = (factor - 1) / 2
        np.testing.assert_allclose(translation["translation"], [size * (5 + middle), size * middle, size * middle])
        first = volume[:factor, :factor, :factor].mean(dtype=np.float64)
        last = volume[(129 // factor) * factor :, (8 // factor) * factor :, (69 // factor) * factor :]
        np.testing.assert_allclose(data[0, 0, 0], first, rtol=1e-6)  # rounding to float32
        np.testing.assert_allclose(data[-1, -1, -1], last.mean(dtype=np.float64), rtol=1e-6)
    assert data.shape == (33, 3, 18)


def test_means_of_integers_are_rounded(tmp_path):
    zarr = pytest.importorskip("zarr")
    volume = np.full((1, 2, 64), 4, np.uint8)
    volume[0, 0, 0] = 7
    write_ome_zarr(tmp_path / "v.zarr", [volume], volume.shape, volume.dtype)
    reduced = zarr.open_group(tmp_path / "v.zarr", mode="r")["1"]
    assert reduced.dtype == np.uint8
    assert reduced[0, 0, :2].tolist() == [5, 4]


def test_without_zarr_one_is_told_how_to_get_it(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ReductionError, match=r"needs the package zarr, version 3: pip install 'quietbeam\[zarr\]'"):
        extract(archive, tmp_path / "out", None, "zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".tif", ".tiff", ".h5", ".hdf5", ".hdf", ".nxs", ".NXS", ".npy", ".zarr"])
def test_the_suffix_tells_the_format(suffix):
    families = {"": "tiff", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy", ".zarr": "zarr"}
    assert format_of(Path("out" + suffix)) == families.get(suffix, "h5")


def test_a_suffix_of_no_format_is_refused():
    with pytest.raises(ValueError, match=r"no format has the suffix \.png; name one with -f: tiff, h5, npy, zarr"):
        format_of(Path("out.png"))


def test_slices_that_are_not_there_are_told():
    with pytest.raises(ValueError, match="the volume has slices 0 to 10"):
        parse_slices("5:12", 11)


def test_units_are_written_only_if_the_archive_has_one(archive, tmp_path):
    header = ArchiveHeader(shape=(1, 4, 5), codec=None, max_error=1, chunk_slices=4, metadata={"unit": "1/m"})
    write_archive(tmp_path / "with.h5", [encode_chunk(None, np.zeros((1, 4, 5), np.float32), 1)], header, b"")
    for path, units in ((archive, None), (tmp_path / "with.h5", "1/m")):
        with h5py.File(extract(path, tmp_path / f"out_{units is None}.h5", None, "h5")) as file:
            assert file["entry/data/data"].attrs.get("units") == units


def test_what_an_archive_does_not_say_is_not_made_up(archive):
    assert "None" not in "\n".join(describe_path(archive))
