"""Decoded chunks that are kept for the next who asks, up to a number of bytes; for any number of threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any

from numpy.typing import NDArray

__all__ = ["ChunkCache"]

Voxels = NDArray[Any]


class ChunkCache:
    """Keeps the chunks that were last asked for; a chunk wanted by several threads at once is decoded once.

    Parameters
    ----------
    num_bytes : int
        What the kept chunks may take together; the last one is kept in any case.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._chunks: OrderedDict[int, Future[Voxels]] = OrderedDict()
        self._lock = Lock()

    def clear(self) -> None:
        """Forget all chunks."""
        with self._lock:
            self._chunks.clear()

    def get(self, chunk: int, decode: Callable[[int], Voxels]) -> Voxels:
        """Give a chunk, decoded by `decode` if it is not kept; what that raises is raised for all who wait."""
        with self._lock:
            if is_new := chunk not in self._chunks:
                self._chunks[chunk] = Future()
            self._chunks.move_to_end(chunk)
            future = self._chunks[chunk]
        if is_new:
            self._fill(chunk, future, decode)
        return future.result()

    def _fill(self, chunk: int, future: Future[Voxels], decode: Callable[[int], Voxels]) -> None:
        try:
            future.set_result(decode(chunk))
        except BaseException as error:
            with self._lock:
                self._chunks.pop(chunk, None)
            future.set_exception(error)
        else:
            self._shrink()

    def _shrink(self) -> None:
        """Forget the chunks that nobody asked for the longest; one that is being decoded stays."""
        with self._lock:
            sizes = {chunk: future.result().nbytes for chunk, future in self._chunks.items() if future.done()}
            excess = sum(sizes.values()) - self._num_bytes
            for chunk, size in list(sizes.items())[:-1]:
                if excess <= 0:
                    break
                del self._chunks[chunk]
                excess -= size
