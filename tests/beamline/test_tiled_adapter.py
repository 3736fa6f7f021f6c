from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from tiled.client.utils import ClientError
from tiled.ndslice import NDBlock, NDSlice

from quietbeam.beamline.publishing.tiled_adapter import KEPT_ARCHIVES, ArchiveAdapter, archive_source
from quietbeam.compress.archive import open_archive

from .finished_result import CHUNK_SLICES, MAX_ERROR, PIXEL_SIZE, write_volume_archive

SHAPE = (11, 20, 24)
DAMAGED_CHUNK = 1
GOOD, BAD = 2, CHUNK_SLICES * DAMAGED_CHUNK + 1
"""A slice of the first chunk, and one of the damaged one."""
INDICES: list[Any] = [
    (),
    (Ellipsis,),
    (3,),
    (slice(2, 9),),
    (slice(1, None, 3), 5),
    (Ellipsis, 7),
    (slice(None, None, -1), slice(3, 5), slice(0, 24, 2)),
    (-1, slice(4, 4)),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives 1") / "volume.h5"
    write_volume_archive(path, np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def volume(path: Path) -> np.ndarray:
    with open_archive(path) as archive:
        return archive[:]


@pytest.fixture(scope="module")
def damaged(path: Path) -> Path:
    """Flip one bit in a chunk in the middle."""
    with open_archive(path) as whole:
        payload = whole.read_part(sorted(name for name in whole.parts if name.startswith("chunk"))[DAMAGED_CHUNK])
    content = bytearray(path.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 1
    damaged = path.with_name("damaged.h5")
    damaged.write_bytes(content)
    return damaged


def adapter_of(path: Path) -> ArchiveAdapter:
    return ArchiveAdapter.from_uris(f"file://localhost{path}")


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_are_those_of_the_array(path, volume, index):
    np.testing.assert_array_equal(adapter_of(path).read(NDSlice(*index)), volume[index])


@pytest.mark.parametrize("index", [(), (0, slice(2, 5)), (slice(0, 1), 3)], ids=str)
def test_blocks_are_those_of_the_structure(path, volume, index):
    adapter = adapter_of(path)
    assert adapter.structure().chunks == ((1,) * 11, (20,), (24,))
    np.testing.assert_array_equal(adapter.read_block(NDBlock(7, 0, 0), NDSlice(*index)), volume[7:8][index])


def test_only_the_chunks_asked_for_are_decoded(damaged, volume):
    adapter = adapter_of(damaged)
    np.testing.assert_array_equal(adapter.read(NDSlice(GOOD)), volume[GOOD])
    np.testing.assert_array_equal(adapter.read_block(NDBlock(10, 0, 0)), volume[10:11])
    reads = (lambda: adapter.read(NDSlice(BAD)), adapter.read, lambda: adapter.read_block(NDBlock(BAD, 0, 0)))
    for read in reads:
        with pytest.raises(HTTPException, match="does not match its checksum") as caught:
            read()
        assert caught.value.status_code == 422


def test_archive_tells_what_it_is(path):
    adapter = adapter_of(path)
    assert adapter.metadata()["archive"]["max_error"] == MAX_ERROR
    assert adapter.metadata()["archive"]["pixel_size"] == PIXEL_SIZE
    assert adapter.structure().shape == SHAPE
    assert adapter.structure().data_type.to_numpy_dtype() == np.float32


def test_archive_stays_open_for_the_next_request_and_a_new_one_is_noticed(tmp_path, volume):
    path = tmp_path / "volume.h5"
    write_volume_archive(path, volume)
    first = adapter_of(path).read(NDSlice(0))
    assert adapter_of(path)._archive is adapter_of(path)._archive
    write_volume_archive(path, volume + np.float32(1))
    np.testing.assert_allclose(adapter_of(path).read(NDSlice(0)), first + 1, atol=2 * MAX_ERROR)


def test_few_archives_are_kept_and_little_of_each(tmp_path):
    paths = [tmp_path / f"{number}.h5" for number in range(KEPT_ARCHIVES + 1)]
    for path in paths:
        write_volume_archive(path, np.zeros((2, 4, 4), np.float32))
    opened = [adapter_of(path)._archive for path in paths]
    assert adapter_of(paths[-1])._archive is opened[-1]
    assert adapter_of(paths[0])._archive is not opened[0]


@pytest.fixture(scope="module")
def registered(tiled, path, damaged) -> Any:
    container = tiled.client.create_container("archives")
    for archive in (path, damaged):
        source = archive_source(archive)
        container.new(source.structure_family, [source], key=archive.stem, metadata={"sample": "foam"})
    return container


def test_client_reads_a_registered_archive_slice_by_slice(registered, volume):
    array = registered["volume"]
    assert (array.shape, array.dims, array.metadata["sample"]) == (SHAPE, ("slice", "y", "x"), "foam")
    np.testing.assert_array_equal(array[:], volume)
    for index in (3, (slice(2, 9), 4), (Ellipsis, 7), (slice(None, None, 2), slice(1, 3))):
        np.testing.assert_array_equal(array[index], volume[index])


def test_damaged_chunk_is_an_answer_of_the_server_not_its_end(tiled, registered, volume):
    array = registered["damaged"]
    for _ in range(2):
        with pytest.raises(ClientError, match=r"422: .*chunk000001 does not match"):
            array[BAD]
        np.testing.assert_array_equal(array[GOOD], volume[GOOD])
    assert httpx.get(f"{tiled.uri}/healthz").status_code == 200
