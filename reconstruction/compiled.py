"""Compilation of loops, kept on disk for the next process where there is a place to keep it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Compile a function with numba when it is first called; it releases the interpreter's lock.

    Parameters
    ----------
    **options
        For `numba.njit`.

    Returns
    -------
    callable
        The decorator. Where neither the package's folder nor the user's can be written, as in a read-only image, every
        process compiles anew; ``NUMBA_CACHE_DIR`` names another folder.
    """

    def decorate(function: Function) -> Function:
        try:
            made: Function = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba found no folder for its cache
            made = numba.njit(nogil=True, **options)(function)
        return made

    return decorate
