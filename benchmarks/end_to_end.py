"""A whole reduction of a simulated scan: quality against the truth, size of the archive, time and memory.

Quality: PSNR inside the circle, the truth's range as the peak, as `quietbeam compare` has it. The Gaussian and the
total variation act in 3D, and their strength is the one that is best against the truth, which nobody knows of a real
scan: they are the strongest of their kind.

Storage: the denoised volume as float32, before it was archived, in HDF5 files of other compressors, in chunks of 16
slices, at the archive's largest error; every byte of each file is counted. Lossless ones have no error at all.

Time and memory: the reduction runs in a process of its own on one thread. Memory is the largest that the process had,
with the interpreter and the libraries.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rows import Row, arguments, in_child, report
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from quietbeam.beamline.progress import LineProgress
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.settings import ReductionSettings, read_settings
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST, NETWORK
from quietbeam.compress.archive import open_archive
from quietbeam.compress.chunks import encode_chunk
from quietbeam.noise2inverse.checkpoint import load_network
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.pairs import context_indices
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, circle, reconstruct

Array = NDArray[np.float32]

SIGMAS = np.arange(0.5, 3.01, 0.25)
TV_WEIGHTS = np.geomspace(0.1, 1.6, 9)
TV_SLICES = 12
"""Slices in the middle on which the weight of the total variation is chosen."""
ZFP_FACTOR = 4
"""ZFP keeps far below the accuracy that it is asked for; at this multiple of it the error is just within the bound."""
# Epochs, not minutes: how many fit into a time depends on what else the machine does. About the budget of `make demo`.
LENGTH = {"training.epochs": 10, "compute.threads": 1}
TINY = {"training.epochs": 3, "training.steps_per_epoch": 20, "network.depth": 12}


def main() -> None:
    """Simulate, reduce, measure."""
    options = arguments(__doc__)
    simulated = SimulateSettings(num_rows=12, num_columns=64, num_angles=64) if options.tiny else SimulateSettings()
    settings = read_settings(None, (), {"compute.threads": 1} | TINY if options.tiny else LENGTH)
    case = f"{simulated.num_angles} projections of {simulated.num_rows} x {simulated.num_columns} pixels"
    with tempfile.TemporaryDirectory() as folder:
        path, output = simulate_scan(Path(folder) / "scan.h5", simulated), Path(folder) / "result"
        spent, memory = in_child(_reduce, path, output, settings)
        manifest = json.loads((output / MANIFEST).read_text())
        truth = np.load(truth_path(path))
        volumes = _reconstructions(open_scan(path), manifest)
        rows = _quality(f"quality: {case}", output, volumes, truth)
        denoised = _denoised(output, volumes["quietbeam (gridrec)"], settings)
        rows += _storage(f"storage: {case}", output, denoised, manifest["numbers"], Path(folder) / "peer.h5")
    rows += _resources(f"time and memory: {case}", manifest, spent, memory)
    report(rows, options.json)


def _reduce(path: Path, output: Path, settings: ReductionSettings) -> dict[str, float]:
    wall, cpu = time.monotonic(), time.process_time()
    reduce_scan(path, output, settings, progress=LineProgress(Console(quiet=True)))
    return {"wall time": time.monotonic() - wall, "CPU time": time.process_time() - cpu}


def _reconstructions(scan: Scan, manifest: Mapping[str, Any]) -> dict[str, Array]:
    sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
    methods = {"quietbeam (gridrec)": "gridrec", "ASTRA FBP": "fbp"}
    return {
        name: reconstruct(
            sinograms,
            scan.theta,
            manifest["rotation_axis"],
            ReconstructionSettings.model_validate({"method": method}),
            pixel_size=scan.pixel_size,
        )
        for name, method in methods.items()
    }


def _denoised(output: Path, noisy: Array, settings: ReductionSettings) -> Array:
    """Apply the stored network again: the volume as it was before the archive rounded it."""
    network, _ = load_network(output / NETWORK)
    context, count = settings.pairs.context_slices, len(noisy)
    slices = [denoise_slice(network, noisy[context_indices(index, context, count)]) for index in range(count)]
    return np.stack(slices) * circle(noisy.shape[-1])


def _quality(case: str, output: Path, volumes: Mapping[str, Array], truth: Array) -> list[Row]:
    noisy = volumes["quietbeam (gridrec)"]
    span = float(truth.max() - truth.min())
    sigma = max(SIGMAS, key=lambda sigma: _psnr(gaussian_filter(noisy, sigma), truth))
    middle = slice((len(truth) - TV_SLICES) // 2, (len(truth) + TV_SLICES) // 2)
    weight = max(TV_WEIGHTS, key=lambda weight: _psnr(_tv(noisy[middle], weight, span), truth[middle]))
    with open_archive(output / ARCHIVE) as archive:
        found = {"quietbeam": archive[:], **volumes}
    found[f"best Gaussian, sigma {sigma:g}"] = gaussian_filter(noisy, sigma)
    found[f"best total variation (scikit-image), weight {weight:.2g}"] = _tv(noisy, weight, span)
    return [Row(case, name, "PSNR", _psnr(volume, truth), "dB") for name, volume in found.items()]


def _tv(noisy: Array, weight: float, span: float) -> Array:
    return np.asarray(denoise_tv_chambolle(noisy / span, weight=weight, max_num_iter=100) * span, dtype=np.float32)


def _psnr(volume: Array, truth: Array) -> float:
    inside = circle(truth.shape[-1]) > 0
    error = np.mean(np.square(volume[:, inside] - truth[:, inside], dtype=np.float64))
    return float(20 * np.log10(truth.max() - truth.min()) - 10 * np.log10(error))


def _storage(case: str, output: Path, denoised: Array, numbers: Mapping[str, float], file: Path) -> list[Row]:
    max_error = numbers["max_error"]
    start = time.process_time()
    with open_archive(output / ARCHIVE) as archive:
        difference = float(np.abs(archive[:].astype(np.float64) - denoised).max())
    rows = _cost(case, "quietbeam", numbers["archive_bytes"], denoised.size, difference / max_error)
    rows.append(Row(case, "quietbeam", "decoding", time.process_time() - start, "CPU s"))
    rows.append(Row(case, "quietbeam", "in learned latents", numbers["latent_bytes"] / numbers["archive_bytes"], ""))
    start = time.process_time()
    chunks = [encode_chunk(None, denoised[i : i + 16], max_error) for i in range(0, len(denoised), 16)]
    method = "quietbeam (no learned codec)"
    num_bytes = sum(len(chunk.payload) for chunk in chunks)
    rows += _cost(case, method, num_bytes, denoised.size, max(chunk.largest_error for chunk in chunks) / max_error)
    rows.append(Row(case, method, "encoding", time.process_time() - start, "CPU s"))
    for name, (filters, quantised) in _peers(max_error).items():
        rows += _store(case, name, denoised, max_error, filters, file, quantised)
    return rows


def _peers(max_error: float) -> dict[str, tuple[Mapping[str, Any], bool]]:
    """HDF5 filters, and whether the volume is rounded to multiples of twice the largest error first."""
    gzip: dict[str, Any] = {"compression": "gzip", "compression_opts": 6, "shuffle": True}
    zstd: dict[str, Any] = {"shuffle": True, **hdf5plugin.Zstd(clevel=19)}
    return {
        "SZ3 (hdf5plugin)": (hdf5plugin.SZ3(absolute=max_error), False),
        "SPERR (hdf5plugin)": (hdf5plugin.Sperr(absolute=max_error, swap=True), False),
        f"ZFP (hdf5plugin), accuracy x {ZFP_FACTOR}": (hdf5plugin.Zfp(accuracy=ZFP_FACTOR * max_error), False),
        "rounding, shuffle, zstd 19": (zstd, True),
        "lossless: shuffle, zstd 19": (zstd, False),
        "lossless: shuffle, gzip 6": (gzip, False),
    }


def _store(
    case: str, name: str, volume: Array, max_error: float, filters: Mapping[str, Any], file: Path, quantised: bool
) -> list[Row]:
    step = np.float32(2 * max_error)
    stored = np.rint(volume / step).astype(np.int32) if quantised else volume
    encoding = _cpu(lambda: _write(file, stored, filters))
    decoding = _cpu(lambda: _read(file))
    decoded = _read(file) * step if quantised else _read(file)
    error = float(np.abs(decoded.astype(np.float64) - volume).max())
    return [
        *_cost(case, name, file.stat().st_size, volume.size, error / max_error),
        Row(case, name, "encoding", encoding, "CPU s"),
        Row(case, name, "decoding", decoding, "CPU s"),
    ]


def _write(file: Path, stored: NDArray[Any], filters: Mapping[str, Any]) -> None:
    with h5py.File(file, "w") as h5:
        h5.create_dataset("volume", data=stored, chunks=(min(16, len(stored)), *stored.shape[1:]), **filters)


def _read(file: Path) -> NDArray[Any]:
    with h5py.File(file) as h5:
        return np.asarray(h5["volume"][:])


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _cost(case: str, method: str, num_bytes: float, num_voxels: int, error: float) -> list[Row]:
    return [
        Row(case, method, "size", 8 * num_bytes / num_voxels, "bits per voxel"),
        Row(case, method, "float32 over this", 4 * num_voxels / num_bytes, ""),
        Row(case, method, "largest error", error, "of the allowed"),
    ]


def _resources(case: str, manifest: Mapping[str, Any], spent: Mapping[str, float], memory: float) -> list[Row]:
    rows = [Row(case, "quietbeam", name, seconds, "s") for name, seconds in spent.items()]
    rows.append(Row(case, "quietbeam", "memory", memory / 2**20, "MiB"))
    return rows + [Row(case, "quietbeam", stage, seconds, "s") for stage, seconds in manifest["seconds"].items()]


if __name__ == "__main__":
    main()
