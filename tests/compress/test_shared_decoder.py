"""Archives that share a decoder: found where it should be, taken only by its hash, put back into an archive at will."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.archive import (
    ArchiveHeader,
    EncodedChunk,
    embed_decoder,
    encode_chunk,
    open_archive,
    verify_archive,
    write_archive,
)
from quietbeam.compress.archive_file import FORMAT, FORMAT_APART, IndexEntry, write_index
from quietbeam.compress.codec import codec
from quietbeam.compress.shared_decoder import DECODERS, ENVIRONMENT, LEVELS_UP, MOST_BYTES, find_decoder, store_decoder
from quietbeam.reconstruction.errors import ArchiveError, DecoderError

from .volumes import foam

SHAPE = (5, 33, 31)
VOLUME = foam(SHAPE, num_voids=8)
HEADER = ArchiveHeader(shape=SHAPE, codec="dcnn", max_error=0.01, chunk_slices=3, metadata={"unit": "1/m"})


@cache
def coded() -> tuple[list[EncodedChunk], bytes]:
    """Chunks and decoder of a codec that has hardly learned."""
    options = {"epochs": 1, "batch_size": 2, "steps_per_epoch": 2, "crop_size": 32}
    kind = codec("dcnn")
    fitted = kind.fit(VOLUME, kind.settings_type.model_validate(options))
    parts = (VOLUME[:3], VOLUME[3:])
    return [encode_chunk(fitted, part, 0.01, keep_latents="always") for part in parts], fitted.to_bytes()


def write(path: Path, decoders: Path | None = None) -> Path:
    chunks, state = coded()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_archive(path, chunks, HEADER, state, decoders=decoders)
    return path


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The file of the decoder, of ``series/a/denoised.h5``."""
    write(tmp_path / "series" / "a" / "denoised.h5", tmp_path / "series" / DECODERS)
    (path,) = (tmp_path / "series" / DECODERS).iterdir()
    return path


def archive_of(stored: Path) -> Path:
    return stored.parent.parent / "a" / "denoised.h5"


def test_archives_share_one_decoder_and_decode_as_if_each_held_it(stored: Path, tmp_path: Path) -> None:
    other, own = write(stored.parent.parent / "b" / "denoised.h5", stored.parent), write(tmp_path / "own.h5")
    assert list(stored.parent.iterdir()) == [stored]
    assert stored.stem == hashlib.sha256(stored.read_bytes()).hexdigest()
    with open_archive(other) as apart, open_archive(own) as whole:
        assert (apart.format, whole.format) == (FORMAT_APART, FORMAT)
        assert (apart.shares_decoder, whole.shares_decoder) == (True, False)
        np.testing.assert_array_equal(apart[:], whole[:])
        np.testing.assert_array_equal(apart.preview(), whole.preview())
        assert apart.read_part("codec") == whole.read_part("codec") == coded()[1]
        assert whole.num_bytes - apart.num_bytes >= len(coded()[1])
    assert verify_archive(other, VOLUME).ok
    with h5py.File(other) as file:
        assert "codec" not in file


def test_an_archive_with_its_decoder_put_back_is_the_one_that_always_held_it(stored: Path, tmp_path: Path) -> None:
    embed_decoder(archive_of(stored), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == write(tmp_path / "own.h5").read_bytes()
    with pytest.raises(ValueError, match=r"own\.h5: holds its decoder already \(quietbeam-archive-2\)"):
        embed_decoder(tmp_path / "own.h5", tmp_path / "third.h5")
    with pytest.raises(FileExistsError, match=r"own\.h5 is there already"):
        embed_decoder(archive_of(stored), tmp_path / "own.h5")
    stored.unlink()
    with pytest.raises(DecoderError, match="is missing"):
        embed_decoder(archive_of(stored), tmp_path / "third.h5")
    assert not list(tmp_path.glob("third*"))


def test_an_archive_whose_chunks_need_no_decoder_refers_to_none(tmp_path: Path) -> None:
    header = HEADER.model_copy(update={"codec": None})
    write_archive(
        tmp_path / "x.h5",
        [encode_chunk(None, VOLUME, 0.01)],
        header.model_copy(update={"chunk_slices": 5}),
        b"state",
        decoders=tmp_path / DECODERS,
    )
    with open_archive(tmp_path / "x.h5") as archive:
        assert archive.format == FORMAT
    assert not (tmp_path / DECODERS).exists()
    with pytest.raises(ValueError, match=r"x\.h5: needs no decoder \(quietbeam-archive-2\)"):
        embed_decoder(tmp_path / "x.h5", tmp_path / "y.h5")


@pytest.mark.parametrize("levels", range(LEVELS_UP + 2))
def test_the_decoder_is_looked_for_beside_the_archive_and_above(stored: Path, tmp_path: Path, levels: int) -> None:
    moved = tmp_path.joinpath("series", *"123456"[:levels], "denoised.h5")
    moved.parent.mkdir(parents=True, exist_ok=True)
    archive_of(stored).rename(moved)
    assert verify_archive(moved, VOLUME).ok == (levels <= LEVELS_UP)


def test_the_decoder_is_looked_for_where_one_says(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, elsewhere = archive_of(stored), tmp_path / "far" / "away"
    elsewhere.mkdir(parents=True)
    stored.rename(elsewhere / stored.name)
    message = rf"denoised\.h5: {stored.name} is missing; looked in .*a/decoders, .*series/decoders, .*: put a copy"
    with open_archive(archive) as lost, pytest.raises(DecoderError, match=message):
        lost[0]
    with open_archive(archive, decoders=[elsewhere]) as found:
        again = copy.copy(found)  # opened anew, as in another process
        np.testing.assert_array_equal(found[:], again[:])
        again.close()
    monkeypatch.setenv(ENVIRONMENT, os.pathsep.join(["", str(tmp_path / "none"), str(elsewhere)]))
    assert verify_archive(archive, VOLUME).ok
    (tmp_path / "link.h5").symlink_to(archive)
    monkeypatch.delenv(ENVIRONMENT)
    (elsewhere / stored.name).rename(stored)
    assert verify_archive(tmp_path / "link.h5", VOLUME).ok


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "has another hash than its name"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, expected a file of \d+"),
        (lambda path: (path.unlink(), path.mkdir()), "expected a file of"),
        (lambda path: path.unlink(), "is missing; looked in"),
    ],
    ids=["changed", "cut", "folder", "missing"],
)
def test_the_decoder_is_the_unit_that_is_damaged(stored: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(stored)
    for against in (None, VOLUME):
        found = verify_archive(archive_of(stored), against)
        assert len(found.damaged) == 1
        assert found.num_chunks == 0
        assert found.damaged[0].startswith("the codec's decoder: ")
    with open_archive(archive_of(stored)) as archive:
        with pytest.raises(DecoderError, match=message):
            archive[0]
        assert archive.preview().size  # needs none


def test_a_whole_copy_serves_though_a_nearer_one_is_damaged(stored: Path) -> None:
    nearer = archive_of(stored).parent / DECODERS
    nearer.mkdir()
    (nearer / stored.name).write_bytes(b"x" * stored.stat().st_size)
    assert verify_archive(archive_of(stored), VOLUME).ok


def test_a_damaged_decoder_is_replaced_when_it_is_stored_again(stored: Path) -> None:
    whole = stored.read_bytes()
    stored.write_bytes(b"x" * len(whole))
    assert store_decoder(whole, stored.parent) == stored
    assert stored.read_bytes() == whole
    before = stored.stat()
    store_decoder(whole, stored.parent)
    assert stored.stat().st_ino == before.st_ino  # left alone


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": "../../secret", "num_bytes": 5},
        {"sha256": "A" * 64, "num_bytes": 5},
        {"sha256": "0" * 65, "num_bytes": 5},
        {"sha256": "0" * 64, "num_bytes": 0},
        {"sha256": "0" * 64, "num_bytes": MOST_BYTES + 1},
    ],
)
def test_an_index_that_names_no_decoder_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    with pytest.raises(ArchiveError, match="refers to a decoder of") as caught:
        find_decoder(IndexEntry.model_validate(entry), tmp_path / "x.h5")
    assert not isinstance(caught.value, DecoderError)


def test_a_larger_file_than_the_index_says_is_not_read(stored: Path) -> None:
    with stored.open("r+b") as file:
        file.truncate(2**40)  # sparse: reading it would take all memory
    assert "bytes, expected a file of" in verify_archive(archive_of(stored)).damaged[0]


def test_a_decoder_of_other_bytes_is_never_taken(stored: Path, tmp_path: Path) -> None:
    """Also not if the index is made to name it: then the archive's own checksum of the index does not fit."""
    archive, other = archive_of(stored), store_decoder(b"another decoder", stored.parent)
    with h5py.File(archive, "r+") as file, open_archive(write(tmp_path / "own.h5")) as own:
        entries = {name: own.entry(name) for name in own.parts} | {"codec": IndexEntry.of(other.read_bytes())}
        del file["index"]
        write_index(file, entries, FORMAT_APART)
    found = verify_archive(archive)  # whoever changes the index too is no damage but a forger: no decoder, no voxels
    assert found.num_chunks == 0
    assert "dcnn" in found.damaged[0]


@settings(max_examples=40, deadline=None)
@given(state=st.binary(min_size=1, max_size=200), other=st.binary(min_size=1, max_size=200))
def test_what_is_stored_is_found_and_nothing_else_under_its_name(state: bytes, other: bytes) -> None:
    with TemporaryDirectory() as folder:
        archive, entry = Path(folder) / "x.h5", IndexEntry.of(state)
        path = store_decoder(state, Path(folder) / DECODERS)
        assert find_decoder(entry, archive) == state
        path.write_bytes(other)
        if other != state:
            with pytest.raises(DecoderError, match="is damaged"):
                find_decoder(entry, archive)
        assert store_decoder(state, path.parent).read_bytes() == find_decoder(entry, archive) == state
        assert list(path.parent.iterdir()) == [path]


def test_many_processes_store_one_decoder(tmp_path: Path) -> None:
    state = bytes(range(256)) * 1000
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        paths = set(pool.map(store_decoder, [state] * 12, [tmp_path / "new" / DECODERS] * 12))
    assert len(paths) == 1
    assert list((tmp_path / "new" / DECODERS).iterdir()) == list(paths)
    assert paths.pop().read_bytes() == state
