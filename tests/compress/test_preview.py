from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from quietbeam.compress import preview as preview_module
from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, verify_archive, write_archive
from quietbeam.compress.block_means import BlockMeans, reduced_shape
from quietbeam.compress.preview import PreviewMaker, read_preview
from quietbeam.reconstruction.errors import ArchiveError

from .test_golden import ARCHIVES
from .volumes import foam

SHAPE = (37, 61, 50)
MAX_ERROR = 0.01


def write(path: Path, volume: np.ndarray, max_error: float = MAX_ERROR, **metadata: Any) -> Path:
    header = ArchiveHeader(
        shape=volume.shape,
        dtype=volume.dtype.name,
        codec=None,
        max_error=max_error,
        chunk_slices=5,
        metadata={"name": "µ foam", **metadata},
    )
    chunks = (volume[start : start + 5] for start in range(0, len(volume), 5))
    write_archive(path, (encode_chunk(None, chunk, max_error) for chunk in chunks), header, b"")
    return path


def plain_means(volume: np.ndarray, factor: int) -> np.ndarray:
    """Block means by their definition."""
    blocks = np.ndindex(*reduced_shape(volume.shape, factor))
    window = [tuple(slice(factor * n, factor * (n + 1)) for n in block) for block in blocks]
    return np.array([volume[block].mean(dtype=float) for block in window]).reshape(reduced_shape(volume.shape, factor))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("archive") / "foam.h5", foam(SHAPE, num_voids=40), pixel_size=2e-6, unit="1/m")


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 10, 5), (1, 1, 9), (33, 3, 1)])
@pytest.mark.parametrize("chunk", [1, 3, 40])
def test_block_means_are_those_of_the_definition(shape: tuple[int, ...], chunk: int) -> None:
    volume = np.random.default_rng(0).random(shape)
    planes: list[list[np.ndarray]] = [[], [], []]
    means = BlockMeans(shape, 3, lambda level, plane: planes[level].append(plane))
    for start in range(0, shape[0], chunk):
        means.add(volume[start : start + chunk])
    means.finish()
    for level, got in enumerate(planes):
        # sums of at most 512 numbers below 1 in double precision
        np.testing.assert_allclose(np.stack(got), plain_means(volume, 2 << level), rtol=1e-13)


def test_a_preview_is_as_exact_as_the_volume(path: Path) -> None:
    with open_archive(path) as archive:
        preview = archive.preview()
        assert preview.dtype == np.float32
        assert archive.preview_factor is not None
        # rounded by at most half of a step, which is at most 2 max_error
        np.testing.assert_allclose(preview, plain_means(archive[:], archive.preview_factor), rtol=0, atol=MAX_ERROR)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_integers_have_a_preview_of_their_means(dtype: str, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(-100, 100, SHAPE).astype(dtype)
    with open_archive(write(tmp_path / "noise.h5", volume, max_error=0)) as archive:
        np.testing.assert_array_equal(archive[:], volume)
        assert archive.preview_factor is not None
        np.testing.assert_allclose(archive.preview(), plain_means(volume, archive.preview_factor), rtol=0, atol=0.5)


def test_a_viewer_finds_the_preview_and_its_axes(path: Path) -> None:
    with h5py.File(path) as file, open_archive(path) as archive:
        group, factor = file[file.attrs["default"].decode()], archive.preview_factor
        assert (group.attrs["NX_class"], group.attrs["signal"]) == (b"NXdata", b"data")
        assert group.attrs["title"].decode().startswith(f"µ foam: means over {factor} voxels")
        assert group["data"].attrs["units"] == b"1/m"
        assert h5py.check_string_dtype(group.attrs.get_id("title").dtype).encoding == "utf-8"
        np.testing.assert_array_equal(group["data"][:], archive.preview())
        for name, length in zip(group.attrs["axes"], group["data"].shape, strict=True):
            axis = group[name]
            expected = 2e-6 * ((factor - 1) / 2 + factor * np.arange(length))
            np.testing.assert_allclose(axis[:], expected, rtol=1e-12)  # one product and one sum
            assert (axis.attrs["units"], axis.attrs["offset"]) == (b"m", expected[0])
            assert axis.attrs["step"] == pytest.approx(2e-6 * factor)


@pytest.mark.parametrize("pixel_size", [None, "2 um", True, 0.0])
def test_without_a_pixel_size_the_axes_are_in_pixels(pixel_size: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", np.zeros((2, 3, 4), np.float32), pixel_size=pixel_size)
    with h5py.File(path) as file:
        assert file["preview/x"].attrs["units"] == b"pixel"
        assert file["preview/x"][0] == (file["preview/x"].attrs["step"] - 1) / 2


def test_texts_of_any_length_and_tongue_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", np.zeros((2, 3, 4), np.float32), unit="µ" * 10**5)
    with h5py.File(path) as file, open_archive(path) as archive:
        assert file["preview/data"].attrs["units"].decode() == "µ" * 400
        assert archive.metadata["unit"] == "µ" * 10**5
    path = write(tmp_path / "b.h5", np.zeros((2, 3, 4), np.float32), unit="")
    with h5py.File(path) as file:
        assert file["preview/data"].attrs["units"] == b" "


def chosen_factor(num_coded_bytes: int) -> int:
    volume = foam(SHAPE, num_voids=40)
    maker = PreviewMaker(ArchiveHeader(shape=SHAPE, codec=None, max_error=MAX_ERROR, chunk_slices=16))
    maker.add(volume)
    return maker.finish(num_coded_bytes).factor


def test_the_finest_preview_within_a_hundredth_is_stored() -> None:
    assert [chosen_factor(size) for size in (10**8, 600_000, 16_000, 0)] == [2, 4, 16, 32]


def test_reductions_that_are_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_module, "MOST_BYTES", 1000)
    assert chosen_factor(10**8) == 8


def test_a_damaged_preview_is_found_and_costs_only_itself(path: Path, tmp_path: Path) -> None:
    with h5py.File(path) as file:
        place = file["preview/data"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 5] ^= 1
    broken = tmp_path / "broken.h5"
    broken.write_bytes(content)
    with open_archive(broken) as archive:
        assert archive[0].shape == SHAPE[1:]
        with pytest.raises(ArchiveError, match="the preview does not match its checksum"):
            archive.preview()
    report = verify_archive(broken)
    assert report.num_chunks == 8
    assert len(report.damaged) == 1
    assert report.damaged[0].startswith("the preview: ")


def test_a_preview_of_more_bytes_than_the_file_is_refused(path: Path) -> None:
    with open_archive(path) as archive, h5py.File(path) as file:
        factor = archive.preview_factor or 0
        stored = read_preview(file, archive.header, factor, archive.num_bytes)
        assert read_preview(file, archive.header, factor, stored.num_bytes) == stored
        with pytest.raises(ArchiveError, match="plane 2 is missing, not deflated or larger than the file"):
            read_preview(file, archive.header, factor, stored.num_bytes - 1)


def replace_data(file: h5py.File, kind: str) -> None:
    values = file["preview/data"][:]
    del file["preview/data"]
    if kind == "contiguous":
        file["preview/data"] = values
    elif kind == "other type":
        file["preview/data"] = values.astype("f8")
    elif kind == "other filters":
        file.create_dataset("preview/data", data=values, chunks=(1, *values.shape[1:]), compression="lzf")
    elif kind == "not written":
        options: Any = {"chunks": (1, *values.shape[1:]), "shuffle": True, "compression": "gzip"}
        file.create_dataset("preview/data", values.shape, "<f4", **options)
    elif kind == "outside":
        file["preview/data"] = h5py.ExternalLink("elsewhere.h5", "/data")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *(("contiguous", "not stored plane by plane"), ("other type", "no float32 of shape")),
        *(("other filters", "not stored plane by plane"), ("not written", "plane 0 is missing")),
        *(("outside", "missing or a link"), ("missing", "missing or a link")),
    ],
)
def test_a_preview_stored_otherwise_is_refused(path: Path, tmp_path: Path, kind: str, message: str) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(other, "r+") as file:
        replace_data(file, kind)
    with open_archive(other) as archive, pytest.raises(ArchiveError, match=message):
        archive.preview()


def test_the_first_format_has_no_preview() -> None:
    with open_archive(ARCHIVES / "v1" / "plain.h5") as archive:
        assert archive.preview_factor is None
        with pytest.raises(ArchiveError, match="quietbeam-archive-1 has no preview"):
            archive.preview()
