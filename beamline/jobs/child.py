"""One job in a process of its own: ``python -m quietbeam.beamline.jobs.child``, started by a worker.

It reads the job, one line of JSON, from its standard input, and ends at once when that ends: then the worker was
killed. It writes lines of JSON: ``{"stage", "done", "total", "note"}`` again and again, and at last
``{"result": {...}}`` or ``{"error": text, "exit_code": n}``, with the exit codes of `quietbeam.reconstruction.errors`,
and 2 for wrong settings. A child that ends without such a line has crashed. All else goes to its standard error. Heavy
libraries are imported only when the lifeline is fixed.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from .lifeline import ORPHANED, end_with

if TYPE_CHECKING:
    from .job_progress import JsonProgress

__all__ = ["RUN_FILE", "do_job", "main"]

RUN_FILE = "run.json"
"""The run reference in the output folder."""
USAGE, NO_SPACE = 2, 5


def main() -> int:
    """Do the job on standard input.

    Returns
    -------
    int
        Exit code: 0 if there is a result.
    """
    stdin, stream = _own_streams()
    line = stdin.readline()
    if not line.endswith(b"\n"):  # the worker was killed while it wrote
        return ORPHANED
    end_with(stdin.fileno())
    return _answer(json.loads(line), stream)


def _own_streams() -> tuple[BinaryIO, TextIO]:
    """Keep the two pipes to the worker to ourselves; what any library prints goes to the log instead."""
    stdin, stream = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stream


def _answer(job: dict[str, Any], stream: TextIO) -> int:
    """Do the job and say how it went; what nobody foresaw ends the process, with its traceback in the log."""
    from quietbeam.beamline.settings import SettingsError
    from quietbeam.reconstruction.errors import NotReadyError, QuietbeamError

    from .job_progress import send

    try:
        send(stream, {"result": do_job(job, stream)})
    except QuietbeamError as error:
        return _refuse(stream, str(error), error.exit_code, may_pass=isinstance(error, NotReadyError))
    except SettingsError as error:
        return _refuse(stream, str(error), USAGE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _refuse(stream, f"{error.filename or job['output']}: {error.strerror}", NO_SPACE)
    return 0


def _refuse(stream: TextIO, reason: str, exit_code: int, *, may_pass: bool = False) -> int:
    from .job_progress import send

    sys.stderr.write(f"error: {reason}\n")
    send(stream, {"error": reason, "exit_code": exit_code, "may_pass": may_pass})
    return exit_code


def do_job(job: dict[str, Any], stream: TextIO) -> dict[str, Any]:
    """Reduce a scan and publish what came out.

    Parameters
    ----------
    job : dict
        ``output`` (folder), ``scan`` (path) or ``run`` (reference), ``settings`` (``stage.name`` to value), ``publish``
        (`PublishSettings`).
    stream : TextIO
        Where to tell the progress.

    Returns
    -------
    dict
        ``output``, ``numbers`` and ``key`` of the manifest, ``published``, and ``publish_error`` where that failed.
    """
    from rich.console import Console

    from quietbeam.beamline.manifest import read_manifest
    from quietbeam.beamline.progress import LineProgress
    from quietbeam.beamline.reduce import reduce_scan
    from quietbeam.beamline.settings import read_settings
    from quietbeam.beamline.workspace import MANIFEST

    from .job_progress import JsonProgress

    output = Path(job["output"])
    settings = read_settings(options=job["settings"])
    progress = JsonProgress(stream, LineProgress(Console(stderr=True)))
    # What lies in the folder is this very job's: an earlier result of other settings, or of a run that was not whole
    # yet, is to be replaced, or the job would not have been queued again.
    reduce_scan(_scan(job, output), output, settings, progress=progress, overwrite=True)
    manifest = read_manifest(output / MANIFEST)
    result = {"output": str(output), "numbers": manifest["numbers"], "key": manifest["key"]}
    return result | _publish(job, output, progress)


def _scan(job: dict[str, Any], output: Path) -> Path:
    """Give the scan: as it was submitted, or the run's reference, written beside the result."""
    from quietbeam.beamline.atomic import write_atomically

    if job["run"] is None:
        return Path(job["scan"])
    path, content = output / RUN_FILE, json.dumps(job["run"]).encode() + b"\n"
    if not path.exists() or path.read_bytes() != content:  # one that stays as it is need not be hashed anew
        write_atomically(path, content)
    return path


def _publish(job: dict[str, Any], output: Path, progress: JsonProgress) -> dict[str, Any]:
    """Give the result back; it is there whatever goes wrong here, and publishing it can be tried again."""
    from quietbeam.beamline.publishing.publish import PublishError, PublishSettings, publish_result

    settings = PublishSettings.model_validate(job["publish"])
    try:
        with progress.stage("publish", 1) as step:
            published = publish_result(output, settings, job["run"])
            step.advance()
    except PublishError as error:
        progress.say(f"not published: {error}")
        return {"published": {}, "publish_error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"published": {}, "publish_error": f"{type(error).__name__}: {error}"}
    return {"published": published}


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the libraries' own ends take time, and may crash after all is said
