"""Numbers of varying length in a bitstream, and a reader that never reads past its end."""

from __future__ import annotations

from quietbeam.reconstruction.errors import ArchiveError

__all__ = ["ByteReader", "varint"]


def varint(value: int) -> bytes:
    """Write a non-negative integer in groups of seven bits, lowest first (LEB128)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class ByteReader:
    """Takes a bitstream apart from front to back.

    Parameters
    ----------
    data : bytes
        The bitstream.
    what : str
        What it is, for the error message.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._position = data, what, 0

    def take(self, num_bytes: int) -> bytes:
        """Read the next `num_bytes` bytes; `ArchiveError` if there are fewer."""
        end = self._position + num_bytes
        if end > len(self._data):
            raise ArchiveError(
                f"{self._what} ends after {len(self._data)} bytes, expected at least {end}: "
                "it is damaged or cut short, restore it from a copy"
            )
        self._position, start = end, self._position
        return self._data[start:end]

    def varint(self) -> int:
        """Read a number written by `varint`; `ArchiveError` if it is longer than five bytes."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ArchiveError(f"{self._what} holds a number of more than 35 bits: it is damaged, restore it from a copy")

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(len(self._data) - self._position)
