"""Latents of a chunk of slices, coded with what is known of their neighbours.

The grid (slice, channel, y, x) is walked in wavefronts: all positions with the same slice + y + x, so that the slice
before, the row above and the column to the left are known and a wavefront is one array operation. Each channel is
predicted by the candidate that would have been best so far in that channel; the table is chosen by how large the
corrections at the three neighbours and in the channel were. All of it follows from what was decoded before: nothing is
stored but the corrections, and all arithmetic is on integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .entropy import IntegerDecoder, IntegerEncoder
from .wavefronts import Where, wavefronts

__all__ = ["LARGEST_LATENT", "decode_latents", "encode_latents"]

LARGEST_LATENT = 2**13 - 1
"""Latents are limited to this size."""

_THRESHOLDS = 2 ** np.arange(1, 10)
_NUM_CONTEXTS = len(_THRESHOLDS) + 1
_SCALE = 16
_PRIOR = 4
_NUM_CANDIDATES = 4

Integers = NDArray[np.int32]
Wide = NDArray[np.int64]


def encode_latents(latents: Integers) -> bytes:
    """Code latents without loss.

    Parameters
    ----------
    latents : int32, shape (slice, channel, y, x)
        Absolute values of at most `LARGEST_LATENT`.

    Returns
    -------
    bytes
        To be read by `decode_latents`.

    Raises
    ------
    ValueError
        If a latent is too large.
    """
    if latents.size and (largest := int(np.abs(latents).max())) > LARGEST_LATENT:
        raise ValueError(f"latents must be at most {LARGEST_LATENT} in size, got {largest}")
    encoder, last = IntegerEncoder(_NUM_CONTEXTS), np.moveaxis(latents, 1, -1)

    def correct(where: Where, predicted: Wide, contexts: Wide) -> Wide:
        corrections = last[where] - predicted
        encoder.add(corrections.astype(np.int32).ravel(), contexts.ravel())
        return corrections

    _walk(latents.shape, correct)
    return encoder.to_bytes()


def decode_latents(bitstream: bytes, shape: tuple[int, ...]) -> Integers:
    """Read latents coded by `encode_latents`.

    Parameters
    ----------
    bitstream : bytes
        All of it.
    shape : tuple of int
        Slices, channels, rows and columns of the grid.

    Returns
    -------
    int32, shape (slice, channel, y, x)
        As the encoder gave them.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    decoder = IntegerDecoder(bitstream, _NUM_CONTEXTS)

    def correct(_: Where, predicted: Wide, contexts: Wide) -> Wide:
        corrections = decoder.take(contexts.ravel()).reshape(contexts.shape).astype(np.int64)
        if corrections.size and np.abs(predicted + corrections).max() > LARGEST_LATENT:
            raise ArchiveError(f"a latent is larger than {LARGEST_LATENT}: the bitstream is damaged")
        return corrections

    return _walk(shape, correct)


def _walk(shape: tuple[int, ...], correct: Callable[[Where, Wide, Wide], Wide]) -> Integers:
    """Fill a grid wavefront by wavefront; `correct` gives what is missing in each prediction."""
    num_slices, num_channels, num_rows, num_columns = shape
    padded = np.zeros((num_slices + 1, num_rows + 1, num_columns + 1, num_channels), np.int32)
    sizes = np.zeros_like(padded)
    past, channel = _Past(num_channels), np.arange(num_channels)
    for where in wavefronts((num_slices, num_rows, num_columns)):
        candidates = _candidates(_neighbours(padded, where))
        predicted = candidates[past.best(), :, channel].T
        contexts = past.contexts(_neighbours(sizes, where))
        values = predicted + correct(where, predicted, contexts)
        past.add(values, candidates, predicted)
        here = tuple(axis + 1 for axis in where)
        padded[here], sizes[here] = values, np.abs(values - predicted)
    return np.ascontiguousarray(np.moveaxis(padded[1:, 1:, 1:], -1, 1))


class _Past:
    """What was seen so far in each channel: the error of each candidate, and of the prediction."""

    def __init__(self, num_channels: int) -> None:
        self._errors: Wide = np.zeros((_NUM_CANDIDATES, num_channels), np.int64)
        self._total: Wide = np.zeros(num_channels, np.int64)
        self._count = 0

    def best(self) -> NDArray[np.intp]:
        best: NDArray[np.intp] = self._errors.argmin(axis=0)
        return best

    def contexts(self, neighbours: list[Wide]) -> Wide:
        mean = _SCALE * (self._total + _PRIOR) // (self._count + _PRIOR)
        around = _SCALE * sum(neighbours) // 3
        return np.searchsorted(_THRESHOLDS, around + mean, side="right").astype(np.int64)

    def add(self, values: Wide, candidates: Wide, predicted: Wide) -> None:
        self._errors += np.abs(values - candidates).sum(axis=1)
        self._total += np.abs(values - predicted).sum(axis=0)
        self._count += len(values)


def _candidates(neighbours: list[Wide]) -> Wide:
    """Give the predictions to choose from, shape (candidate, position, channel)."""
    before, above, left = neighbours
    around = (above + left + 1) // 2
    return np.stack([np.zeros_like(before), before, around, (before + around + 1) // 2])


def _neighbours(padded: Integers, where: Where) -> list[Wide]:
    """Give the slice before, the row above and the column to the left; 0 beyond an edge."""
    z, y, x = where
    return [
        values.astype(np.int64)
        for values in (padded[z, y + 1, x + 1], padded[z + 1, y, x + 1], padded[z + 1, y + 1, x])
    ]
