"""Entropy coding of integers with tables of integer frequencies, the same bits on every machine.

A value is split into a token and a few raw bits (the hybrid integers of JPEG XL [1]_), so that an outlier needs no
escape and the tables stay small. Tokens are range-coded by constriction [2]_ with one table per context.

Nothing here depends on how a machine rounds: the tables hold integer frequencies with the sum 2^14, and are handed to
constriction as weights for which its own normalisation is the identity on integers (see `FrequencyTable.model`).

References
----------
.. [1] ISO/IEC 18181-1:2024, JPEG XL Image Coding System, annex C.3.3.
.. [2] Bamler, Understanding entropy coding with asymmetric numeral systems, arXiv:2201.01741, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint

__all__ = ["LARGEST", "FrequencyTable", "IntegerDecoder", "IntegerEncoder"]

_TABLE_SUM = 2**14
_CODER_SUM = 2**24
_NUM_DIRECT = 16
_NUM_TOKENS = _NUM_DIRECT + 2 * 27
LARGEST = 2**29
"""Absolute values to code lie below this."""

Integers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class FrequencyTable:
    """How often each token occurs in one context.

    Attributes
    ----------
    tokens : int64, shape (k,)
        The tokens that occur, ascending.
    frequencies : int64, shape (k,)
        Positive, with the sum 2^14.
    """

    tokens: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64]) -> FrequencyTable:
        """Scale the counts of all tokens to the sum 2^14, none that occurs below 1."""
        tokens = np.flatnonzero(counts)
        present = counts[tokens]
        if not len(tokens):
            return cls(tokens, present)
        frequencies = np.maximum(present * _TABLE_SUM // present.sum(), 1)
        frequencies[present.argmax()] += _TABLE_SUM - frequencies.sum()
        return cls(tokens, frequencies)

    @classmethod
    def read(cls, reader: ByteReader) -> FrequencyTable:
        """Read a table; `ArchiveError` if it is none."""
        num_tokens = reader.varint()
        if num_tokens > _NUM_TOKENS:
            raise ArchiveError(
                f"a frequency table names {num_tokens} tokens, at most {_NUM_TOKENS} exist: it is damaged"
            )
        numbers = [reader.varint() for _ in range(2 * num_tokens - 1)]
        tokens = np.cumsum(numbers[::2], dtype=np.int64) + np.arange(num_tokens)
        frequencies = np.array([*numbers[1::2], _TABLE_SUM - sum(numbers[1::2])][:num_tokens], np.int64)
        if num_tokens and (frequencies.min() < 1 or tokens[-1] >= _NUM_TOKENS):
            raise ArchiveError("a frequency table has a frequency below 1 or an unknown token: it is damaged")
        return cls(tokens, frequencies)

    def to_bytes(self) -> bytes:
        """Write the number of tokens, then gap and frequency of each; the last frequency follows from the sum."""
        gaps = np.diff(self.tokens, prepend=-1) - 1
        numbers = np.column_stack([gaps, self.frequencies]).ravel()[:-1]
        return b"".join(map(varint, [len(self.tokens), *numbers.tolist()]))

    @cached_property
    def model(self) -> Any:
        """The table as a model of constriction, with exactly these frequencies.

        Given n floats w, constriction assigns symbol i the range from ``i + floor(W_i (2^24 - n) / W_n)`` on, where W
        is the cumulative sum of w. With ``w = 2^10 frequency - 1`` the factor is 1 and all sums are integers below
        2^53: no rounding takes place on any machine.
        """
        weights = self.frequencies * (_CODER_SUM // _TABLE_SUM) - 1
        return constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)

    def encode(self, coder: Any, tokens: NDArray[np.int64]) -> None:
        """Append tokens to a range encoder; a table of one token needs no bits."""
        if len(self.tokens) > 1:
            coder.encode(np.searchsorted(self.tokens, tokens).astype(np.int32), self.model)

    def decode(self, coder: Any, num_tokens: int) -> NDArray[np.int64]:
        """Take tokens from a range decoder."""
        if not len(self.tokens):
            raise ArchiveError("a bitstream of integers lacks the frequency table of a context: it is damaged")
        if len(self.tokens) == 1:
            return np.repeat(self.tokens, num_tokens)
        try:
            ranks: Integers = coder.decode(self.model, num_tokens)
        except AssertionError as error:
            raise ArchiveError("a bitstream of integers is damaged: restore it from a copy") from error
        return self.tokens[ranks]


class IntegerEncoder:
    """Collects integers with their contexts, and codes them with one frequency table per context.

    Parameters
    ----------
    num_contexts : int
        Contexts are 0 ... num_contexts - 1.
    """

    def __init__(self, num_contexts: int) -> None:
        self._num_contexts = num_contexts
        self._groups: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._bits: list[NDArray[np.uint8]] = []
        self._counts = np.zeros((num_contexts, _NUM_TOKENS), np.int64)

    def add(self, values: Integers, contexts: NDArray[np.integer[Any]]) -> None:
        """Append integers; the decoder takes them in groups of the same sizes.

        Parameters
        ----------
        values : int32, shape (n,)
            Absolute values below 2^29.
        contexts : integer, shape (n,)
            Which table codes each of them.

        Raises
        ------
        ValueError
            If a value is too large or a context unknown.
        """
        wide = values.astype(np.int64)
        if np.any(np.abs(wide) >= LARGEST):
            raise ValueError(
                f"integers to code must lie between {-LARGEST} and {LARGEST}, got {wide[np.abs(wide).argmax()]}"
            )
        order, starts = _by_context(contexts, self._num_contexts)
        tokens, num_bits, rest = _split(wide)
        keys = contexts.astype(np.int64) * _NUM_TOKENS + tokens
        self._counts += np.bincount(keys, minlength=self._counts.size).reshape(self._counts.shape)
        self._groups.append((tokens[order], starts))
        self._bits.append(_to_bits(rest, num_bits))

    def to_bytes(self) -> bytes:
        """Give the bitstream: tables, raw bits, range-coded words."""
        tables = [FrequencyTable.from_counts(row) for row in self._counts]
        coder = constriction.stream.queue.RangeEncoder()
        for tokens, starts in self._groups:
            for context in np.flatnonzero(np.diff(starts)):
                tables[context].encode(coder, tokens[starts[context] : starts[context + 1]])
        words = coder.get_compressed().astype("<u4").tobytes()
        bits = np.packbits(np.concatenate([np.empty(0, np.uint8), *self._bits])).tobytes()
        return b"".join([*(table.to_bytes() for table in tables), varint(len(bits)), bits, words])


class IntegerDecoder:
    """Reads back what `IntegerEncoder` wrote, group by group.

    Parameters
    ----------
    data : bytes
        The whole bitstream.
    num_contexts : int
        As for the encoder.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged or cut short, as far as that shows: the archive's checksums show the rest.
    """

    def __init__(self, data: bytes, num_contexts: int) -> None:
        reader = ByteReader(data, "a bitstream of integers")
        self._tables = [FrequencyTable.read(reader) for _ in range(num_contexts)]
        self._bits = np.unpackbits(np.frombuffer(reader.take(reader.varint()), np.uint8))
        words = reader.rest()
        if len(words) % 4:
            raise ArchiveError("a bitstream of integers is cut within a word: restore it from a copy")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def take(self, contexts: NDArray[np.integer[Any]]) -> Integers:
        """Decode the next group.

        Parameters
        ----------
        contexts : integer, shape (n,)
            As given to `IntegerEncoder.add`.

        Returns
        -------
        int32, shape (n,)
            The values.
        """
        order, starts = _by_context(contexts, len(self._tables))
        sizes = np.diff(starts)
        groups = [self._tables[context].decode(self._coder, sizes[context]) for context in np.flatnonzero(sizes)]
        tokens = np.empty(len(contexts), np.int64)
        tokens[order] = np.concatenate([np.empty(0, np.int64), *groups])
        num_bits = _num_bits(tokens)
        if (needed := int(num_bits.sum())) > len(self._bits):
            raise ArchiveError(f"a bitstream of integers has {len(self._bits)} raw bits left, expected {needed}")
        bits, self._bits = self._bits[:needed], self._bits[needed:]
        return _join(tokens, _from_bits(bits, num_bits))


def _by_context(contexts: NDArray[np.integer[Any]], num_contexts: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Give the stable order by context, and where each context starts in it."""
    if len(contexts) and (contexts.min() < 0 or contexts.max() >= num_contexts):
        raise ValueError(f"contexts must lie in [0, {num_contexts}), got {contexts.min()} to {contexts.max()}")
    starts = np.concatenate([[0], np.bincount(contexts, minlength=num_contexts).cumsum()])
    return np.argsort(contexts, kind="stable"), starts


def _num_bits(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the raw bits behind each token: the value's exponent less the one bit in the token."""
    return np.where(tokens < _NUM_DIRECT, 0, (tokens - _NUM_DIRECT) // 2 + 3)


def _split(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split integers into tokens, numbers of raw bits, and the raw bits themselves."""
    magnitudes = np.where(values < 0, -2 * values - 1, 2 * values)
    exponents = np.frexp(np.maximum(magnitudes, _NUM_DIRECT).astype(np.float64))[1].astype(np.int64) - 1
    halves = magnitudes >> (exponents - 1) & 1
    tokens = np.where(magnitudes < _NUM_DIRECT, magnitudes, _NUM_DIRECT + 2 * (exponents - 4) + halves)
    num_bits = _num_bits(tokens)
    return tokens, num_bits, magnitudes & ((1 << num_bits) - 1)


def _join(tokens: NDArray[np.int64], rest: NDArray[np.int64]) -> Integers:
    exponents, halves = (tokens - _NUM_DIRECT) // 2 + 4, (tokens - _NUM_DIRECT) % 2
    large = (2 + halves) << np.maximum(exponents - 1, 0)
    magnitudes = np.where(tokens < _NUM_DIRECT, tokens, large | rest)
    return np.where(magnitudes % 2, -(magnitudes + 1) // 2, magnitudes // 2).astype(np.int32)


def _to_bits(rest: NDArray[np.int64], num_bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Lay the raw bits of all values end to end, lowest bit first."""
    rest = np.repeat(rest, num_bits)
    return (rest >> _places(num_bits) & 1).astype(np.uint8)


def _from_bits(bits: NDArray[np.uint8], num_bits: NDArray[np.int64]) -> NDArray[np.int64]:
    owners = np.repeat(np.arange(len(num_bits)), num_bits)
    rest = np.zeros(len(num_bits), np.int64)
    np.add.at(rest, owners, bits.astype(np.int64) << _places(num_bits))
    return rest


def _places(num_bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the place of each raw bit within its value."""
    return np.arange(num_bits.sum()) - np.repeat(num_bits.cumsum() - num_bits, num_bits)
