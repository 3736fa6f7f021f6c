"""Indices of codebook entries on a grid, coded without loss with what is known of their neighbours.

Indices are coded as ranks: the entries are ordered by the sum of the square roots of their distances from those in the
slice before (counted twice), in the row above and in the column to the left, so that the entries found there come
first. The rank of the right one is coded with one of two tables, by the ranks at the same neighbours. All arithmetic is
on integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .entropy import IntegerDecoder, IntegerEncoder
from .wavefronts import Where, wavefronts

__all__ = ["decode_indices", "encode_indices"]

_NUM_CONTEXTS = 2
_MANY = 8
"""Ranks at the neighbours, weighted as their distances, that take the second table."""

Integers = NDArray[np.int32]
Wide = NDArray[np.int64]


def encode_indices(indices: Integers, entries: Integers) -> bytes:
    """Code indices without loss.

    Parameters
    ----------
    indices : int32, shape (slice, y, x)
        In [0, k).
    entries : int32, shape (k, channel)
        The codebook in whole numbers of size at most 2^23; k at most 256, at most 8 channels.

    Returns
    -------
    bytes
        To be read by `decode_indices`.
    """
    encoder = IntegerEncoder(_NUM_CONTEXTS)

    def code(where: Where, scores: Wide, contexts: Wide) -> tuple[Integers, Wide]:
        right = indices[where]
        of_right = np.take_along_axis(scores, right[:, None].astype(np.int64), 1)
        ranks = (scores < of_right).sum(1)
        encoder.add(_signed(ranks), contexts)
        return right, ranks

    _walk(indices.shape, entries, code)
    return encoder.to_bytes()


def decode_indices(bitstream: bytes, shape: tuple[int, ...], entries: Integers) -> Integers:
    """Read indices coded by `encode_indices`.

    Parameters
    ----------
    bitstream : bytes
        All of it.
    shape : tuple of int
        Slices, rows and columns of indices.
    entries : int32, shape (k, channel)
        As for the encoder.

    Returns
    -------
    int32, shape (slice, y, x)
        As the encoder was given.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    decoder = IntegerDecoder(bitstream, _NUM_CONTEXTS)

    def code(_: Where, scores: Wide, contexts: Wide) -> tuple[Integers, Wide]:
        ranks = _unsigned(decoder.take(contexts))
        if ranks.max() >= len(entries):
            raise ArchiveError(f"a rank among {len(entries)} entries is {ranks.max()}: the bitstream is damaged")
        order = scores.argsort(axis=1)
        return np.take_along_axis(order, ranks[:, None], 1)[:, 0].astype(np.int32), ranks

    return _walk(shape, entries, code)


def _walk(
    shape: tuple[int, ...], entries: Integers, code: Callable[[Where, Wide, Wide], tuple[Integers, Wide]]
) -> Integers:
    """Fill a grid, all positions with the same slice + row + column at once; `code` gives indices and ranks."""
    num_entries, distances = len(entries), _distances(entries)
    indices = np.full([size + 1 for size in shape], num_entries, np.int32)
    ranks = np.zeros(indices.shape, np.int64)
    for z, y, x in wavefronts(shape):
        before, above, left = (z, y + 1, x + 1), (z + 1, y, x + 1), (z + 1, y + 1, x)
        scores = 2 * distances[indices[before]] + distances[indices[above]] + distances[indices[left]]
        around = 2 * ranks[before] + ranks[above] + ranks[left]
        contexts = (around >= _MANY).astype(np.int64)
        here = (z + 1, y + 1, x + 1)
        # Equal scores are told apart by the index: they are at most 2^27, which leaves room for it.
        indices[here], ranks[here] = code((z, y, x), scores * num_entries + np.arange(num_entries), contexts)
    return np.ascontiguousarray(indices[1:, 1:, 1:])


def _distances(entries: Integers) -> Wide:
    """Give 2^12 times the square roots of the distances between entries; a last row of 0, for what is not known.

    Integers at each step: IEEE 754 has square roots rounded correctly, and all arguments are exact in float64.
    """
    squared = np.square(entries[:, None].astype(np.int64) - entries).sum(-1)
    roots = np.floor(np.sqrt(np.floor(np.sqrt(squared.astype(np.float64))) * 2.0**24))
    return np.concatenate([roots.astype(np.int64), np.zeros((1, len(entries)), np.int64)])


def _signed(ranks: Wide) -> Integers:
    """Map 0, 1, 2, ... to 0, -1, 1, ..., whose tokens are 0, 1, 2, ..."""
    return np.where(ranks % 2, -(ranks + 1) // 2, ranks // 2).astype(np.int32)


def _unsigned(values: Integers) -> Wide:
    wide = values.astype(np.int64)
    return np.where(wide < 0, -2 * wide - 1, 2 * wide)
