from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from pydantic import JsonValue, ValidationError

from quietbeam.compress.archive import (
    Archive,
    ArchiveHeader,
    encode_chunk,
    open_archive,
    verify_archive,
    write_archive,
)
from quietbeam.compress.archive_file import FORMAT, read_index, write_index
from quietbeam.compress.chunks import INEXACT_CODECS
from quietbeam.compress.codec import SliceSource, codec
from quietbeam.compress.crae import CraeSettings
from quietbeam.compress.training import CodecTrainer
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

MAX_ERROR = 0.01
SHAPE = (11, 40, 37)
SETTINGS = CraeSettings(width=4, latent_channels=8, batch_size=4, steps_per_epoch=5, crop_size=32, slices_per_epoch=4)
NUM_FLIPS = 200


def header_for(shape: tuple[int, ...], chunk_slices: int = 4, codec: str | None = "crae") -> ArchiveHeader:
    metadata: dict[str, JsonValue] = {"sample": "foam", "pixel_size": 1e-6}
    return ArchiveHeader(shape=shape, codec=codec, max_error=MAX_ERROR, chunk_slices=chunk_slices, metadata=metadata)


def write(path: Path, volume: np.ndarray, *, with_latents: bool = True, chunk_slices: int = 4) -> None:
    trained = codec("crae").for_volume(volume, SETTINGS, seed=0)
    header = header_for(volume.shape, chunk_slices)
    chunks = [volume[header.slices_of(i).start : header.slices_of(i).stop] for i in range(header.num_chunks)]
    used = trained if with_latents else None
    encoded = (encode_chunk(used, chunk, MAX_ERROR, keep_latents="always") for chunk in chunks)
    write_archive(path, encoded, header, trained.to_bytes())


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return foam(SHAPE, num_voids=20)


@pytest.fixture(scope="module")
def path(volume: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("archive") / "volume.h5"
    write(written, volume)
    return written


@pytest.fixture(scope="module")
def decoded(path: Path) -> np.ndarray:
    with open_archive(path) as archive:
        return archive[:]


def test_every_voxel_is_within_max_error(volume: np.ndarray, decoded: np.ndarray) -> None:
    assert decoded.dtype == np.float32
    assert np.abs(decoded.astype(np.float64) - volume).max() <= MAX_ERROR


def test_what_is_stored_beside_the_volume(path: Path) -> None:
    with open_archive(path) as archive:
        assert archive.shape == SHAPE
        assert len(archive) == SHAPE[0]
        assert archive.dtype == np.float32
        assert archive.metadata == {"sample": "foam", "pixel_size": 1e-6}
        assert archive.header == header_for(SHAPE)
        assert archive.bits_per_voxel == 8 * path.stat().st_size / np.prod(SHAPE)


@pytest.mark.parametrize(
    "index",
    [
        *(0, 10, -1, -11, slice(None), slice(3, 9), slice(None, None, 3), slice(None, None, -2), slice(9, 2, -3)),
        *(slice(5, 5), slice(-3, None), slice(0, 100), (2, 7), (2, slice(3, 9), slice(None, None, 5)), (-1, -1, -1)),
        *((slice(2, 9), 7), (slice(2, 9), slice(None), -3), (slice(1, 8, 2), ..., 4), (slice(4, 4), 3)),
        *(..., (..., 3), (2, ...), (..., 2, slice(None), 4), (slice(None, None, -1), slice(None, None, -7)), ()),
        *([3, 1, -1], np.array([0, 9, 9]), [], ([8, 2], slice(3, 5)), (np.int64(3), np.uint8(2))),
        *((slice(1, 9), [5, 2]), (slice(1, 9), [5, 2], [1, 1]), (4, slice(None), [2, 3])),
    ],
)
def test_an_index_gives_what_it_gives_on_the_array(path: Path, decoded: np.ndarray, index: Any) -> None:
    with open_archive(path) as archive:
        np.testing.assert_array_equal(archive[index], decoded[index])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.slices(SHAPE[0]), st.slices(SHAPE[1]))
def test_any_slices_give_what_they_give_on_the_array(
    path: Path, decoded: np.ndarray, slices: slice, rows: slice
) -> None:
    with open_archive(path) as archive:
        np.testing.assert_array_equal(archive[slices, rows], decoded[slices, rows])


def test_a_folder_is_refused_with_the_name_of_the_archive_in_it(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=rf"{tmp_path}: a folder; .* {tmp_path}/denoised\.h5"):
        open_archive(tmp_path)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        *((11, IndexError), (-12, IndexError), ([1, 11], IndexError), ((0, 0, 0, 0), IndexError)),
        *(((..., ...), IndexError), ((0, 40), IndexError), (1.0, TypeError), (None, TypeError), (True, TypeError)),
        *(([True] * 11, TypeError), ([[1]], TypeError), (([1, 2], [3, 4]), TypeError), ("slice", TypeError)),
    ],
)
def test_an_index_that_cannot_be_is_refused(path: Path, index: Any, error: type[Exception]) -> None:
    with open_archive(path) as archive, pytest.raises(error):
        archive[index]


def test_only_the_chunks_that_are_needed_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Archive.read_part
    monkeypatch.setattr(Archive, "read_part", lambda self, name: read.append(name) or original(self, name))
    with open_archive(path) as archive:
        archive[5], archive[6, 3:9], archive[4:8], archive[7:9]
        assert read == ["header", "chunk000001", "codec", "chunk000002"]
        archive.preview()
    assert len(read) == 4


def test_what_is_returned_may_be_changed(path: Path, decoded: np.ndarray) -> None:
    with open_archive(path) as archive:
        archive[1][:] = 99
        archive[0:3][:] = 99
        np.testing.assert_array_equal(archive[1], decoded[1])


def test_equal_input_gives_equal_bytes(path: Path, volume: np.ndarray, tmp_path: Path) -> None:
    time.sleep(1.1)
    write(tmp_path / "again.h5", volume)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_a_decoder_that_no_chunk_needs_is_not_stored(volume: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "plain.h5", volume, with_latents=False)
    with open_archive(tmp_path / "plain.h5") as archive:
        assert archive.read_part("codec") == b""
        assert np.abs(archive[:] - volume).max() <= MAX_ERROR
    assert verify_archive(tmp_path / "plain.h5", volume).ok


class RepeatedPattern:
    """A codec that knows a random pattern: its latents always pay."""

    name: ClassVar[str] = "pattern"
    network = torch.nn.Identity()
    num_parameters = 0

    @classmethod
    def for_volume(cls, source: SliceSource, settings: CraeSettings, seed: int) -> Self:
        return cls()

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        return cls()

    def to_bytes(self) -> bytes:
        return b"pattern"

    def encode(self, chunk: np.ndarray) -> bytes:
        return b"\0"

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(bitstream[0]).random(shape, np.float32)

    def loss(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.mean()


def test_latents_are_kept_only_where_they_pay(volume: np.ndarray) -> None:
    pattern = RepeatedPattern()
    known = pattern.decode(b"\0", (4, 40, 37))
    assert encode_chunk(pattern, known, MAX_ERROR).num_latent_bytes == 1
    assert encode_chunk(pattern, volume[:4], MAX_ERROR).num_latent_bytes == 0
    assert encode_chunk(pattern, known, MAX_ERROR, state_bytes_per_voxel=4.0).num_latent_bytes == 0


def test_an_encoded_chunk_tells_its_cost_and_error(volume: np.ndarray) -> None:
    encoded = encode_chunk(None, volume[:4], MAX_ERROR)
    assert len(encoded.payload) == 1 + encoded.num_latent_bytes + encoded.num_residual_bytes
    assert 0 < encoded.largest_error <= MAX_ERROR
    assert 0 < encoded.sum_squared_error <= volume[:4].size * encoded.largest_error**2


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3), (3, 3)])
def test_chunks_without_voxels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have the axes"):
        encode_chunk(None, np.zeros(shape, np.float32), MAX_ERROR)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 50), (1, 33, 2)])
def test_small_volumes_come_back(shape: tuple[int, int, int], tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random(shape, np.float32)
    write(tmp_path / "small.h5", volume)
    assert verify_archive(tmp_path / "small.h5", volume).ok


def test_verification_of_a_good_archive(path: Path, volume: np.ndarray) -> None:
    report = verify_archive(path, volume)
    assert report.ok
    assert report.num_chunks == 3
    assert report.num_bytes == path.stat().st_size
    assert report.largest_error is not None
    assert 0 < report.largest_error <= MAX_ERROR
    assert verify_archive(path).largest_error is None


def test_verification_finds_a_voxel_that_is_off(path: Path, volume: np.ndarray) -> None:
    other = volume.copy()
    other[5, 3, 3] += 0.5
    report = verify_archive(path, other)
    assert report.num_chunks == 2
    assert len(report.damaged) == 1
    assert report.damaged[0].startswith("chunk 1 (slices 4 to 7): off by up to 0.5")


def test_verification_names_the_damaged_chunk(path: Path, tmp_path: Path) -> None:
    with open_archive(path) as archive:
        payload = archive.read_part("chunk000002")
    broken = tmp_path / "broken.h5"
    broken.write_bytes(path.read_bytes().replace(payload, payload[:-1] + bytes([payload[-1] ^ 1])))
    report = verify_archive(broken)
    assert report.num_chunks == 2
    assert len(report.damaged) == 1
    assert "chunk 2 (slices 8 to 10)" in report.damaged[0]
    with open_archive(broken) as archive:
        assert archive[3].shape == SHAPE[1:]
        with pytest.raises(ArchiveError, match="does not match its checksum"):
            archive[9]


def outcome(path: Path) -> np.ndarray | None:
    """Decode everything; None if it is reported as damaged."""
    try:
        with open_archive(path) as archive:
            return np.concatenate([archive[:].ravel(), [len(archive.metadata), *archive.shape]])
    except ArchiveError:
        return None


def test_a_flipped_bit_is_never_silent(path: Path, tmp_path: Path) -> None:
    good, reference = path.read_bytes(), outcome(path)
    rng = np.random.default_rng(0)
    found = 0
    for place, bit in zip(rng.integers(len(good), size=NUM_FLIPS), rng.integers(8, size=NUM_FLIPS), strict=True):
        flipped = bytearray(good)
        flipped[place] ^= 1 << bit
        (tmp_path / "flipped.h5").write_bytes(flipped)
        got = outcome(tmp_path / "flipped.h5")
        if got is None:
            found += 1
        else:
            np.testing.assert_array_equal(got, reference)
    assert found > NUM_FLIPS / 2  # the others lie in parts of the HDF5 structure that hold nothing


def test_a_truncated_file_raises(path: Path, tmp_path: Path) -> None:
    good = path.read_bytes()
    for length in [0, 1, 8, 100, *np.linspace(200, len(good) - 1, 30).astype(int)]:
        (tmp_path / "cut.h5").write_bytes(good[:length])
        with pytest.raises(ArchiveError, match=r"cut\.h5"):
            open_archive(tmp_path / "cut.h5")
        assert not verify_archive(tmp_path / "cut.h5").ok


def swap_chunks(file: h5py.File) -> None:
    file.move("chunk000000", "kept")
    file.move("chunk000001", "chunk000000")
    file.move("kept", "chunk000001")


def link_outside(file: h5py.File) -> None:
    del file["chunk000000"]
    file["chunk000000"] = h5py.ExternalLink("elsewhere.h5", "/chunk000000")


def store_outside(file: h5py.File) -> None:
    size = file["chunk000000"].size
    del file["chunk000000"]
    file.create_dataset("chunk000000", (size,), np.uint8, external=[("elsewhere.raw", 0, size)])


def map_outside(file: h5py.File) -> None:
    size = file["chunk000000"].size
    del file["chunk000000"]
    layout = h5py.VirtualLayout((size,), np.uint8)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (size,))
    file.create_virtual_dataset("chunk000000", layout)


def declare_a_bomb(file: h5py.File) -> None:
    del file["chunk000000"]
    file.create_dataset("chunk000000", (2**40,), np.uint8, chunks=(2**20,), compression="gzip")


def declare_unwritten_bytes(file: h5py.File) -> None:
    del file["chunk000000"]
    file.create_dataset("chunk000000", (2**40,), np.uint8)


def remove_chunk(file: h5py.File) -> None:
    del file["chunk000000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_chunks, "does not match its checksum"),
        (link_outside, "missing or a link"),
        (store_outside, "not stored as plain bytes"),
        (map_outside, "not stored as plain bytes"),
        (declare_a_bomb, "not stored as plain bytes"),
        (declare_unwritten_bytes, "declares 1099511627776 bytes in a file of"),
        (remove_chunk, "missing or a link"),
    ],
)
def test_hostile_changes_are_refused(
    path: Path, tmp_path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(path.read_bytes())
    with h5py.File(hostile, "r+") as file:
        change(file)
    with open_archive(hostile) as archive, pytest.raises(ArchiveError, match=message):
        archive[0]
    assert "chunk 0 (slices 0 to 3)" in verify_archive(hostile).damaged[0]


def test_another_hdf5_file_is_no_archive(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = np.zeros((2, 3, 4))
        file.attrs["format"] = "vlen text of a stranger"
    with pytest.raises(ArchiveError, match=r"scan\.h5: is no quietbeam archive"):
        open_archive(tmp_path / "scan.h5")


def test_a_newer_format_is_named(path: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.h5"
    newer.write_bytes(path.read_bytes())
    with h5py.File(newer, "r+") as file:
        file.attrs["format"] = np.bytes_("quietbeam-archive-9")
    with pytest.raises(ArchiveError, match="-1, quietbeam-archive-2 or quietbeam-archive-3, got quietbeam-archive-9"):
        open_archive(newer)


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 2**16, 2**16), (2**21, 1, 1), (-1, 5, 5)])
def test_headers_that_ask_for_too_much_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValidationError, match=r"shape must be positive|a chunk may have at most"):
        header_for(shape)


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    for read in (open_archive, verify_archive):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.h5")


@pytest.mark.parametrize("count", [2, 4])
def test_a_wrong_number_of_payloads_leaves_the_old_file(path: Path, tmp_path: Path, count: int) -> None:
    target = tmp_path / "volume.h5"
    target.write_bytes(b"what was there")
    encoded = [encode_chunk(None, np.zeros((size, *SHAPE[1:]), np.float32), MAX_ERROR) for size in (4, 4, 3, 4)]
    with pytest.raises(ValueError, match=f"needs 3 payloads, got {count}"):
        write_archive(target, encoded[:count], header_for(SHAPE), b"")
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


def test_bytes_without_the_checksum_of_their_voxels_are_refused(tmp_path: Path) -> None:
    payload = encode_chunk(None, np.zeros(SHAPE, np.float32), MAX_ERROR).payload
    with pytest.raises(TypeError, match="must come with the CRC-32 of its voxels"):
        write_archive(tmp_path / "volume.h5", [payload], header_for(SHAPE, 16), b"")  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_that_decodes_to_other_voxels_is_not_written(volume: np.ndarray, tmp_path: Path) -> None:
    encoded = encode_chunk(None, volume, MAX_ERROR)
    other = dataclasses.replace(encoded, crc32=encode_chunk(None, volume + 1, MAX_ERROR).crc32)
    with pytest.raises(ArchiveError, match=r"chunk 0 \(slices 0 to 10\) decodes to other voxels than were encoded"):
        write_archive(tmp_path / "volume.h5", [other], header_for(SHAPE, 16), b"")
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_that_gives_other_voxels_is_found(volume: np.ndarray, tmp_path: Path) -> None:
    """The stored bytes are whole: only the checksum of the voxels can tell."""
    write(tmp_path / "plain.h5", volume, with_latents=False)
    with h5py.File(tmp_path / "plain.h5", "r+") as file:
        index = read_index(file, FORMAT, 10**6)
        crc32 = (index["chunk000001"].crc32 or 0) ^ 1
        del file["index"]
        write_index(file, index | {"chunk000001": index["chunk000001"].model_copy(update={"crc32": crc32})})
    with open_archive(tmp_path / "plain.h5") as archive:
        assert archive[3].shape == SHAPE[1:]
        with pytest.raises(ArchiveError, match=r"chunk 1 \(slices 4 to 7\) decodes to other voxels than were written"):
            archive[4]
    assert len(verify_archive(tmp_path / "plain.h5").damaged) == 1


def test_only_codecs_that_differ_between_machines_go_without_the_checksum(path: Path) -> None:
    with open_archive(path) as archive, h5py.File(path) as file:
        assert archive.header.codec in INEXACT_CODECS
        assert all(entry.crc32 is None for entry in read_index(file, FORMAT, 10**6).values())


def test_header_and_index_are_read_by_people(path: Path) -> None:
    with h5py.File(path) as file:
        assert '"max_error": 0.01,\n' in file["header"].asstr()[()]
        assert '"chunk000001": {"bytes": ' in file["index"].asstr()[()]
        assert (file.attrs["NX_class"], file.attrs["default"]) == (b"NXroot", b"preview")


def test_a_failure_while_payloads_are_made_leaves_nothing(tmp_path: Path) -> None:
    def payloads() -> Any:
        yield encode_chunk(None, np.zeros((4, *SHAPE[1:]), np.float32), MAX_ERROR)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "volume.h5", payloads(), header_for(SHAPE), b"")
    assert list(tmp_path.iterdir()) == []


def test_comparing_with_another_shape_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="has the shape"):
        verify_archive(path, np.zeros((2, 2, 2), np.float32))


def test_denoised_foam_takes_less_than_a_bit_per_voxel(tmp_path: Path) -> None:
    volume = foam((32, 160, 160), num_voids=70)
    max_error = 0.01 * float(np.ptp(volume))
    settings = CraeSettings(steps_per_epoch=10)
    trained = codec("crae").for_volume(volume, settings, seed=0)
    CodecTrainer(trained, volume, settings, seed=0).train_epoch(0)
    header = header_for(volume.shape, 16).model_copy(update={"max_error": max_error})
    payloads = [encode_chunk(trained, volume[start : start + 16], max_error) for start in (0, 16)]
    write_archive(tmp_path / "foam.h5", payloads, header, trained.to_bytes())
    assert verify_archive(tmp_path / "foam.h5", volume).ok
    with open_archive(tmp_path / "foam.h5") as archive:
        assert archive.bits_per_voxel < 1.0


def test_a_chunk_further_off_than_the_header_promises_is_refused(tmp_path: Path) -> None:
    volume = foam(SHAPE, num_voids=8)
    header = ArchiveHeader(shape=SHAPE, codec=None, max_error=MAX_ERROR / 100, chunk_slices=SHAPE[0])
    with pytest.raises(ValueError, match=r"is off by up to .*, the header promises 0\.0001"):
        write_archive(tmp_path / "lie.h5", [encode_chunk(None, volume, MAX_ERROR)], header, b"")
    assert not list(tmp_path.iterdir())


def test_a_closed_archive_says_so(path: Path) -> None:
    with open_archive(path) as archive:
        archive[0]
    with pytest.raises(ValueError, match=r"is closed: open it again"):
        archive[0]
