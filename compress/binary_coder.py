"""Arithmetic coding of binary decisions, each with its own probability, in integers.

The carryless range coder of the PAQ family [1]_: an interval of 32 bits is divided in the ratio of the probabilities,
and its leading bytes are written as soon as both ends agree on them. The same function writes and reads, so that an
encoder and its decoder cannot differ.

References
----------
.. [1] Mahoney, Adaptive weighing of context models for lossless data compression, Florida Institute of Technology,
   report CS-2005-16, 2005.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled
from quietbeam.reconstruction.errors import ArchiveError

__all__ = [
    "EVEN",
    "INLINE",
    "BinaryCoder",
    "check_end",
    "check_length",
    "code_bit",
    "code_raw",
    "finish",
    "is_decoder",
    "new_decoder",
    "new_encoder",
    "reserve",
]

EVEN = 1 << 15
"""The probability 1/2, in units of 2^-16."""

INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "_nrt": False}
"""Options of `compiled` for what is called for every point: as part of its caller, without counting references to the
arrays of a tuple, which would take four fifths of the time. Such a function makes no arrays."""

_LOW, _HIGH, _CODE, _POSITION, _DECODING = range(5)
_NUM_CODE_BYTES = 4
_FULL = 0xFFFFFFFF
_MARK, _MARK_BITS = 0xA53C, 16


class BinaryCoder(NamedTuple):
    """An encoder or a decoder; its functions change the arrays.

    Attributes
    ----------
    state : int64, shape (5,)
        Ends of the interval (both inside), the four bytes of the bitstream that lie in it, the position in `buffer`,
        and 1 for a decoder.
    buffer : uint8, shape (n,)
        The bitstream.
    """

    state: NDArray[np.int64]
    buffer: NDArray[np.uint8]


def new_encoder() -> BinaryCoder:
    """Make an encoder without room for bytes: `reserve` gives it some."""
    return BinaryCoder(np.array([0, _FULL, 0, 0, 0], np.int64), np.zeros(0, np.uint8))


def new_decoder(bitstream: bytes) -> BinaryCoder:
    """Make a decoder; beyond its end a bitstream goes on with zeros."""
    code = int.from_bytes(bitstream[:_NUM_CODE_BYTES].ljust(_NUM_CODE_BYTES, b"\0"), "big")
    state = np.array([0, _FULL, code, _NUM_CODE_BYTES, 1], np.int64)
    return BinaryCoder(state, np.frombuffer(bitstream, np.uint8).copy())


def reserve(coder: BinaryCoder, num_bits: int) -> BinaryCoder:
    """Give an encoder room for that many more decisions; each may take two bytes. A decoder stays as it is."""
    needed = int(coder.state[_POSITION]) + 2 * num_bits + _NUM_CODE_BYTES
    if coder.state[_DECODING] or needed <= len(coder.buffer):
        return coder
    return coder._replace(buffer=np.pad(coder.buffer, (0, needed + needed // 4 - len(coder.buffer))))


def finish(coder: BinaryCoder) -> bytes:
    """Give the bitstream of an encoder: what is written, a mark of 16 bits, and one byte that ends in the interval."""
    coder = reserve(coder, _MARK_BITS)
    code_raw(coder, _MARK_BITS, _MARK)
    written = coder.buffer[: coder.state[_POSITION]].tobytes()
    return written + bytes([(int(coder.state[_LOW]) >> 24) + 1])


def check_length(coder: BinaryCoder) -> None:
    """Check that a decoder has not read beyond its bitstream; `ArchiveError` if so, before more memory is taken."""
    if coder.state[_DECODING] and coder.state[_POSITION] > len(coder.buffer) + _NUM_CODE_BYTES:
        raise ArchiveError("a bitstream of binary decisions ends too early: it is damaged, restore it from a copy")


def check_end(coder: BinaryCoder) -> None:
    """Check that a decoder has read its bitstream to the end, and the mark there; `ArchiveError` if not."""
    mark = code_raw(coder, _MARK_BITS, 0)
    expected = int(coder.state[_POSITION]) - _NUM_CODE_BYTES + 1
    if mark != _MARK or len(coder.buffer) != expected:
        raise ArchiveError(
            f"a bitstream of binary decisions has {len(coder.buffer)} bytes and the mark {mark:04x} after its last "
            f"decision, expected {expected} and {_MARK:04x}: it is damaged or cut short, restore it from a copy"
        )


@compiled(**INLINE)
def is_decoder(coder: BinaryCoder) -> bool:
    """Tell whether a coder reads."""
    return bool(coder.state[_DECODING])


@compiled(**INLINE)
def code_bit(coder: BinaryCoder, probability: int, bit: int) -> int:
    """Write a bit, or read one.

    Parameters
    ----------
    coder : BinaryCoder
        Encoder or decoder.
    probability : int
        That the bit is 1, in units of 2^-16; from 1 to 2^16 - 1.
    bit : int
        What to write; a decoder takes no notice.

    Returns
    -------
    int
        The bit, 0 or 1.
    """
    state = coder.state
    low, high = int(state[_LOW]), int(state[_HIGH])
    width = high - low
    middle = low + (width >> 16) * probability + (((width & 0xFFFF) * probability) >> 16)
    if state[_DECODING]:
        bit = 1 if state[_CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        _move_byte(coder, high >> 24)
        low, high = (low << 8) & _FULL, ((high << 8) & _FULL) | 255
    state[_LOW], state[_HIGH] = low, high
    return bit


@compiled(**INLINE)
def _move_byte(coder: BinaryCoder, leading: int) -> None:
    """Write the byte that both ends share, or read the next."""
    state, buffer = coder.state, coder.buffer
    position = int(state[_POSITION])
    if state[_DECODING]:
        following = int(buffer[position]) if position < buffer.size else 0
        state[_CODE] = ((int(state[_CODE]) << 8) & _FULL) | following
    elif position < buffer.size:
        buffer[position] = leading
    state[_POSITION] = position + 1


@compiled(**INLINE)
def code_raw(coder: BinaryCoder, num_bits: int, value: int) -> int:
    """Write or read the lowest bits of a value, the highest first, each with the probability 1/2."""
    result = 0
    for place in range(num_bits - 1, -1, -1):
        result = 2 * result + code_bit(coder, EVEN, (value >> place) & 1)
    return result
