"""Noise2Inverse against other denoisers: the paper's foam, 2.5D, a moving sample, XRD-CT, and real scans.

python benchmarks/noise2inverse.py [--case foam|dimensions|dynamic|xrdct|real] [--minutes M] [--pictures DIR]

Every network has the default settings and learns for the same CPU time on one thread, which is in the tables, from the
noisy data alone. The strength of each classical method is the one with the highest PSNR against the truth, which nobody
knows of a real scan, found on the measured slices themselves, which favours them. PSNR is inside the
circle, SSIM in the largest square inside it, both with the range of the truth as the peak. The time of a slice is CPU
time on one thread, without training and without the reconstruction that was denoised (TV-MIN has none).

foam: 30 to 1000 photons per pixel, half of them absorbed; a few slices spread over the volume.
TV-MIN, BM3D (left out where it is not installed) and non-local means act on each of them. dimensions: five slices as
input against one. dynamic: the time steps as sections against static Noise2Inverse on the angles of each step. xrdct:
all channels in and out, a fifth of the exposure against the full one. real: what the scans in the folder named by
QUIETBEAM_TEST_DATA have in common with a section that was not trained on, before and after.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from dynamic_case import compare_on_moving_foam
from real_case import compare_on_real_scans
from rows import Row, report
from static_cases import compare_dimensions, compare_on_foam
from trained_networks import Plan
from xrdct_case import compare_on_xrdct

from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.training import TrainingSettings

TINY_TRAINING = TrainingSettings(epochs=16, steps_per_epoch=5, held_out_batches=1, learning_rate=1e-2)
TINY = Plan(network=NetworkSettings(depth=8), training=TINY_TRAINING)


def main() -> None:
    """Run one case, or all."""
    options = _arguments()
    plan = TINY if options.tiny else Plan(options.minutes)
    cases: dict[str, Callable[..., list[Row]]] = {
        "foam": compare_on_foam,
        "dimensions": compare_dimensions,
        "dynamic": compare_on_moving_foam,
        "xrdct": compare_on_xrdct,
        "real": partial(compare_on_real_scans, pictures=options.pictures),
    }
    chosen = [options.case] if options.case else list(cases)
    report([row for name in chosen for row in cases[name](plan, tiny=options.tiny)], options.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("foam", "dimensions", "dynamic", "xrdct", "real"), help="one case [all]")
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="CPU time of each training [%(default)g]")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the real scans before and after")
    parser.add_argument("--tiny", action="store_true", help="seconds long, to see that it works; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    torch.set_num_threads(1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
