"""Going on with less at once when the memory of a GPU runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from quietbeam.reconstruction.errors import ReductionError

__all__ = ["DeviceLimit"]

T = TypeVar("T")


class DeviceLimit:
    """How much a GPU takes at once: what is asked for, until its memory runs out, then half of it, and so on.

    Only `torch.OutOfMemoryError` counts, which the allocator of a GPU raises: the memory of the host is another matter.
    Once halved it stays so; one limit may serve several trainings or volumes, one after the other.

    Parameters
    ----------
    on_halved : callable, optional
        Called with the new size, each time that it is halved.

    Attributes
    ----------
    most : int or None
        What fits as far as is known; None until the memory has run out once.
    """

    def __init__(self, on_halved: Callable[[int], None] | None = None) -> None:
        self.most: int | None = None
        self._on_halved = on_halved

    def run(self, size: int, attempt: Callable[[int], T], *, least: int, what: str) -> T:
        """Do something with as much at once as fits.

        Parameters
        ----------
        size : int
            What is wanted at once.
        attempt : callable
            Does it with the size it is given; it is called again from the start, with half of that, when the memory
            runs out.
        least : int
            Below this, less at once would not help.
        what : str
            What does not fit and what to do, should that be so.

        Returns
        -------
        object
            What `attempt` gave.

        Raises
        ------
        ReductionError
            If not even `least` fits.
        """
        while True:
            taken = size if self.most is None else min(size, self.most)
            try:
                return attempt(taken)
            except torch.OutOfMemoryError as error:
                if taken <= least:
                    raise ReductionError(f"the memory of the GPU does not suffice for {what} ({error})") from error
            # Out of the handler: the frames of the traceback held what did not fit.
            self.most = max(least, (taken + 1) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self._on_halved:
                self._on_halved(self.most)
