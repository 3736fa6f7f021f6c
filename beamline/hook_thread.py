"""Small tasks done one after the other beside the thread that asks for them."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["HookThread"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class HookThread(Generic[Item]):
    """A daemon thread that works through items; if it ended, as in a forked process, another begins with the next item.

    Parameters
    ----------
    work : callable
        Gets one item at a time.
    idle : callable
        Called when nothing came for `every` seconds.
    every : float
        Seconds.
    """

    def __init__(self, work: Callable[[Item], None], idle: Callable[[], None], *, every: float) -> None:
        self._work, self._idle, self._every = work, idle, every
        self._prepare()
        self._ensure_thread()  # now, not with the first item: to begin a thread takes a millisecond

    def _prepare(self) -> None:
        self._pid = os.getpid()
        self._items: queue.SimpleQueue[Item | threading.Event | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        """Leave an item; takes microseconds."""
        self._ensure_thread()
        self._items.put(item)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put before is done, `timeout` seconds at most; tell whether it is."""
        if self._pid != os.getpid() or self._thread is None:
            return True
        reached = threading.Event()
        self._items.put(reached)
        return reached.wait(timeout)

    def close(self, timeout: float) -> None:
        """End the thread when it has done what was put before; a later item begins another."""
        if self._pid == os.getpid() and (thread := self._thread) is not None:
            self._thread = None
            self._items.put(None)
            thread.join(timeout)

    def _ensure_thread(self) -> None:
        if self._pid == os.getpid() and self._thread is not None and self._thread.is_alive():
            return
        if self._pid != os.getpid():
            self._prepare()  # the parent's thread and locks were not inherited in a state that can be used
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="quietbeam-hook", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        items = self._items
        while True:
            try:
                item = items.get(timeout=self._every)
            except queue.Empty:
                self._guarded(self._idle)
                continue
            if item is None:
                return
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._guarded(self._work, item)

    @staticmethod
    def _guarded(work: Callable[..., None], *items: Item) -> None:
        try:
            work(*items)
        except BaseException:  # SystemExit too: in this thread it would end nothing but the thread
            logger.exception("a task beside the acquisition failed; the next ones are done all the same")
