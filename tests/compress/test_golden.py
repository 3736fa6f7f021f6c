"""Archives decode for ever: what is in archives/ is never written again; a new format or codec adds files of its own.

Each folder is a format: ``v1`` was written by version 0.1. Beside each archive lie its voxels as they were decoded when
it was written. `build` says how those of format 2 and 3 came about.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, verify_archive, write_archive
from quietbeam.compress.chunks import INEXACT_CODECS
from quietbeam.compress.codec import codec, known_codecs

from .volumes import foam

ARCHIVES = Path(__file__).parent / "archives"
PATHS = sorted(ARCHIVES.glob("*/*.h5"))
TOLERANCE = 1e-5
"""Of the range, for codecs whose convolutions differ between machines; others decode to the same bits."""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden_archives_decode_to_the_same(path: Path) -> None:
    expected = np.load(path.with_suffix(".npy"))
    with open_archive(path) as archive:
        assert archive.format == f"quietbeam-archive-{path.parent.name.removeprefix('v')}"
        assert archive.dtype == expected.dtype
        tolerance = TOLERANCE * np.ptp(expected) if archive.header.codec in INEXACT_CODECS else 0.0
        np.testing.assert_allclose(archive[:], expected, rtol=0, atol=tolerance)
    assert verify_archive(path).ok


@pytest.mark.parametrize("name", ["plain", "crae"])
def test_the_first_format_keeps_its_metadata(name: str) -> None:
    with open_archive(ARCHIVES / "v1" / f"{name}.h5") as archive:
        assert archive.metadata == {"µ": [1, None, "x"]}
        assert archive.shape == (5, 33, 31)


def test_no_archive_and_no_voxels_are_alone() -> None:
    assert {path.stem for path in (ARCHIVES / "v1").iterdir()} == {"plain", "crae"}
    assert {path.with_suffix(".npy") for path in PATHS} == set(ARCHIVES.glob("*/*.npy"))


SHAPE = (5, 33, 31)
OPTIONS: dict[str, dict[str, object]] = {
    "dcnn": {"epochs": 1, "batch_size": 2, "steps_per_epoch": 4, "crop_size": 32},
    "vqvae": {"epochs": 1, "batch_size": 2, "steps_per_epoch": 4, "crop_size": 32},
    "ae": {"epochs": 1, "width": 8, "steps_per_epoch": 4, "crop_size": 32},
    "cnn": {"epochs": 1, "width": 8, "steps_per_epoch": 4, "crop_size": 32},
    "dcae": {"epochs": 1, "width": 8, "steps_per_epoch": 4, "crop_size": 32},
    "crae2": {"epochs": 1, "width": 8, "steps_per_epoch": 4, "crop_size": 32},
    "inr": {"epochs": 2, "width": 10, "channels": 4},
}
"""How the learned codecs of the golden archives of format 2 were made: small, and hardly trained."""
DEPENDS_ON_LIBRARY = {"crae", "jpeg2000", "jpeg2000z", "jpegxl", "sperr", "sz3"}
"""Their decoders compute in floating point, with instructions that depend on the processor: no golden archives."""


def build(name: str, path: Path, decoders: Path | None = None) -> None:
    """Write an archive with the latents of a codec; `lattice-uint16` is one of integers, lossless.

    It is of format 2, or of format 3 where there is a folder for its decoder.
    """
    given = foam(SHAPE, num_voids=8)
    whole = name == "lattice-uint16"
    volume = np.rint(given * 20_000 + 1_000).clip(0, 65_535).astype(np.uint16) if whole else given
    fitted, state, max_error = None, b"", 0.0 if whole else 0.01
    if not name.startswith("lattice"):
        kind = codec(name)
        fitted = kind.fit(volume, kind.settings_type.model_validate(OPTIONS.get(name, {})))
        state = fitted.to_bytes()
    header = ArchiveHeader(
        shape=SHAPE,
        dtype=volume.dtype.name,  # type: ignore[arg-type]
        codec="lattice" if fitted is None else name,
        max_error=max_error,
        chunk_slices=3,
        metadata={"name": name},
    )
    chunks = [encode_chunk(fitted, part, max_error, keep_latents="always") for part in (volume[:3], volume[3:])]
    write_archive(path, chunks, header, state, decoders=decoders)


def test_every_codec_that_decodes_alike_everywhere_has_a_golden_archive() -> None:
    names = {path.stem for path in (ARCHIVES / "v2").glob("*.h5")}
    assert names == {"lattice-uint16", *known_codecs()} - DEPENDS_ON_LIBRARY


def test_todays_writer_gives_the_decoder_of_the_third_format(tmp_path: Path) -> None:
    build("dcnn", tmp_path / "dcnn.h5", tmp_path / "decoders")
    golden, today = (folder / "decoders" for folder in (ARCHIVES / "v3", tmp_path))
    stored = sorted(golden.iterdir())
    assert [file.stem for file in stored] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in stored]
    assert [len(file.read_bytes()) for file in today.iterdir()] == pytest.approx(
        [len(file.read_bytes()) for file in stored], rel=0.01
    )  # training may end with other last digits on another machine


@pytest.mark.parametrize("name", [*sorted(OPTIONS), "lattice", "lattice-uint16"])
def test_todays_writer_keeps_the_error_of_the_golden_archives(name: str, tmp_path: Path) -> None:
    build(name, tmp_path / "today.h5")
    with open_archive(tmp_path / "today.h5") as today, open_archive(ARCHIVES / "v2" / f"{name}.h5") as golden:
        assert today.header == golden.header
        np.testing.assert_allclose(today[:], golden[:], rtol=0, atol=2 * golden.header.max_error)
