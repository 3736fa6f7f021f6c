"""Rates of codecs at equal PSNR and at equal largest error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rows import Row

from quietbeam.compress.chunks import encode_chunk
from quietbeam.compress.codec import codec
from quietbeam.compress.rate_distortion import RatePoint, measure, rate_at, sweep
from quietbeam.compress.sweeps import CLASSICAL, LOSSLESS, sweep_settings

__all__ = ["OURS", "at_equal_error", "at_equal_psnr", "method", "settings_with_error"]

Array = NDArray[np.float32]

OURS = "lattice"
PSNRS = (40.0, 44.0, 48.0, 52.0)
ERRORS = (1e-3, 3e-3, 1e-2, 2e-2)
"""Largest errors over the range of the volume."""
FLOAT32 = 1e-5
"""Share by which the rounding of float32 may exceed a largest error: SPERR does, by some 1e-6."""
BOUNDED = (OURS, "sperr", "sz3", "zfp")


def method(name: str) -> str:
    """Name a codec as the tables do."""
    return f"quietbeam ({name})" if name == OURS else name


def at_equal_psnr(name: str, volume: Array, chunk_slices: int) -> list[Row]:
    """Bits per voxel at each PSNR, interpolated, and the speed at the setting nearest to 44 dB."""
    case = f"{name}: {' x '.join(map(str, volume.shape))}, chunks of {chunk_slices} slices"
    rows: list[Row] = []
    for codec_name in (OURS, *CLASSICAL):
        settings = sweep_settings(codec_name, float(np.ptp(volume)))
        points = sweep(codec_name, settings, volume, chunk_slices=chunk_slices, similarities=False)
        rows += list(_rates(case, codec_name, points))
        print(f"  {codec_name}: {', '.join(f'{p.bits_per_voxel:.3f} at {p.psnr:.2f} dB' for p in points)}", flush=True)
    return rows


def _rates(case: str, name: str, points: Sequence[RatePoint]) -> Iterable[Row]:
    """Rows of one codec; our settings hit the PSNR within some tenths, so the interpolation may reach past the end."""
    for psnr in PSNRS:
        rate = rate_at([*points, *_beyond(points)], psnr)
        if rate is not None:
            yield Row(case, method(name), f"{psnr:g} dB", rate, "bits/voxel")
    near = min(points, key=lambda point: abs(point.psnr - 44))
    yield Row(case, method(name), "encode", near.encode_rate, "MB/s")
    yield Row(case, method(name), "decode", near.decode_rate, "MB/s")


def _beyond(points: Sequence[RatePoint]) -> list[RatePoint]:
    """Continue the curve by half a decibel at both ends."""
    line = sorted((point for point in points if math.isfinite(point.psnr)), key=lambda point: point.psnr)
    if len(line) < 2:
        return []
    ends = []
    for (near, next_one), step in (((line[0], line[1]), -0.5), ((line[-1], line[-2]), 0.5)):
        slope = math.log(near.bits_per_voxel / next_one.bits_per_voxel) / (near.psnr - next_one.psnr)
        rate = near.bits_per_voxel * math.exp(slope * step)
        ends.append(near._replace(psnr=near.psnr + step, bits_per_voxel=rate))
    return ends


def at_equal_error(name: str, volume: Array, chunk_slices: int) -> list[Row]:
    """Bits per voxel where no voxel may be off by more than a share of the range; what is lossless beside it."""
    case = f"{name}: largest error over the range, chunks of {chunk_slices} slices"
    span = float(np.ptp(volume))
    rows = []
    for codec_name in BOUNDED:
        for share in ERRORS:
            fitted = codec(codec_name).fit(volume, settings_with_error(codec_name, share * span))
            point = measure(fitted, volume, chunk_slices=chunk_slices, similarities=False)
            if point.largest_error > share * span * (1 + FLOAT32):
                raise RuntimeError(f"{codec_name} is off by {point.largest_error}, allowed {share * span}")
            rows.append(Row(case, method(codec_name), f"{share:g}", point.bits_per_voxel, "bits/voxel"))
            rows.append(Row(case, method(codec_name), f"PSNR at {share:g}", point.psnr, "dB"))
        print(
            f"  {codec_name}: {[round(row.value, 3) for row in rows if row.method == method(codec_name)]}", flush=True
        )
    return rows + _lossless(case, volume, chunk_slices)


def settings_with_error(name: str, max_error: float) -> BaseModel:
    """Give a codec's settings for a largest error, in the volume's units."""
    unset = {"psnr": None} if name in (OURS, "sperr") else {}
    return codec(name).settings_type.model_validate({"max_error": max_error} | unset)


def _lossless(case: str, volume: Array, chunk_slices: int) -> list[Row]:
    if not (volume == np.rint(volume)).all() or np.ptp(volume) >= 2**16:
        return []
    points = [(name, codec(name).fit(volume)) for name in LOSSLESS]
    measured = [
        (name, measure(fitted, volume, chunk_slices=chunk_slices, similarities=False)) for name, fitted in points
    ]
    words = (volume - volume.min()).astype(np.uint16)
    chunks = np.split(words, range(chunk_slices, len(words), chunk_slices))
    ours = 8 * sum(len(encode_chunk(None, chunk, 0).payload) for chunk in chunks) / volume.size
    rows = [Row(case, name, "0", point.bits_per_voxel, "bits/voxel") for name, point in measured]
    return [*rows, Row(case, method(OURS), "0", ours, "bits/voxel")]
