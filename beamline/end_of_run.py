"""The end of a run as NSLS-II's workflows are told of it: a function that submits the run, to be made a Prefect flow.

::

    from prefect import flow
    from quietbeam.beamline.end_of_run import end_of_run_workflow

    flow(log_prints=True)(end_of_run_workflow).serve(name="quietbeam")

Prefect is not needed to import it. Where the catalogue and the queue are is told by the environment: ``TILED_URI`` or
``QUIETBEAM_TILED`` (an address, or the name of a Tiled profile), ``TILED_API_KEY``, and ``QUIETBEAM_QUEUE``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from quietbeam.reconstruction.errors import QuietbeamError

__all__ = ["end_of_run_workflow"]

_VARIABLES = ("QUIETBEAM_TILED", "TILED_URI")
LAG_SECONDS = 30.0
"""How much later than the stop document the end of a run may come to the catalogue."""


def end_of_run_workflow(stop_doc: dict[str, Any], api_key: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Submit the run that has ended.

    Parameters
    ----------
    stop_doc : dict
        Stop document of the run; its ``run_start`` is the run's uid.
    api_key : str, optional
        Of the catalogue; goes before ``TILED_API_KEY``. It is neither logged nor stored.
    dry_run : bool
        Only say what would be done.

    Returns
    -------
    dict
        Plain JSON: ``run`` (uid), ``done`` (``queued``, ``known``, ``remembered``, or ``passed over``), ``why``,
        ``queue`` and ``dry_run``.

    Raises
    ------
    QuietbeamError
        If the catalogue does not have the run or does not answer, or nothing could take the job.
    ValueError
        If it is no stop document.
    """
    uid = stop_doc.get("run_start") if isinstance(stop_doc, Mapping) else None
    if not isinstance(uid, str) or not uid:
        raise ValueError(
            f"expected a stop document with the uid of its run in run_start, got {type(stop_doc).__name__}"
        )
    from quietbeam.beamline.jobs.places import default_queue
    from quietbeam.beamline.jobs.submission import open_queue
    from quietbeam.beamline.watching.intake import Intake
    from quietbeam.beamline.watching.tiled_runs import connected

    with connected(_catalogue(), api_key) as client:
        reference = _ended_run(client, uid)
    queue = open_queue(default_queue())
    what, why = Intake(queue, "end-of-run", dry_run=dry_run).take_run(reference)
    return {"run": uid, "done": what, "why": why, "queue": str(queue.path), "dry_run": dry_run}


def _ended_run(client: Any, uid: str) -> dict[str, Any]:
    """Get a run with its end: the catalogue is often behind the stop document, and only then knows all frames."""
    from quietbeam.beamline.watching.folder import WatchError
    from quietbeam.beamline.watching.tiled_runs import reference_of_run

    deadline = time.monotonic() + LAG_SECONDS
    while True:
        problem = f"run {uid}: the catalogue has not been told that it ended; try again later"
        try:
            reference = reference_of_run(client, uid)
            if reference["stop"] is not None:
                return reference
        except WatchError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise QuietbeamError(problem)
        time.sleep(1.0)


def _catalogue() -> str:
    found = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)
    if found is None:
        raise QuietbeamError(f"no Tiled catalogue is named in the environment; set {' or '.join(_VARIABLES)}")
    return found
