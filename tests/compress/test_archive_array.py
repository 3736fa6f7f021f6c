"""An archive is read like an array: by numpy, by dask, by threads and by other processes."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quietbeam.compress.archive import Archive, ArchiveHeader, encode_chunk, open_archive, write_archive
from quietbeam.compress.chunk_cache import ChunkCache

SHAPE = (23, 18, 15)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, SHAPE, np.uint16)


@pytest.fixture(scope="module")
def path(volume: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("archive") / "volume.h5"
    header = ArchiveHeader(shape=SHAPE, dtype="uint16", codec=None, max_error=0, chunk_slices=4)
    chunks = (volume[start : start + 4] for start in range(0, SHAPE[0], 4))
    write_archive(written, (encode_chunk(None, chunk, 0) for chunk in chunks), header, b"")
    return written


def test_an_archive_has_what_an_array_has(path: Path, volume: np.ndarray) -> None:
    with open_archive(path) as archive:
        for name in ("shape", "dtype", "ndim", "size", "nbytes"):
            assert getattr(archive, name) == getattr(volume, name)
        assert len(archive) == len(volume)
        assert archive.chunks == (4, *SHAPE[1:])


def test_numpy_takes_an_archive(path: Path, volume: np.ndarray) -> None:
    with open_archive(path) as archive:
        np.testing.assert_array_equal(np.asarray(archive), volume)
        as_float = np.array(archive, np.float64)
        assert as_float.dtype == np.float64
        np.testing.assert_array_equal(as_float, volume)
        assert np.mean(archive) == volume.mean()
        with pytest.raises(ValueError, match="copy=False cannot be"):
            np.asarray(archive, copy=False)


def test_dask_takes_an_archive(path: Path, volume: np.ndarray) -> None:
    dask_array = pytest.importorskip("dask.array")
    with open_archive(path) as archive, open_archive(path) as again:
        lazy = dask_array.from_array(archive, chunks=archive.chunks)
        assert lazy.chunks[0] == (4, 4, 4, 4, 4, 3)
        assert lazy.name == dask_array.from_array(again, chunks=again.chunks).name
        np.testing.assert_array_equal(lazy[5:19:3, ::-1].compute(scheduler="threads"), volume[5:19:3, ::-1])
        assert lazy.sum().compute(scheduler="threads") == volume.sum()


def test_a_copy_opens_the_file_again(path: Path, volume: np.ndarray) -> None:
    """What is sent to another process is made in the same way."""
    with open_archive(path) as archive:
        again = copy.copy(archive)
    with again:
        np.testing.assert_array_equal(again[-1], volume[-1])


@pytest.mark.parametrize("cache_bytes", [0, 5000, 10**6])
def test_threads_read_what_one_reads(path: Path, volume: np.ndarray, cache_bytes: int) -> None:
    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        bounds = [np.sort(rng.integers(0, size + 1, 2)) for size in SHAPE]
        window = tuple(slice(int(start), int(stop)) for start, stop in bounds)
        return np.array_equal(archive[window], volume[window])

    with open_archive(path, cache_bytes=cache_bytes) as archive, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_chunks_are_kept_up_to_a_number_of_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Archive.read_part
    monkeypatch.setattr(Archive, "read_part", lambda self, name: read.append(name) or original(self, name))
    with open_archive(path, cache_bytes=2 * 4 * 18 * 15 * 2) as archive:
        read.clear()
        for index in (0, 4, 1, 8, 2, 5):
            archive[index]
    assert read == [f"chunk{chunk:06d}" for chunk in (0, 1, 2, 1)]


def test_the_last_chunk_is_kept_in_any_case() -> None:
    cache, decoded = ChunkCache(0), []
    for chunk in (0, 0, 1, 1, 0):
        cache.get(chunk, lambda n: decoded.append(n) or np.zeros(9))
    assert decoded == [0, 1, 0]


def test_a_chunk_that_failed_is_tried_again() -> None:
    def fail(chunk: int) -> np.ndarray:
        raise OSError(f"chunk {chunk}")

    cache = ChunkCache(100)
    with pytest.raises(OSError, match="chunk 3"):
        cache.get(3, fail)
    assert len(cache.get(3, lambda n: np.zeros(n))) == 3
