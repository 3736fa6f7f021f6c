"""Total-variation minimisation of a noisy simulated scan over its weight, against reconstructions without it.

The scan is the one that `quietbeam simulate` writes, cleaned as a reduction does it, with all of its projections and
with every eighth. The weight of each variational method is the one with the highest PSNR against the truth, which
nobody knows of a real scan; the sweep is in the tables. The peer is scikit-image's total-variation denoising of each
slice of ASTRA's FBP. PSNR (over all slices, the truth's range as the peak) and SSIM are inside the circle; CPU time is
per slice on one thread. The gap is how much the objective can at most be above its minimum, over the objective: it
says whether the iterations were enough.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rows import Row, arguments, report
from skimage.restoration import denoise_tv_chambolle

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.reconstruction.fbp import fbp
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.projectors import ProjectorName
from quietbeam.reconstruction.quality import psnr, ssim
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.tv import tv_min

Array = NDArray[np.float32]

NUM_SLICES = 3
"""Slices in the middle of the volume."""
WEIGHTS = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Of the penalty, pixels."""
PEER_WEIGHTS = tuple(np.geomspace(0.05, 1.6, 11))
"""Of scikit-image's, on slices divided by the truth's range."""
EVERY = 8
"""One projection of so many is in the second case."""


class Problem(NamedTuple):
    """Sinograms, their geometry, and the slices in 1/pixel."""

    sinograms: Array
    theta: NDArray[np.float64]
    rotation_axis: float
    truth: Array


class Answer(NamedTuple):
    """Slices, CPU seconds for all of them, and the gap over the objective where there is one."""

    slices: Array
    seconds: float
    gap: float | None = None


def main() -> None:
    """Simulate, sweep, measure."""
    options = arguments(__doc__)
    simulated = SimulateSettings(num_rows=8, num_columns=48, num_angles=64) if options.tiny else SimulateSettings()
    problem, num_iterations = _simulate(simulated), 60 if options.tiny else 500
    _warm_up(problem)
    few = problem._replace(sinograms=np.ascontiguousarray(problem.sinograms[:, ::EVERY]), theta=problem.theta[::EVERY])
    rows = [row for case in (problem, few) for row in _compare(case, num_iterations)]
    report(rows, options.json)


def _simulate(settings: SimulateSettings) -> Problem:
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_scan(Path(folder) / "scan.h5", settings)
        scan, truth = open_scan(path), np.load(truth_path(path))
        # All rows: a mean over few would not find the stripes.
        sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
        middle = slice((len(truth) - NUM_SLICES) // 2, (len(truth) + NUM_SLICES) // 2)
        inside = circle(truth.shape[-1])
        return Problem(
            np.ascontiguousarray(sinograms[middle]),
            scan.theta,
            settings.rotation_axis,
            truth[middle] * np.float32(settings.pixel_size) * inside,
        )


def _warm_up(problem: Problem) -> None:
    """Compile and load what compiles and loads on its first call."""
    row = problem.sinograms[:1]
    gridrec(row, problem.theta, problem.rotation_axis)
    tv_min(row, problem.theta, problem.rotation_axis, weight=1.0, num_iterations=1)
    _denoise(fbp(row, problem.theta, problem.rotation_axis), problem, 1.0)


def _compare(problem: Problem, num_iterations: int) -> list[Row]:
    _, num_angles, size = problem.sinograms.shape
    case = f"{num_angles} projections of {size} columns, {num_iterations} iterations"
    geometry = problem.theta, problem.rotation_axis
    answers = {
        "quietbeam (gridrec)": _timed(lambda: gridrec(problem.sinograms, *geometry)),
        "ASTRA FBP": _timed(lambda: fbp(problem.sinograms, *geometry)),
    }
    sweep = {weight: _minimise(problem, weight, num_iterations) for weight in WEIGHTS}
    answers |= {f"quietbeam (TV, weight {weight:g})": answer for weight, answer in sweep.items()}
    best = _best(problem, sweep)
    answers["quietbeam (TV, best weight, not negative)"] = _minimise(problem, best, num_iterations, nonnegative=True)
    answers[f"TV on ASTRA's projector, weight {best:g}"] = _minimise(problem, best, num_iterations, "astra")
    plain = answers["ASTRA FBP"]
    denoised = {weight: _timed(lambda w=weight: _denoise(plain.slices, problem, w)) for weight in PEER_WEIGHTS}
    peer = _best(problem, denoised)
    answers[f"scikit-image TV of the FBP, best weight {peer:.2g}"] = Answer(
        denoised[peer].slices, denoised[peer].seconds + plain.seconds
    )
    return [row for name, answer in answers.items() for row in _rows(case, name, answer, problem)]


def _best(problem: Problem, sweep: dict[float, Answer]) -> float:
    return max(sweep, key=lambda weight: _psnr(problem, sweep[weight].slices))


def _timed(method: Callable[[], Array]) -> Answer:
    start = time.process_time()
    slices = method()
    return Answer(slices, time.process_time() - start)


def _minimise(
    problem: Problem,
    weight: float,
    num_iterations: int,
    projector: ProjectorName = "nufft",
    *,
    nonnegative: bool = False,
) -> Answer:
    start = time.process_time()
    result = tv_min(
        problem.sinograms,
        problem.theta,
        problem.rotation_axis,
        weight=weight,
        num_iterations=num_iterations,
        projector=projector,
        nonnegative=nonnegative,
    )
    return Answer(result.slices, time.process_time() - start, float((result.gap / result.objective)[:, -1].max()))


def _denoise(slices: Array, problem: Problem, weight: float) -> Array:
    span = np.ptp(problem.truth)
    found: Iterable[Array] = (denoise_tv_chambolle(image / span, weight=weight, max_num_iter=200) for image in slices)
    return np.stack(list(found)).astype(np.float32) * span


def _psnr(problem: Problem, slices: Array) -> float:
    inside = circle(slices.shape[-1]) > 0
    return psnr(problem.truth[:, inside], slices[:, inside])


def _rows(case: str, name: str, answer: Answer, problem: Problem) -> list[Row]:
    rows = [
        Row(case, name, "PSNR", _psnr(problem, answer.slices), "dB"),
        Row(case, name, "SSIM", ssim(problem.truth, answer.slices * circle(answer.slices.shape[-1])), ""),
        Row(case, name, "CPU time of a slice", answer.seconds / len(answer.slices), "s"),
    ]
    return rows if answer.gap is None else [*rows, Row(case, name, "gap", 100 * answer.gap, "%")]


if __name__ == "__main__":
    main()
