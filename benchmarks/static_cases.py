"""The cases of one unchanging foam: the paper's own, against classical denoisers, and 2.5D against 2D."""

from __future__ import annotations

from collections.abc import Sequence

from classical_denoisers import (
    Answer,
    Truth,
    best_bm3d,
    best_gaussian,
    best_nlm,
    best_tv,
    half_noise,
    timed,
)
from noisy_scans import FoamScan, FoamSize, foam_scans
from rows import Row
from trained_networks import Plan, Trained, denoise, train_for

from quietbeam.noise2inverse.inference import Mode
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.reconstruction.fbp import fbp
from quietbeam.reconstruction.gridrec import gridrec

__all__ = ["compare_dimensions", "compare_on_foam"]

PHOTONS = (30.0, 100.0, 300.0, 1000.0)
"""Of the open beam. With 100, gridrec has 4.0 dB and ASTRA's FBP 6.2 dB."""
DIMENSIONS_PHOTONS = 100.0
NOISE_SLICES = 32
"""Slices from which the spectrum of the noise is taken."""

TINY_FOAM = FoamSize(20, 64, 64, 100.0, 0.05, 2)


def compare_on_foam(plan: Plan, *, tiny: bool) -> list[Row]:
    """Denoise one foam at several numbers of photons by each method."""
    size, photons = (TINY_FOAM, PHOTONS[2:3]) if tiny else (FoamSize(), PHOTONS)
    return [row for number, scan in foam_scans(size, photons) for row in _compare(number, scan, plan)]


def _compare(photons: float, scan: FoamScan, plan: Plan) -> list[Row]:
    case = f"foam: {_describe(photons, scan)}"
    print(f"\n{case} ...", flush=True)
    truth = Truth(scan.truth)
    rows = [row for name, answer in _classical(scan, truth).items() for row in truth.rows(case, name, answer)]
    pairs = Pairs(scan.sections, scan.shares)
    trained = train_for(pairs, plan)
    modes: dict[str, Mode] = {"quietbeam": "full", "quietbeam (average of the pairs)": "average"}
    for name, mode in modes.items():
        rows += truth.rows(case, name, _measured(trained, pairs, scan, mode), **trained.columns)
    return rows


def _describe(photons: float, scan: FoamScan) -> str:
    num_slices, _, size, _ = scan.sections.shape
    return f"{photons:g} photons, {len(scan.theta)} projections of {num_slices} x {size} pixels"


def _classical(scan: FoamScan, truth: Truth) -> dict[str, Answer]:
    """Denoise the measured slices, each at its best against the truth."""
    full = scan.full()
    noise = half_noise(scan.sections[:: max(len(full) // NOISE_SLICES, 1)])
    noisy = full[scan.measured]
    gaussian = best_gaussian(full, truth, axes=(1, 1, 1), measured=scan.measured)
    tv = best_tv(scan.sinograms, scan.theta, scan.rotation_axis, truth)
    nlm, bm3d = best_nlm(noisy, noise, truth), best_bm3d(noisy, noise, truth)
    answers = {
        "gridrec": timed(lambda: gridrec(scan.sinograms, scan.theta, scan.rotation_axis)),
        "ASTRA FBP": timed(lambda: fbp(scan.sinograms, scan.theta, scan.rotation_axis)),
        f"best Gaussian (3D), sigma {gaussian.strength:.3g}": _per_slice(gaussian, len(full), len(noisy)),
        f"best non-local means (2D), h {nlm.strength:.2g} x noise": nlm,
    }
    if bm3d:
        answers[f"best BM3D (2D), noise x {bm3d.strength:.2g}"] = bm3d
    return answers | {f"best TV-MIN (2D), weight {tv.strength:.2g}": tv}


def _per_slice(answer: Answer, computed: int, measured: int) -> Answer:
    """Count the time of a whole volume for the measured slices alone."""
    return answer._replace(seconds=answer.seconds * measured / computed)


def _measured(trained: Trained, pairs: Pairs, scan: FoamScan, mode: Mode = "full") -> Answer:
    answer = denoise(trained, pairs, scan.measured, mode=mode)
    return answer._replace(slices=answer.slices[:, 0])


def compare_dimensions(plan: Plan, *, tiny: bool) -> list[Row]:
    """Train with five slices as input and with one, for the same time and for the same number of steps."""
    size = TINY_FOAM if tiny else FoamSize()
    ((photons, scan),) = foam_scans(size, (DIMENSIONS_PHOTONS,))
    truth, case = Truth(scan.truth), f"dimensions: {_describe(photons, scan)}"
    gaussians = {f"best Gaussian ({name})": axes for name, axes in (("2D", (0, 1, 1)), ("3D", (1, 1, 1)))}
    rows = []
    for name, axes in gaussians.items():
        rows += truth.rows(case, name, _gaussian(scan, truth, axes))
    answer, trained = _train(scan, plan, context=2)
    rows += truth.rows(case, "quietbeam (2.5D: 5 slices)", answer, **trained.columns)
    epochs = trained.steps // plan.training.steps_per_epoch
    for name, minutes, number in (("time", trained.cpu_minutes, None), ("steps", plan.minutes, epochs)):
        training = plan.training.model_copy(update={"epochs": number})
        answer, flat = _train(scan, Plan(minutes, plan.network, training), context=0)
        rows += truth.rows(case, f"quietbeam (2D, the same {name})", answer, **flat.columns)
    return rows


def _gaussian(scan: FoamScan, truth: Truth, axes: Sequence[float]) -> Answer:
    answer = best_gaussian(scan.full(), truth, axes=axes, measured=scan.measured)
    return _per_slice(answer, len(scan.sections), len(scan.measured))


def _train(scan: FoamScan, plan: Plan, *, context: int) -> tuple[Answer, Trained]:
    pairs = Pairs(scan.sections, scan.shares, PairSettings(context_slices=context))
    trained = train_for(pairs, plan)
    return _measured(trained, pairs, scan), trained
