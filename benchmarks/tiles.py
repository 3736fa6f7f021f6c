"""How wide a halo a tile needs, and what half precision costs: trained networks against the whole slice in float32.

A tile in the middle of a slice is denoised with halos of several widths, and held against the same pixels of the whole
slice: the largest difference, over the standard deviation of the output. The slice is a simulated reconstruction; the
networks have learned the scan for so many seconds of CPU time. The features are then kept in 16 bits, as on a GPU,
computed here by `quietbeam.noise2inverse.tensor_planes`.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, arguments, report
from simulated_scan import reconstruct_simulated

from quietbeam.beamline.simulate import SimulateSettings
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, context_indices
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings

HALOS = (16, 32, 64, 96, 128)
TINY = {"num_rows": 8, "num_columns": 96, "num_angles": 64}
FULL = {"num_rows": 32, "num_columns": 448, "num_angles": 256}
TILE = 32

Array = NDArray[np.float32]


def main() -> None:
    """Measure a deep and a shallow network, briefly trained and trained."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    size, depths, seconds = (TINY, (10,), (1.0,)) if options.tiny else (FULL, (40, 100), (5.0, 60.0))
    scan = reconstruct_simulated(SimulateSettings(**size))
    middle = len(scan.sections) // 2
    rows: list[Row] = []
    for depth in depths:
        trainer = _trainer(Pairs(scan.sections, scan.shares), depth)
        seen = scan.sections[context_indices(middle, (trainer.model.in_channels - 1) // 2, len(scan.sections))]
        image = np.einsum("k,skyx->syx", scan.shares, seen).astype(np.float32)
        case = f"largest difference, {depth} layers, {image.shape[-1]} columns"
        for number in seconds:
            _train(trainer, number)
            rows += _measure(case, f"trained for {number:g} s", trainer.measured, image)
    report(rows, options.json)


def _trainer(pairs: Pairs, depth: int) -> NoiseTrainer:
    return NoiseTrainer(pairs, TrainingSettings(steps_per_epoch=10), NetworkSettings(depth=depth), num_epochs=100_000)


def _train(trainer: NoiseTrainer, seconds: float) -> None:
    """Go on training; the crops of the epochs are drawn anew."""
    start, epoch = time.process_time(), round(1000 * seconds)
    while time.process_time() - start < seconds:
        trainer.train_epoch(epoch)
        epoch += 1


def _measure(case: str, name: str, model: MSD, image: Array) -> list[Row]:
    model.eval()
    whole = denoise_slice(model, image)
    deviation, first = whole.std(), (image.shape[-1] - TILE) // 2
    rows = []
    for halo in (halo for halo in HALOS if halo <= first):
        around = slice(first - halo, first + TILE + halo)
        tile = denoise_slice(model, np.ascontiguousarray(image[:, around, around]))[halo:-halo, halo:-halo]
        kept = whole[first : first + TILE, first : first + TILE]
        rows.append(_row(case, f"quietbeam ({name})", f"halo {halo}", tile - kept, deviation))
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        rows.append(_row(case, f"quietbeam ({name})", precision, _in_half(model, image, dtype) - whole, deviation))
    rows.append(_row(case, f"none ({name}): the image itself", "halo 16", image[len(image) // 2] - whole, deviation))
    return rows


def _row(case: str, method: str, metric: str, difference: Array, deviation: np.floating) -> Row:
    return Row(case, method, metric, float(np.abs(difference).max() / deviation), "deviations")


def _in_half(model: MSD, image: Array, dtype: torch.dtype) -> Array:
    """Apply the network with its features in 16 bits, normalising before and scaling back after in float32."""
    halved = copy.deepcopy(model)
    halved.input_mean.zero_(), halved.output_mean.zero_(), halved.input_std.fill_(1), halved.output_std.fill_(1)
    with torch.inference_mode():
        normalised = (torch.from_numpy(image) - model.input_mean[:, None, None]) / model.input_std[:, None, None]
        answer: Array = halved.to(dtype)(normalised[None].to(dtype))[0, 0].float().numpy()
    return answer * model.output_std.numpy() + model.output_mean.numpy()


if __name__ == "__main__":
    main()
