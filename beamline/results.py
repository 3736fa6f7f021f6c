"""What a finished reduction shows: pictures, curves and numbers for the report, from the stages' results."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np

from quietbeam.noise2inverse.pairs import held_out_group
from quietbeam.reconstruction.resolution import FRC, fourier_ring_correlation

from .atomic import file_sha256
from .fit_section import fit_section
from .held_out import THRESHOLD, finest_period
from .pipeline import Reduction
from .report import (
    HeadlineFigure,
    LossCurve,
    OutputFile,
    Report,
    ResolutionCurve,
    SlicePair,
    StageTime,
)
from .workspace import ARCHIVE, DISAGREEMENT, NETWORK

__all__ = ["held_out_resolution", "make_report", "manifest_content", "numbers"]

_LIBRARIES = ("algotom", "astra-toolbox", "finufft", "h5py", "numpy", "scipy", "torch")


def numbers(reduction: Reduction) -> dict[str, float]:
    """Sum up what the archive costs and holds.

    Parameters
    ----------
    reduction : Reduction
        After `Reduction.run`.

    Returns
    -------
    dict
        ``archive_bytes``, ``volume_bytes`` (as float32), ``bits_per_voxel``, ``psnr`` (archive against denoised volume,
        decibel), ``max_error``, ``largest_error`` and ``noise`` (in the volume's unit).
    """
    voxels = math.prod(reduction.slices.shape)
    archive_bytes = (reduction.workspace.output / ARCHIVE).stat().st_size
    squared = sum(record["sum_squared_error"] for record in reduction.payloads.records) / voxels
    span = reduction.denoised.range[1] - reduction.denoised.range[0]
    exact = squared == 0 or span == 0
    return {
        "archive_bytes": archive_bytes,
        "volume_bytes": 4 * voxels,
        "bits_per_voxel": 8 * archive_bytes / voxels,
        "latent_bytes": sum(record["num_latent_bytes"] for record in reduction.payloads.records),
        "residual_bytes": sum(record["num_residual_bytes"] for record in reduction.payloads.records),
        "psnr": math.inf if exact else 20 * math.log10(span) - 10 * math.log10(squared),
        "max_error": reduction.max_error,
        "largest_error": reduction.largest_error,
        "noise": reduction.slices.noise,
    }


def held_out_resolution(reduction: Reduction) -> tuple[FRC, FRC]:
    """Correlate the target of the last pair with its input, before and after denoising that.

    With strategy X:1 the target is the last section and the input the average of the others. This is done on slices
    held out of training, or where there are too few to hold any out, on a pair that was never trained on. The network
    sees nothing of the target here, so the noise of its projections cannot show up in both images. What the sections
    share can: the sample, and what flats, rings and too few angles leave in all of them. Both curves are limited by the
    noise of the target; their difference is what denoising does.

    Parameters
    ----------
    reduction : Reduction
        After `Reduction.run`.

    Returns
    -------
    before, after : FRC
        Over the slices in the middle of those held out, or of the volume.
    """
    noisy, denoised, held_out = reduction.held_out
    return fourier_ring_correlation(noisy, held_out), fourier_ring_correlation(denoised, held_out)


def make_report(reduction: Reduction) -> Report:
    """Collect all that the report shows.

    Parameters
    ----------
    reduction : Reduction
        After `Reduction.run`.

    Returns
    -------
    Report
        For `quietbeam.beamline.report.render_report`.
    """
    before, after = held_out_resolution(reduction)
    return Report(
        title=reduction.job.scan.name,
        source=str(reduction.job.scan.path),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=importlib.metadata.version("quietbeam"),
        horizontal=_horizontal(reduction),
        vertical=_vertical(reduction),
        unit=reduction.unit,
        pixel_size=reduction.job.scan.pixel_size,
        figures=_figures(numbers(reduction), reduction, before, after),
        losses=_losses(reduction),
        resolution=_resolution(before, after, reduction),
        fit=fit_section(reduction.fit) if reduction.fit else None,
        settings=reduction.settings.model_dump(mode="json"),
        decisions=reduction.job.decisions,
        caveats=reduction.job.caveats,
        times=[StageTime(name, seconds) for name, seconds in reduction.workspace.times().items()],
        files=[_output_file(reduction, name) for name in (ARCHIVE, NETWORK, *_disagreement(reduction))],
    )


def _disagreement(reduction: Reduction) -> list[str]:
    return [DISAGREEMENT] if reduction.settings.inference.disagreement else []


def _horizontal(reduction: Reduction) -> SlicePair:
    middle = reduction.slices.shape[0] // 2
    noisy = reduction.slices.full(np.array([middle]))[0]
    return SlicePair(noisy, reduction.denoised.volume[middle], f"slice {middle} of {reduction.slices.shape[0]}")


def _vertical(reduction: Reduction) -> SlicePair:
    middle = reduction.slices.shape[1] // 2
    # Slice by slice: one read across a piece would map all of it.
    sections = np.stack([reduction.slices.volume[index, :, middle] for index in range(reduction.slices.shape[0])])
    denoised = np.stack([reduction.denoised.volume[index, middle] for index in range(reduction.slices.shape[0])])
    noisy = np.einsum("k,skx->sx", reduction.slices.shares, sections, dtype=np.float32)
    return SlicePair(noisy, denoised, f"row {middle} of {reduction.slices.shape[1]}")


def _losses(reduction: Reduction) -> list[LossCurve]:
    own = list(reduction.fit.history) if reduction.fit else []
    curves = [
        ("denoising network", reduction.history),
        ("network of the scan's own, to compare with", own),
        ("codec", reduction.codec.history),
    ]
    return [_loss_curve(name, history) for name, history in curves if history]


def _loss_curve(name: str, history: list[dict[str, float]]) -> LossCurve:
    train, held_out = ([epoch[kind] for epoch in history] for kind in ("loss", "held_out"))
    best = int(np.argmin(held_out)) + 1
    return LossCurve(name, range(1, len(history) + 1), train, held_out, f"The weights of epoch {best} were kept.")


def _what_is_compared(reduction: Reduction) -> str:
    which = "its input before and after denoising, against its target, of which the network sees nothing."
    if reduction.fit:
        return f"The last pair of sections; the network was never trained on this scan: {which}"
    if held_out_group(reduction.slices.shape[0], reduction.settings.pairs):
        return f"The last pair of sections, on slices held out of training: {which}"
    return f"The last pair of sections, which was never trained on: {which}"


def _resolution(before: FRC, after: FRC, reduction: Reduction) -> ResolutionCurve:
    own = reduction.fit.own if reduction.fit else None
    note = f"{_what_is_compared(reduction)} What all sections share, rings and traces of the flats too, correlates as"
    return ResolutionCurve(
        before.frequency,
        before.correlation,
        after.correlation,
        np.full_like(before.frequency, THRESHOLD),
        finest_period(before),
        finest_period(after),
        f"{note} the sample.",
        own=None if own is None else np.asarray(own.correlation),
        resolution_own=None if own is None else own.resolution,
    )


def _figures(values: dict[str, float], reduction: Reduction, before: FRC, after: FRC) -> list[HeadlineFigure]:
    ratio = values["volume_bytes"] / values["archive_bytes"]
    gain = _ring_gain(before, after)
    size = " × ".join(map(str, reduction.slices.shape))
    return [
        HeadlineFigure("Volume", size, "voxels", "slices, rows, columns"),
        HeadlineFigure("Archive", f"{ratio:.1f} × smaller", "", f"{_mebibytes(values)} MiB as float32 and as archive"),
        HeadlineFigure("Bits per voxel", f"{values['bits_per_voxel']:.2f}", "bit", "every byte of the archive counted"),
        HeadlineFigure("Largest error", f"{values['largest_error']:.4g}", reduction.unit, _promise(values)),
        HeadlineFigure(
            "PSNR of the archive", f"{values['psnr']:.1f}", "dB", "against the denoised volume and its range"
        ),
        HeadlineFigure("Noise", f"{values['noise']:.4g}", reduction.unit, "of the reconstruction from all projections"),
        *_held_out_loss(reduction.history),
        HeadlineFigure(
            "Ring correlation", f"× {gain:.2f}", "", "mean, with a section the network does not see, by denoising"
        ),
    ]


def _held_out_loss(history: list[dict[str, float]]) -> list[HeadlineFigure]:
    """Tell how training went, unless a network was taken over."""
    if not history:
        return []
    value = min(epoch["held_out"] for epoch in history)
    return [
        HeadlineFigure("Held-out loss", f"{value:.4g}", "", "on what is never trained on: squared error over variance")
    ]


def _ring_gain(before: FRC, after: FRC) -> float:
    """Tell how many times the mean ring correlation rises by denoising."""
    return float(np.mean(after.correlation) / max(float(np.mean(before.correlation)), 1e-6))


def _promise(values: dict[str, float]) -> str:
    return f"of any voxel, checked; {values['max_error']:.4g} were allowed"


def _mebibytes(values: dict[str, float]) -> str:
    return " and ".join(f"{values[name] / 2**20:.2f}" for name in ("volume_bytes", "archive_bytes"))


def _output_file(reduction: Reduction, name: str) -> OutputFile:
    path = reduction.workspace.output / name
    return OutputFile(name, path.stat().st_size, file_sha256(path))


def manifest_content(reduction: Reduction) -> dict[str, Any]:
    """Collect what the manifest says beside the hashes of the files.

    Parameters
    ----------
    reduction : Reduction
        After `Reduction.run`.

    Returns
    -------
    dict
        For `quietbeam.beamline.manifest.write_manifest`.
    """
    before, after = held_out_resolution(reduction)
    values = numbers(reduction) | {"ring_correlation_gain": _ring_gain(before, after)}
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    periods = {"resolution_before_pixels": finest_period(before), "resolution_after_pixels": finest_period(after)}
    return {
        "key": reduction.job.keys.result,
        "input": {
            "path": str(reduction.job.scan.path.resolve()),
            "layout": reduction.job.scan.layout,
            "identity": reduction.job.identity,
        },
        "settings": reduction.settings.model_dump(mode="json"),
        "decisions": [decision._asdict() for decision in reduction.job.decisions],
        "caveats": [caveat._asdict() for caveat in reduction.job.caveats],
        "numbers": finite | periods,
        "rotation_axis": reduction.slices.axis.column,
        "history": reduction.history,
        "fit": reduction.fit.told if reduction.fit else None,
        "seconds": reduction.workspace.times(),
        "versions": {name: importlib.metadata.version(name) for name in ("quietbeam", *_LIBRARIES)},
        "python": platform.python_version(),
    }
