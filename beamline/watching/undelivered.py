"""What was found and the queue could not take: kept, and tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from quietbeam.reconstruction.errors import QueueError

__all__ = ["RETRY_SECONDS", "Undelivered"]

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


class Undelivered:
    """Gives what was found to the queue, and keeps what that could not take, in memory.

    Parameters
    ----------
    seconds : float
        Least time between two tries.
    """

    def __init__(self, seconds: float = RETRY_SECONDS) -> None:
        self._seconds, self._tried = seconds, 0.0
        self._waiting: dict[Hashable, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def deliver(self, what: Hashable, give: Callable[[], None]) -> None:
        """Give something to the queue now, or keep it.

        Parameters
        ----------
        what : hashable
            Tells things apart: of the same one, only the latest is kept.
        give : callable
            Gives it, or raises a `QueueError`.
        """
        self._waiting.pop(what, None)  # what was known of it before is of no use any more
        try:
            give()
        except QueueError as error:
            if not self._waiting:
                log.warning("%s; what was found is kept and tried again: %s", what, error)
            self._waiting[what] = give

    def retry(self) -> None:
        """Try again what is kept, the oldest first, if the last time is long enough ago."""
        if not self._waiting or time.monotonic() - self._tried < self._seconds:
            return
        for what, give in list(self._waiting.items()):
            try:
                give()
            except QueueError:
                break  # the others would have to wait for it as long
            del self._waiting[what]
        else:
            log.warning("the queue takes again what was found")
        self._tried = time.monotonic()

    def give_up(self) -> None:
        """Try once more at the end, and tell what is left."""
        self._tried = -self._seconds
        self.retry()
        if self._waiting:
            log.error(
                "%d not queued: quietbeam catch-up finds runs later; %s", len(self), ", ".join(map(str, self._waiting))
            )
