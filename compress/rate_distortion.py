"""What a codec costs and how near it comes: one row for each setting, of learned and classical codecs alike."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from quietbeam.reconstruction.quality import SMALLEST_SIDE, WINDOW, ms_ssim, msle, ssim

from .codec import Codec, SliceSource, codec

__all__ = ["RatePoint", "measure", "rate_at", "sweep"]


class RatePoint(NamedTuple):
    """A codec with one setting, on one volume.

    Attributes
    ----------
    codec : str
        Its name in the table of codecs.
    setting : str
        What was set, for example ``psnr=44``; empty for the defaults.
    bits_per_voxel : float
        All bitstreams and the codec's state, divided by the number of voxels.
    psnr : float
        Decibel, over the range of the whole volume; inf if nothing is lost.
    ssim : float or None
        Mean over all slices; None if a side is under 11 pixels, or it was not asked for.
    ms_ssim : float or None
        Likewise; None if a side is under 161 pixels.
    msle : float
        Mean square Laplacian error over all slices, in the square of the volume's units per pixel^4.
    largest_error : float
        At any voxel, in the volume's units.
    encode_rate, decode_rate : float
        Speed in 10^6 bytes of the float32 volume per second; the codec's fitting is not in it.
    encode_seconds, decode_seconds : float
        Time of all processors for the volume, s.
    """

    codec: str
    setting: str
    bits_per_voxel: float
    psnr: float
    ssim: float | None
    ms_ssim: float | None
    msle: float
    largest_error: float
    encode_rate: float
    decode_rate: float
    encode_seconds: float
    decode_seconds: float


def measure(
    codec: Codec, volume: SliceSource, *, chunk_slices: int = 16, setting: str = "", similarities: bool = True
) -> RatePoint:
    """Encode and decode a volume chunk by chunk, and compare.

    The similarities and MSLE are means over slices, so their means over chunks, weighted by slices, are those of the
    whole volume; no more than a chunk is held beside the volume.

    Parameters
    ----------
    codec : Codec
        Fitted to the volume.
    volume : SliceSource
        Finite, not constant; shape (slice, y, x).
    chunk_slices : int
        Slices that are coded together; the last chunk may have fewer.
    setting : str
        What to call the setting.
    similarities : bool
        Take SSIM and MS-SSIM, which are slower than many a codec.

    Returns
    -------
    RatePoint
        Decoding is by a codec that was read back from its bytes.

    Raises
    ------
    ValueError
        If the volume is constant or not finite, or `chunk_slices` is under 1.
    """
    if chunk_slices < 1:
        raise ValueError(f"chunk_slices must be 1 or more, got {chunk_slices}")
    data_range = _range(volume, chunk_slices)
    state = codec.to_bytes()
    decoder = type(codec).from_bytes(state)
    compared = data_range if similarities else None
    parts = [_measure_chunk(codec, decoder, chunk, compared) for chunk in _chunks(volume, chunk_slices)]
    return _combine(parts, data_range, len(state), (codec.name, setting))


def sweep(
    name: str,
    settings: Iterable[BaseModel],
    volume: SliceSource,
    *,
    chunk_slices: int = 16,
    seed: int = 0,
    similarities: bool = True,
) -> list[RatePoint]:
    """Fit and measure a codec with each of some settings.

    Parameters
    ----------
    name : str
        Of the codec, see `quietbeam.compress.codec.known_codecs`.
    settings : iterable of BaseModel
        Each of the codec's `settings_type`.
    volume : SliceSource
        Shape (slice, y, x).
    chunk_slices : int
        Slices that are coded together.
    seed : int
        For codecs that learn.
    similarities : bool
        Take SSIM and MS-SSIM.

    Returns
    -------
    list of RatePoint
        In the order of the settings.
    """
    kind = codec(name)
    return [
        measure(
            kind.fit(volume, each, seed=seed),
            volume,
            chunk_slices=chunk_slices,
            setting=_describe(each),
            similarities=similarities,
        )
        for each in settings
    ]


def rate_at(points: Sequence[RatePoint], psnr: float) -> float | None:
    """Interpolate the rate at a quality: the logarithm of the rate goes linearly with the PSNR between two points.

    Parameters
    ----------
    points : sequence of RatePoint
        Of one codec; lossless ones do not count.
    psnr : float
        Decibel.

    Returns
    -------
    float or None
        Bits per voxel; None if no points lie on both sides.

    Raises
    ------
    ValueError
        If the points are of several codecs.
    """
    if len(names := {point.codec for point in points}) > 1:
        raise ValueError(f"rates are interpolated along one codec, got points of {', '.join(sorted(names))}")
    known = sorted((point.psnr, point.bits_per_voxel) for point in points if math.isfinite(point.psnr))
    if not known or not known[0][0] <= psnr <= known[-1][0]:
        return None
    qualities, rates = zip(*known, strict=True)
    return float(np.exp(np.interp(psnr, qualities, np.log(rates))))


class _Part(NamedTuple):
    """One chunk; sums over its slices or voxels."""

    num_slices: int
    num_voxels: int
    num_bytes: int
    square_error: float
    ssim: float | None
    ms_ssim: float | None
    msle: float
    largest_error: float
    encoding: tuple[float, float]
    decoding: tuple[float, float]


def _chunks(volume: SliceSource, chunk_slices: int) -> Iterable[NDArray[np.float32]]:
    for first in range(0, volume.shape[0], chunk_slices):
        yield np.ascontiguousarray(volume[first : first + chunk_slices], np.float32)


def _range(volume: SliceSource, chunk_slices: int) -> float:
    ends = [(float(chunk.min()), float(chunk.max())) for chunk in _chunks(volume, chunk_slices)]
    span = max(high for _, high in ends) - min(low for low, _ in ends)
    if not 0 < span < math.inf:
        raise ValueError(f"a volume to measure codecs on must be finite and not constant, got a range of {span}")
    return span


def _measure_chunk(encoder: Codec, decoder: Codec, chunk: NDArray[np.float32], data_range: float | None) -> _Part:
    start = _clocks()
    bitstream = encoder.encode(chunk)
    encoding, start = _since(start), _clocks()
    decoded = decoder.decode(bitstream, chunk.shape)
    decoding = _since(start)
    error = decoded.astype(np.float64) - chunk
    count, side = len(chunk), min(chunk.shape[1:])
    return _Part(
        num_slices=count,
        num_voxels=chunk.size,
        num_bytes=len(bitstream),
        square_error=float(np.sum(np.square(error))),
        ssim=count * ssim(chunk, decoded, data_range=data_range) if data_range and side >= WINDOW else None,
        ms_ssim=count * ms_ssim(chunk, decoded, data_range=data_range)
        if data_range and side >= SMALLEST_SIDE
        else None,
        msle=count * msle(chunk, decoded),
        largest_error=float(np.abs(error).max()),
        encoding=encoding,
        decoding=decoding,
    )


def _clocks() -> tuple[float, float]:
    """Give seconds that went by, and seconds of all processors."""
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, processors = _clocks()
    return wall - start[0], processors - start[1]


def _combine(parts: Sequence[_Part], data_range: float, num_state_bytes: int, names: tuple[str, str]) -> RatePoint:
    num_slices, num_voxels = sum(part.num_slices for part in parts), sum(part.num_voxels for part in parts)
    mean_square = sum(part.square_error for part in parts) / num_voxels
    encode_wall, encode_seconds = np.sum([part.encoding for part in parts], axis=0).tolist()
    decode_wall, decode_seconds = np.sum([part.decoding for part in parts], axis=0).tolist()
    return RatePoint(
        *names,
        bits_per_voxel=8 * (num_state_bytes + sum(part.num_bytes for part in parts)) / num_voxels,
        psnr=20 * math.log10(data_range) - 10 * math.log10(mean_square) if mean_square > 0 else math.inf,
        ssim=_mean([part.ssim for part in parts], num_slices),
        ms_ssim=_mean([part.ms_ssim for part in parts], num_slices),
        msle=sum(part.msle for part in parts) / num_slices,
        largest_error=max(part.largest_error for part in parts),
        encode_rate=4e-6 * num_voxels / encode_wall,
        decode_rate=4e-6 * num_voxels / decode_wall,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def _mean(sums: Sequence[float | None], count: int) -> float | None:
    known = [each for each in sums if each is not None]
    return sum(known) / count if len(known) == len(sums) else None


def _describe(settings: BaseModel) -> str:
    given = settings.model_dump(mode="json", exclude_unset=True)
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items()
    )
