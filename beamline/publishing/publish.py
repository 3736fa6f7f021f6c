"""Results given back: files beside the archive, and a derived run in the catalogues.

Everything can be done again: what is whole stays as it is, what is missing is made. Nothing here changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietbeam.beamline.workspace import Workspace
from quietbeam.reconstruction.errors import PublishError, QuietbeamError, ReductionError

from .derived_run import Document, derived_run
from .document_files import write_documents
from .files import publish_files
from .provenance import Provenance, read_provenance
from .published import FOLDER
from .settings import PublishSettings
from .tiled_writer import publish_to_tiled

if TYPE_CHECKING:
    from quietbeam.beamline.jobs.queue import JobQueue

__all__ = ["PendingOutcome", "PublishError", "PublishSettings", "publish_pending", "publish_result"]


@dataclass(frozen=True)
class PendingOutcome:
    """What became of one job whose result had not been published.

    Attributes
    ----------
    job : int
        Number of the job.
    name : str
        Its name, for people.
    error : str or None
        Why it is still not published.
    """

    job: int
    name: str
    error: str | None


def publish_result(output: Path, settings: PublishSettings, reference: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make the files of a finished result that are asked for, then announce it as a derived run.

    Parameters
    ----------
    output : Path
        Output folder of a finished reduction.
    settings : PublishSettings
        What to make and whom to tell.
    reference : dict, optional
        Reference of the raw run, ``quietbeam-run-1``; by default that in ``run.json`` of the folder, if it is there.

    Returns
    -------
    dict
        Plain JSON: ``folder`` of the files, ``files`` by format, ``uid`` of the derived run, its file ``documents`` and
        its place in ``tiled``, None where that was not asked for.

    Raises
    ------
    PublishError
        If files cannot be made or a catalogue cannot be written to; what was made stays, and the same call goes on.
    ArchiveError
        If there is no finished result, or its archive is damaged.
    """
    provenance = read_provenance(output, reference)
    try:
        with Workspace(provenance.output).locked():
            return _publish(provenance, settings)
    except (OSError, ReductionError) as error:
        raise PublishError(f"{output}: not published: {error}") from error


def _publish(provenance: Provenance, settings: PublishSettings) -> dict[str, Any]:
    files = publish_files(provenance, settings)
    documents = derived_run(provenance, settings)
    written = write_documents(settings.documents, documents) if settings.documents else None
    return {
        "folder": str(provenance.output / FOLDER),
        "files": files,
        "uid": provenance.uid,
        "documents": str(written) if written else None,
        "tiled": _to_tiled(documents, provenance, settings) if settings.tiled_uri else None,
    }


def _to_tiled(documents: list[Document], provenance: Provenance, settings: PublishSettings) -> dict[str, str]:
    """Write to Tiled; as long as that fails, the documents are kept in the backup folder."""
    backup = settings.backup or provenance.output / FOLDER
    try:
        place = publish_to_tiled(documents, provenance, settings)
    except PublishError:
        write_documents(backup, documents)
        raise
    (backup / f"{provenance.uid}.jsonl").unlink(missing_ok=True)
    return place


def publish_pending(queue: JobQueue, settings: PublishSettings) -> list[PendingOutcome]:
    """Publish the results of all jobs that could not be published when they were done.

    Parameters
    ----------
    queue : JobQueue
        Where the jobs are; those in the state ``done_unpublished`` become ``done``.
    settings : PublishSettings
        What to make and whom to tell.

    Returns
    -------
    list of PendingOutcome
        One for each job; one that fails does not keep the others back.
    """
    outcomes = []
    for job in queue.jobs(states=("done_unpublished",)):
        result, error = dict(job.result or {}), None
        try:
            result["published"] = publish_result(Path(str(result.get("output"))), settings, job.submission.run)
            queue.published(job.id, result)
        except QuietbeamError as reason:
            error = str(reason)
        outcomes.append(PendingOutcome(job.id, job.name, error))
    return outcomes
