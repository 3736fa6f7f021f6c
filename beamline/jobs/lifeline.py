"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading

__all__ = ["ORPHANED", "end_with", "end_with_parent"]

ORPHANED = 75
"""Exit code of a process whose stdin ended before its work did: try again later, as in sysexits.h."""
_PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""


def end_with(stdin: int) -> None:
    """End this process at once when nothing more can come from its standard input.

    The other end of that pipe is held by the process that started this one, and is closed by the kernel when that is
    killed. Where there is Linux, its kernel is asked as well: a thread can only act when the interpreter lets it, which
    it does not during long calls of libraries.

    Parameters
    ----------
    stdin : int
        Descriptor of the pipe; what was to be read from it has been read.
    """
    end_with_parent()
    threading.Thread(target=_wait_for_the_end, args=(stdin,), name="lifeline", daemon=True).start()


def _wait_for_the_end(stdin: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(stdin, 4096):
            pass
    os._exit(ORPHANED)


def end_with_parent() -> None:
    """End this process when the thread that started it ends, where there is Linux; nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without prctl: the thread remains
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
