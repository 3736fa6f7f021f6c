"""Archives decode for ever: what is in archives/ is never written again; a new format or codec adds files of its own.

Each folder is a format: ``v1`` was written by version 0.1. Beside each archive lie its voxels as they were decoded when
it was written. Adding a file needs no change here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quietbeam.compress.archive import open_archive, verify_archive
from quietbeam.compress.chunks import INEXACT_CODECS

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
