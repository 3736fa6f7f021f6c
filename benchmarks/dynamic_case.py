"""The case of a foam that moves while it is scanned.

Each time step is one subscan of an interlaced scan: few angles, few photons, and other angles than its neighbours. The
dynamic mode takes each step as a section and predicts from it the others of its group. Static Noise2Inverse splits the
few angles of each step once more. Both are trained on the first half of the time steps for the same time, and applied
to all of them.
"""

from __future__ import annotations

import numpy as np
from classical_denoisers import Answer, Truth, best_gaussian, best_stretched_gaussian, timed
from noisy_scans import Array, DynamicScan, DynamicSize, moving_foam_scan
from rows import Row
from trained_networks import Plan, denoise_steps, train_for

from quietbeam.noise2inverse.inference import Passes
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.reconstruction.pairing import PairingSettings, SectionPair, plan_pairs
from quietbeam.reconstruction.sections import section_shares, time_sections

__all__ = ["compare_on_moving_foam"]

TIME_RATIOS = (2.0, 4.0, 8.0)
"""Of the Gaussian along time, in time steps for each pixel along y and x."""


Columns = dict[str, tuple[float, str]]


def compare_on_moving_foam(plan: Plan, *, tiny: bool) -> list[Row]:
    """Denoise each time step of a moving foam by each method."""
    size = DynamicSize(12, 48, 16, 4, 2, 1, 100.0, 0.08) if tiny else DynamicSize()
    scan = moving_foam_scan(size)
    truth, later = Truth(scan.truth), Truth(scan.truth[:, _num_trained(scan) :])
    num_steps = scan.acquisition.num_time_steps
    case = (
        f"dynamic: {num_steps} time steps of {size.angles_per_step} projections, {size.photons:g} photons, "
        f"{size.num_rows} x {size.num_columns} pixels"
    )
    print(f"\n{case} ...", flush=True)
    rows = []
    for name, (answer, columns) in (_classical(scan, truth, size) | _ours(scan, plan, size)).items():
        value = later.psnr(answer.slices[:, _num_trained(scan) :])
        rows += truth.rows(case, name, answer, PSNR_of_later_steps=(value, "dB"), **columns)
    return rows


def _num_trained(scan: DynamicScan) -> int:
    return scan.acquisition.num_time_steps // 2


def _classical(scan: DynamicScan, truth: Truth, size: DynamicSize) -> dict[str, tuple[Answer, Columns]]:
    plain = timed(lambda: scan.reconstruct(time_sections(scan.acquisition)))
    still = best_gaussian(plain.slices, truth, axes=(1, 0, 1, 1))
    both, along = best_stretched_gaussian(plain.slices, truth, axes=(1, 0, 1, 1), axis=1, ratios=TIME_RATIOS)
    grouped = Answer(_mean_of_groups(plain.slices, size.group_size), plain.seconds)
    blurred = best_gaussian(grouped.slices, truth, axes=(1, 0, 1, 1))
    answers = {
        "gridrec of each step": plain,
        f"best Gaussian of each step (3D), sigma {still.strength:.3g}": still,
        f"gridrec of each group of {size.group_size} steps": grouped,
        f"best Gaussian of each group (3D), sigma {blurred.strength:.3g}": blurred,
        f"best Gaussian in space and time (4D), sigma {both.strength:.3g} pixels, {along:.3g} steps": both,
    }
    return {name: (answer, {}) for name, answer in answers.items()}


def _mean_of_groups(steps: Array, group_size: int) -> Array:
    """Give each time step the mean of its group: what a scan of so many more angles shows."""
    num_slices, num_steps, *sides = steps.shape
    means = steps.reshape(num_slices, -1, group_size, *sides).mean(axis=2)
    return np.repeat(means, group_size, axis=1)[:, :num_steps]


def _ours(scan: DynamicScan, plan: Plan, size: DynamicSize) -> dict[str, tuple[Answer, Columns]]:
    """Train the dynamic mode, and the static one on the angles of each step alone."""
    dynamic, context = PairingSettings(group_size=size.group_size), size.context_steps
    return {
        "quietbeam (dynamic)": _train(scan, plan, dynamic),
        f"quietbeam (dynamic, {2 * context + 1} steps as input)": _train(scan, plan, dynamic, context),
        "quietbeam (static, each step)": _train(scan, plan, PairingSettings()),
    }


def _train(scan: DynamicScan, plan: Plan, pairing: PairingSettings, context_steps: int = 0) -> tuple[Answer, Columns]:
    planned = plan_pairs(scan.acquisition, pairing=pairing, context_steps=context_steps)
    per_step = len(planned.sections) // scan.acquisition.num_time_steps
    early = [pair for pair in planned.pairs if _is_early(pair, _num_trained(scan) * per_step)]
    settings = PairSettings(context_steps=context_steps)
    pairs = Pairs(scan.reconstruct(planned.sections), section_shares(planned.sections), settings, pairs=early)
    trained = train_for(pairs, plan)
    steps: list[Passes] = [
        [tuple(range(step * per_step, (step + 1) * per_step))] for step in range(scan.acquisition.num_time_steps)
    ]
    return denoise_steps(trained, pairs, steps), trained.columns


def _is_early(pair: SectionPair, limit: int) -> bool:
    return max(*pair.inputs, *pair.targets) < limit
