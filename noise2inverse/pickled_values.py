"""Pickles read as data: numbers, texts, lists and dictionaries, and nothing that could run.

A pickle is a program for a small stack machine [1]_. Here are its instructions that files of tensors use, 31 of them;
any other is refused. The name of a class or function is looked up in a table of the caller's, and is never imported.
What comes out takes memory in proportion to the file: nothing is copied more than once, and nothing is unpacked.

References
----------
.. [1] Python's module ``pickletools`` describes every instruction.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

__all__ = ["describe", "read_pickle", "take"]

_CONSTANTS: dict[bytes, object] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUTS = {b"q": "<B", b"r": "<I"}
_GETS = {b"h": "<B", b"j": "<I"}
_MOST_ARGUMENTS = 8
_SHOWN = 40


def read_pickle(source: BytesIO, names: Mapping[str, object], fetch: Callable[[Any], object]) -> Any:
    """Read one pickle of protocol 2 or 3.

    Parameters
    ----------
    source : BytesIO
        Where the pickle begins; afterwards, where it has ended.
    names : mapping of str to object
        What "module.name" stands for: a function that is called with the arguments in the file, or any other value.
        No other name may occur.
    fetch : callable
        Makes an object from its persistent identifier, which may be of any kind.

    Returns
    -------
    object
        None, bool, int, float, str, tuple, list, dict with keys of str and int, or what `names` and `fetch` make.

    Raises
    ------
    ValueError, IndexError, KeyError, TypeError
        If it is no pickle, or asks for anything else.
    """
    machine = _Machine(source, names, fetch)
    while (code := take(source, 1)) != b".":
        machine.step(code)
    return machine.stack.pop()


def take(source: BytesIO, num_bytes: int) -> bytes:
    """Read exactly so many bytes.

    Parameters
    ----------
    source : BytesIO
        Where they begin.
    num_bytes : int
        How many.

    Returns
    -------
    bytes
        All of them.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    content = source.read(num_bytes) if num_bytes >= 0 else b""
    if len(content) != num_bytes:
        raise ValueError(f"expected {num_bytes} more bytes at byte {source.tell()}, got {len(content)}")
    return content


def describe(value: object) -> str:
    """Say what a value is, for a message. Tuples within tuples may be written out without end, so none is.

    Parameters
    ----------
    value : object
        Any value of a pickle.

    Returns
    -------
    str
        The beginning of a text or of an integer, else the name of the type.
    """
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    return str(value)[:_SHOWN] if type(value) is int else type(value).__name__


class _Machine:
    def __init__(self, source: BytesIO, names: Mapping[str, object], fetch: Callable[[Any], object]) -> None:
        self.source, self.names, self.fetch = source, names, fetch
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def step(self, code: bytes) -> None:
        if code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _NUMBERS:
            self.stack.append(self.unpack(_NUMBERS[code]))
        elif code in _PUTS:
            self.memo[self.unpack(_PUTS[code])] = self.stack[-1]
        elif code in _GETS:
            self.stack.append(self.memo[self.unpack(_GETS[code])])
        elif code in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[code])))
        elif code in _STEPS:
            _STEPS[code](self)
        else:
            raise ValueError(f"instruction {code!r} at byte {self.source.tell() - 1} is none that tensors need")

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, take(self.source, struct.calcsize(layout)))[0]

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError(f"expected {count} values on the stack, got {len(self.stack)}")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_to_mark(self) -> list[Any]:
        return self.pop(max(0, len(self.stack) - self.marks.pop()))

    def skip_protocol(self) -> None:
        take(self.source, 1)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def push_list(self) -> None:
        self.stack.append([])

    def push_dict(self) -> None:
        self.stack.append({})

    def push_marked(self) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def push_text(self) -> None:
        self.stack.append(str(take(self.source, self.unpack("<I")), "utf-8"))

    def push_long(self) -> None:
        self.stack.append(int.from_bytes(take(self.source, self.unpack("<B")), "little", signed=True))

    def push_named(self) -> None:
        module, name = (str(self.source.readline()[:-1], "ascii") for _ in range(2))
        if f"{module}.{name}" not in self.names:
            asked = f"{module[:_SHOWN]}.{name[:_SHOWN]}"
            raise ValueError(f"asks for {asked}, which no file of tensors needs; nothing was run")
        self.stack.append(self.names[f"{module}.{name}"])

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not callable(function) or not isinstance(arguments, tuple) or len(arguments) > _MOST_ARGUMENTS:
            raise TypeError("calls what is no function, or with what are no arguments")
        self.stack.append(function(*arguments))

    def leave_state(self) -> None:
        """Drop the attributes of an object; those of a state dict only hold its version."""
        self.pop(1)

    def fetch_persistent(self) -> None:
        self.stack.append(self.fetch(*self.pop(1)))

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        keys = values[::2]
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str | int) for key in keys):
            raise TypeError("expected a dictionary with keys of text or integers")
        self.stack[-1].update(zip(keys, values[1::2], strict=True))


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.skip_protocol,
    b"(": _Machine.mark,
    b"]": _Machine.push_list,
    b"}": _Machine.push_dict,
    b"t": _Machine.push_marked,
    b"X": _Machine.push_text,
    b"\x8a": _Machine.push_long,
    b"c": _Machine.push_named,
    b"R": _Machine.call,
    b"b": _Machine.leave_state,
    b"Q": _Machine.fetch_persistent,
    b"a": lambda machine: machine.extend(machine.pop(1)),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"s": lambda machine: machine.update(machine.pop(2)),
    b"u": lambda machine: machine.update(machine.pop_to_mark()),
}
