"""The post-scan hook for plans: for one plan, for every tomography plan of a session, and to wait for a result.

::

    RE(denoise_wrapper(tomo_fly_scan(...), denoise, profile="fast"))
    RE.preprocessors.append(DenoisePreprocessor(profile="default"))

    def look_closer():
        uid = yield from tomo_fly_scan(...)
        job = yield from wait_result(uid, denoise, timeout=600)
        if job is not None and job.state == "done":
            ...
"""

# mypy: disable-error-code="no-untyped-call"
# bluesky's preprocessors have no types.

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, make_decorator

from quietbeam.reconstruction.errors import QueueError

from .hook import PostScan
from .jobs.submission import open_queue

if TYPE_CHECKING:
    from .jobs.queue import JobQueue, JobRow
    from .jobs.submission import Destination

__all__ = ["DenoisePreprocessor", "denoise_decorator", "denoise_wrapper", "submit", "wait_result"]

_ENDED = ("done", "done_unpublished", "failed", "cancelled")


def denoise_wrapper(
    plan: MsgGenerator[Any], hook: PostScan, profile: str | None = None, *, priority: int | None = None, **params: Any
) -> MsgGenerator[Any]:
    """Have every run of one plan reduced that takes projections.

    The hook may be subscribed to the RunEngine as well: there is one job all the same.

    Parameters
    ----------
    plan : generator
        The plan.
    hook : PostScan
        Subscribed while the plan runs.
    profile : str, optional
        Of the jobs; the hook's own if not given.
    priority : int, optional
        Of the jobs; likewise.
    **params
        Settings over the profile, a table for each stage: ``training={"epochs": 20}``. Metadata have no dots in keys.

    Returns
    -------
    object
        What the plan returns.
    """
    asked = _asked(profile, priority, params)

    def pass_on(name: str, doc: dict[str, Any]) -> None:
        hook(name, doc)

    # bluesky knows a callback by its identity: the hook itself would no longer be subscribed after the plan, though
    # the session had subscribed it.
    return (yield from bpp.subs_wrapper(bpp.inject_md_wrapper(plan, {"tomo_denoise": asked}), pass_on))


denoise_decorator = make_decorator(denoise_wrapper)
"""`denoise_wrapper` for a function that makes plans: ``@denoise_decorator(hook, profile="fast")``."""


class DenoisePreprocessor:
    """Asks for the reduction of all tomography runs of a session, those whose metadata have ``tomo``.

    For ``RE.preprocessors``: the plans keep their parameters, as queueserver and blueapi need it. What a run says
    itself under ``tomo_denoise`` is left as it is.

    Parameters
    ----------
    profile : str, optional
        Of the jobs; the hook's own if not given.
    priority : int, optional
        Of the jobs; likewise.
    **params
        As of `denoise_wrapper`.

    Attributes
    ----------
    enabled : bool
        False: plans are passed on as they are.
    """

    def __init__(self, profile: str | None = None, *, priority: int | None = None, **params: Any) -> None:
        self.enabled = True
        self._asked = _asked(profile, priority, params)

    def __call__(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Pass a plan on, its tomography runs tagged."""
        return (yield from bpp.msg_mutator(plan, self._tag))

    def _tag(self, message: Msg) -> Msg:
        wanted = self.enabled and message.command == "open_run" and "tomo" in message.kwargs
        if not wanted or "tomo_denoise" in message.kwargs:
            return message
        return message._replace(kwargs={**message.kwargs, "tomo_denoise": self._asked})


def submit(
    hook: PostScan, which: str | Path, *, profile: str | None = None, settings: Mapping[str, object] | None = None
) -> MsgGenerator[JobRow | None]:
    """Queue a run or a scan within a plan, beside the RunEngine's loop; see `PostScan.submit`.

    Returns
    -------
    JobRow or None
        The job; None in a dry run, or if it went to the spool.

    Raises
    ------
    QuietbeamError
        As `PostScan.submit`.
    """

    def work() -> JobRow | None:
        return hook.submit(which, profile=profile, settings=settings)

    job: JobRow | None = yield from _beside(lambda: asyncio.to_thread(work))
    return job


def wait_result(
    uid: str, queue: PostScan | JobQueue | Destination | Path | str, timeout: float = 600.0, *, poll: float = 1.0
) -> MsgGenerator[JobRow | None]:
    """Wait within a plan until the job of a run has ended; the RunEngine stays responsive meanwhile.

    Parameters
    ----------
    uid : str
        Of the run.
    queue : PostScan, JobQueue, Destination, Path or str
        Where it was queued.
    timeout : float
        Seconds to wait at most.
    poll : float
        Seconds between two looks.

    Returns
    -------
    JobRow or None
        The job as it stands: done, failed or cancelled, or in another state when the time is up. None if no job is
        known by then, and in a dry run. Its `state` tells: nothing is raised, so that a plan can go on
        without the result.

    Raises
    ------
    QueueError
        If there is no such queue.
    """
    if isinstance(queue, Path | str) and not Path(queue).exists():
        raise QueueError(f"{queue}: there is no queue; give the path that the hook was given")
    destination = queue.destination if isinstance(queue, PostScan) else open_queue(queue)

    def look() -> JobRow | None:
        try:
            return destination.queue().find(uid)
        except LookupError:
            return None

    async def ended() -> JobRow | None:
        end = time.monotonic() + timeout
        while True:
            job = await asyncio.to_thread(look)
            left = end - time.monotonic()
            if left <= 0 or (job is not None and job.state in _ENDED):
                return job
            await asyncio.sleep(min(poll, left))

    job: JobRow | None = yield from _beside(ended)
    return job


def _beside(work: Callable[[], Any]) -> MsgGenerator[Any]:
    """Give the result of a coroutine; its error is the plan's. None in a dry run, where no RunEngine answers."""
    done = yield from bps.wait_for([work])
    return None if done is None else next(iter(done)).result()


def _asked(profile: str | None, priority: int | None, params: Mapping[str, Any]) -> dict[str, Any]:
    given = {"profile": profile, "priority": priority, "params": dict(params) or None}
    return {"enabled": True} | {name: value for name, value in given.items() if value is not None}
