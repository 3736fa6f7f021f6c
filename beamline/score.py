"""How near a result is to a known truth: for simulated scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import ArchiveError, ReductionError
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, available_reconstructors, circle

from .bad_projections import find_bad_projections
from .geometry import choose_geometry
from .manifest import read_manifest
from .scan import Scan, open_scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, clean_sinograms
from .workspace import ARCHIVE, MANIFEST

__all__ = ["score_against_truth"]

CHUNK = 8


class _Source(NamedTuple):
    """What the result was made from."""

    scan: Scan
    rotation_axis: float
    settings: ReductionSettings


def score_against_truth(output: Path, truth: Path) -> dict[str, float]:
    """Measure the archive and plain reconstructions of the same scan against a known volume.

    Parameters
    ----------
    output : Path
        Output folder of `quietbeam reduce`.
    truth : Path
        ``.npy`` file, float32, shape (slice, y, x), in the unit of the archive.

    Returns
    -------
    dict
        PSNR in decibel inside the circle, range of the truth as the peak, inf for no error: ``archive`` (the denoised
        volume as archived), and each reconstruction method from all projections.

    Raises
    ------
    ArchiveError
        If the output has no manifest, or the manifest or the archive is damaged.
    ReductionError
        If the shapes differ, or the scan is no longer where it was.
    ScanError
        If the scan cannot be read.
    """
    source = _open_source(output / MANIFEST)
    volume = _load_truth(truth)
    inside = circle(volume.shape[-1]) > 0
    errors = dict.fromkeys(("archive", *available_reconstructors()), 0.0)
    with open_archive(output / ARCHIVE) as archive:
        if archive.shape != volume.shape:
            raise ReductionError(f"{truth}: shape {volume.shape}, but the archive has {archive.shape}")
        for start in range(0, len(volume), CHUNK):
            rows = slice(start, min(start + CHUNK, len(volume)))
            right = volume[rows][:, inside]
            for name, slices in {"archive": archive[rows], **_reconstruct(source, rows, archive.shape[-1])}.items():
                errors[name] += float(np.square(slices[:, inside] - right, dtype=np.float64).sum())
    peak = float(volume.max() - volume.min())
    count = len(volume) * int(inside.sum())
    # One voxel that is off by the root mean square error has the mean square error of the whole volume.
    return {name: psnr(np.zeros(1), np.sqrt([error / count]), data_range=peak) for name, error in errors.items()}


def _open_source(manifest_path: Path) -> _Source:
    manifest = read_manifest(manifest_path)
    try:
        path, axis = Path(manifest["input"]["path"]), float(manifest["rotation_axis"])
        settings = ReductionSettings.model_validate(manifest["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"{manifest_path}: expected the scan's path, its rotation axis and the settings of this version, got "
            f"{_in_one_line(error)}: reduce the scan again"
        ) from error
    if not path.exists():
        raise ReductionError(f"{path}: the scan of {manifest_path.parent} has gone: put it back there to compare")
    scan = open_scan(path, settings.scan)
    return _Source(scan.without(*find_bad_projections(scan)), axis, settings)


def _in_one_line(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return repr(error)
    faults = ((".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors())
    return "; ".join(f"settings.{name}: {message}" for name, message in faults)


def _reconstruct(source: _Source, rows: slice, slice_size: int) -> dict[str, NDArray[np.float32]]:
    """Reconstruct some rows from all projections with each method that is here."""
    scan, settings = source.scan, source.settings
    threads = settings.compute.threads or 1
    sinograms, _ = clean_sinograms(scan, rows, SinogramSettings.of(settings), num_threads=threads)
    joined = slice_size > scan.num_columns  # as the reduction found
    geometry = choose_geometry(scan, source.rotation_axis, settings, sees_beyond=joined)
    whole = replace(geometry, sections=[np.arange(scan.num_projections)])
    slices = {}
    for name in available_reconstructors():
        method = ReconstructionSettings(method=name, filter=settings.reconstruction.filter)
        slices[name] = whole.reconstruct(sinograms, method, pixel_size=scan.pixel_size, num_threads=1)[:, 0]
    return slices


def _load_truth(path: Path) -> NDArray[np.float32]:
    try:
        volume: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ReductionError(f"{path}: cannot be read as a .npy file of the true volume ({error})") from error
    return volume
