"""Codecs against each other: rate at equal PSNR and at equal largest error, the sources' findings, and the chain.

`python benchmarks/compress.py --case rates NAME=VOLUME ...` takes any volumes (.npy, TIFF, archives, FILE.h5:/PATH);
`benchmarks/denoised_volumes.py` makes the foam and the sandstone. The cases:

rates     bits per voxel of our codec and the classical ones at 40, 44, 48 and 52 dB over the volume's range, every byte
          counted, and MB of float32 coded and decoded per second, at the setting nearest to 44 dB
bounded   the same at equal largest error, 1/1000 to 1/50 of the volume's range; lossless codecs beside them
learned   the sources' systems, trained for `--minutes` each: bits, PSNR, SSIM, MS-SSIM, MSLE, share of pores
crae      CRAE on full slices and on patches, with and without importance, against JPEG at its size
transfer  an autoencoder trained on the first volume, used on the others, and fine-tuned
inr       the trade-off point over downsampling, channels and width, on patches of one volume
chain     bits per voxel of raw projections, noisy volume and denoised volume (NAME=FOLDER/NAME of denoised_volumes.py)
          at one largest error, and what of the denoised volume is kept
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from codec_rates import at_equal_error, at_equal_psnr
from codec_sources import WIDTHS, compare_crae, compare_learned, compare_transfer, find_inr_tradeoff
from denoised_volumes import denoised_volume, save, scan_foam, to_words
from denoising_chain import compare_chain
from numpy.typing import NDArray
from rows import Row, report
from trained_networks import Plan

from quietbeam.beamline.volumes import open_volume
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.training import TrainingSettings

Array = NDArray[np.float32]
CASES = ("rates", "bounded", "learned", "crae", "transfer", "inr", "chain")


def main() -> None:
    """Run the cases asked for on the volumes given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="*", metavar="NAME=VOLUME")
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU time to train each learned codec")
    parser.add_argument("--chunk-slices", type=int, default=32, help="slices that are coded together")
    parser.add_argument("--slices", type=int, help="take this many slices from the middle")
    parser.add_argument("--tiny", action="store_true", help="seconds long, to see that it works; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--epochs", type=int, default=150, help="of the implicit representation")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the implicit representation")
    options = parser.parse_args()
    if options.tiny:
        options.epochs, options.widths = 2, [30]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = _tiny_volume(Path(folder)) if options.tiny else dict(text.split("=", 1) for text in options.volumes)
        rows = [row for case in options.case or CASES for row in _run(case, given, options)]
    report(rows, options.json)


def _run(case: str, given: Mapping[str, str], options: argparse.Namespace) -> list[Row]:
    if case == "chain":
        return [
            row for name, prefix in given.items() for row in compare_chain(name, Path(prefix), options.chunk_slices)
        ]
    volumes = {name: _load(path, options.slices) for name, path in given.items()}
    minutes = 0.01 if options.tiny else options.minutes
    if case == "transfer":
        return compare_transfer(volumes, minutes)
    per_volume: dict[str, Callable[[str, Array], list[Row]]] = {
        "rates": lambda name, volume: at_equal_psnr(name, volume, options.chunk_slices),
        "bounded": lambda name, volume: at_equal_error(name, volume, options.chunk_slices),
        "learned": lambda name, volume: compare_learned(name, volume, minutes),
        "crae": lambda name, volume: compare_crae(name, volume, minutes),
        "inr": lambda name, volume: find_inr_tradeoff(name, volume, epochs=options.epochs, widths=options.widths),
    }
    rows: list[Row] = []
    for name, volume in volumes.items():
        print(f"\n{case} of {name} {volume.shape} ...", flush=True)
        rows += per_volume[case](name, volume)
    return rows


def _load(name: str, num_slices: int | None) -> Array:
    path = name if Path(name).suffix or ":/" in name else f"{name}.npy"
    with open_volume(path) as opened:
        first = max(opened.shape[0] - (num_slices or opened.shape[0]), 0) // 2
        return np.ascontiguousarray(opened[first : opened.shape[0] - first], np.float32)


def _tiny_volume(folder: Path) -> dict[str, str]:
    plan = Plan(1, NetworkSettings(depth=6), TrainingSettings(epochs=1, steps_per_epoch=4))
    made = denoised_volume(*scan_foam(8, 64, 64), 500.0, plan)
    save(folder, "foam", made)
    np.save(folder / "other.npy", to_words(made.truth))
    return {"foam": str(folder / "foam")}


if __name__ == "__main__":
    main()
