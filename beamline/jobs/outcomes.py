"""What becomes of a job after its process has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .child_process import Ending

__all__ = ["LOCKED_SECONDS", "SPACE_SECONDS", "Outcome", "judge", "retry_delay"]

Action = Literal["done", "failed", "retry", "postponed", "lost"]
Wait = Literal["", "space", "the lock"]
REFUSED, USAGE, BAD_DATA, NO_SPACE, LOCKED = 1, 2, 3, 5, 6
LOCKED_SECONDS = 10.0
SPACE_SECONDS = 300.0
LONGEST_RETRY_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is to be told to the queue.

    Attributes
    ----------
    action : str
        done; failed for good; to be tried again; postponed, where the attempt does not count; or lost, where the job is
        no longer this worker's.
    reason : str
        Why, for people.
    seconds : float
        Until a postponed job is looked at again.
    waits_for : str
        It is postponed for want of space, or since another process has the output locked: not without end.
    result : mapping
        Of a job that is done.
    """

    action: Action
    reason: str = ""
    seconds: float = 0.0
    waits_for: Wait = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def judge(ending: Ending) -> Outcome:
    """Decide what becomes of a job.

    Parameters
    ----------
    ending : Ending
        How its process ended.

    Returns
    -------
    Outcome
        A result counts however the process ended after it. What was refused with a reason would be refused again, but
        not data that are still being written; a crash, or an archive that did not hold what was put in, may be the
        machine's fault.
    """
    if ending.result is not None:
        return Outcome(action="done", result=ending.result, reason=str(ending.result.get("publish_error") or ""))
    if ending.error is None:
        return Outcome(action="retry", reason="\n".join(filter(None, (ending.crash, ending.tail))))
    if ending.exit_code in (REFUSED, USAGE, BAD_DATA) and not ending.may_pass:
        return Outcome(action="failed", reason=ending.error)
    if ending.exit_code == LOCKED:
        return Outcome(action="postponed", reason=ending.error, seconds=LOCKED_SECONDS, waits_for="the lock")
    if ending.exit_code == NO_SPACE:
        return Outcome(action="postponed", reason=ending.error, seconds=SPACE_SECONDS, waits_for="space")
    return Outcome(action="retry", reason=ending.error)


def retry_delay(attempts: int, first: float) -> float:
    """Give the seconds before the next attempt: twice as many after each.

    Parameters
    ----------
    attempts : int
        Attempts so far.
    first : float
        Seconds after the first one.

    Returns
    -------
    float
        At most an hour.
    """
    return min(first * 2.0 ** min(attempts - 1, 30), LONGEST_RETRY_SECONDS)
