"""Archives written by version 0.1 decode for ever: the files in golden/ are never written again.

A new codec or format adds files of its own; `build_plain` and `build_crae` say how the present ones came about.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, verify_archive, write_archive
from quietbeam.compress.bitstream import varint
from quietbeam.compress.codec import codec
from quietbeam.compress.crae import CraeSettings
from quietbeam.compress.residual import encode_residual
from quietbeam.compress.training import CodecTrainer

from .volumes import foam

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (5, 33, 31)
MAX_ERROR = 0.01
TOLERANCE = {"plain": 0.0, "crae": 1e-5}
"""In the unit of the foam's range: the residual is decoded in integers, the convolutions of machines differ."""


def header(codec: str | None) -> ArchiveHeader:
    return ArchiveHeader(shape=SHAPE, codec=codec, max_error=MAX_ERROR, chunk_slices=3, metadata={"µ": [1, None, "x"]})


def build_plain(path: Path) -> None:
    """One chunk with an outlier stored as it is, one chunk stored exactly."""
    volume = foam(SHAPE, num_voids=8)
    volume[1, 2, 3] = 1e30
    payloads = [encode_chunk(None, volume[:3], MAX_ERROR), encode_chunk(None, volume[3:], 1e-12)]
    write_archive(path, payloads, header(None), b"")


def build_crae(path: Path) -> None:
    """Two chunks whose latents are kept, although they do not pay."""
    volume = foam(SHAPE, num_voids=8)
    settings = CraeSettings(width=4, latent_channels=8, crop_size=32, steps_per_epoch=100)
    trained = codec("crae").for_volume(volume, settings, seed=0)
    CodecTrainer(trained, volume, settings, seed=0).train_epoch(0)
    payloads = []
    for chunk in (volume[:3], volume[3:]):
        latents = trained.encode(chunk)
        residual, _ = encode_residual(chunk, trained.decode(latents, chunk.shape), MAX_ERROR)
        payloads.append(varint(len(latents)) + latents + residual)
    write_archive(path, payloads, header("crae"), trained.to_bytes())


@pytest.mark.parametrize("name", ["plain", "crae"])
def test_golden_archives_decode_to_the_same(name: str) -> None:
    expected = np.load(GOLDEN / f"{name}.npy")
    with open_archive(GOLDEN / f"{name}.h5") as archive:
        assert archive.metadata == {"µ": [1, None, "x"]}
        np.testing.assert_allclose(archive[:], expected, rtol=0, atol=TOLERANCE[name])
    assert verify_archive(GOLDEN / f"{name}.h5").ok


@pytest.mark.parametrize(("name", "build"), [("plain", build_plain), ("crae", build_crae)])
def test_todays_writer_keeps_the_error_of_the_golden_archives(
    name: str, build: Callable[[Path], None], tmp_path: Path
) -> None:
    build(tmp_path / "today.h5")
    with open_archive(tmp_path / "today.h5") as today:
        np.testing.assert_allclose(today[:], np.load(GOLDEN / f"{name}.npy"), rtol=0, atol=2 * MAX_ERROR)
