from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.atomic import atomic_path
from quietbeam.beamline.export import FORMATS, extract
from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, write_archive
from quietbeam.reconstruction.errors import ArchiveError

SHAPE = (11, 20, 24)
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
        case _:
            return np.load(path)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("slices", "expected"), [(None, slice(0, 11)), ("3:9", slice(3, 9)), ("-1", slice(10, 11))])
def test_files_hold_the_slices(archive, tmp_path, file_format, slices, expected):
    output = extract(archive, tmp_path / "out", slices, file_format)
    with open_archive(archive) as whole:
        np.testing.assert_array_equal(read(output, file_format), whole[expected])
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_archive_leaves_nothing_and_does_not_stand_in_the_way(archive, damaged, tmp_path, file_format):
    output = tmp_path / "out" / "slices"
    output.parent.mkdir()
    with pytest.raises(ArchiveError, match="does not match its checksum"):
        extract(damaged, output, None, file_format)
    assert list(output.parent.iterdir()) == []
    extract(archive, output, None, file_format)
    assert len(read(output, file_format)) == SHAPE[0]
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("file_format", FORMATS)
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
    assert synced == [("slice.tiff", False), (".out.partial", False), (tmp_path.name, True)]


@pytest.mark.parametrize("file_format", FORMATS)
def test_nothing_is_replaced(archive, tmp_path, file_format):
    output = tmp_path / "out"
    output.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="out is there already: choose another -o"):
        extract(archive, output, None, file_format)
    assert output.read_bytes() == b"precious"
