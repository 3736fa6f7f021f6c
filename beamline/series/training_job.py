"""A training by several processes on the machine of one worker: ``python -m quietbeam.beamline.series.training_job``.

The worker starts a launcher with the request in a file. The launcher ends with the worker, whatever ends that, and runs
torchrun, which starts this module again, once for each process. The first of them takes the scan forward, the others
train along, as where a user gives ``torchrun ... quietbeam reduce``. The answer goes into a file beside the request;
what the scan wants next is found by the worker itself, which takes up what is on the disk.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from quietbeam.beamline.atomic import write_atomically
from quietbeam.beamline.jobs.lifeline import end_with, end_with_parent
from quietbeam.beamline.reduce import LONGEST_STAGE, ScanRequest, Wanted, advance
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.reconstruction.errors import QuietbeamError, ReductionError

from .pool import Failure, guarded

__all__ = ["main", "train_together"]

MODULE = "quietbeam.beamline.series.training_job"
ANSWER = "answer.json"


class TrainingRefusedError(QuietbeamError):
    """What the processes said, with their exit code."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.exit_code = failure.exit_code


def train_together(request: ScanRequest, num_processes: int) -> None:
    """Take a scan forward with several processes until it wants pieces.

    Parameters
    ----------
    request : ScanRequest
        The scan, whose sections are reconstructed.
    num_processes : int
        Processes on this machine.

    Raises
    ------
    TrainingRefusedError
        If the scan was refused.
    ReductionError
        If some processes would have nothing to learn from, or all ended without an answer.
    """
    batch_size = request.settings.pairs.batch_size
    if batch_size < num_processes:
        raise ReductionError(
            f"pairs.batch_size must be at least cluster.training_processes, {num_processes}, got {batch_size}: set it "
            "to that or a multiple, or train with fewer processes"
        )
    with tempfile.TemporaryDirectory(prefix="quietbeam-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(_to_json(request)))
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", MODULE, str(path), str(num_processes)],
            stdin=subprocess.PIPE,  # never written to: its end tells the launcher that this process has ended
            stdout=sys.__stderr__,
            env=_environment(request, num_processes),
            start_new_session=True,  # Ctrl-C is the business of the one who started the series
        ) as launcher:
            returncode = launcher.wait()
        answer = Path(folder) / ANSWER
        if not answer.exists():
            raise ReductionError(
                f"the training by {num_processes} processes ended with code {returncode} and no answer"
            )
        failure = json.loads(answer.read_text())
    if failure:
        raise TrainingRefusedError(Failure(**failure))


def _environment(request: ScanRequest, num_processes: int) -> dict[str, str]:
    """Share the threads of the worker out among the processes."""
    threads = request.settings.compute.threads
    if threads is None:
        return dict(os.environ)
    share = str(max(1, threads // num_processes))
    return os.environ | {f"{name}_NUM_THREADS": share for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}


def main(arguments: list[str]) -> int:
    """Be the launcher, or one of the processes.

    Parameters
    ----------
    arguments : list of str
        File of the request, and for the launcher the number of processes.

    Returns
    -------
    int
        Exit code; 0 also where the scan was refused, which the answer tells.
    """
    if len(arguments) == 1:
        return _train(Path(arguments[0]))
    from torch.distributed.run import main as torchrun

    end_with(sys.stdin.fileno())
    path, num_processes = arguments
    torchrun(["--standalone", "--nproc-per-node", num_processes, "-m", MODULE, path])
    return 0


def _train(path: Path) -> int:
    """Be one of the processes."""
    import torch

    from quietbeam.beamline.feasibility import choose_device
    from quietbeam.beamline.network_training import dismiss, train_along
    from quietbeam.noise2inverse.distributed import process_group

    end_with_parent()
    request = _from_json(json.loads(path.read_text()))
    device = choose_device(request.settings.compute.device)
    with process_group(device, timeout_seconds=LONGEST_STAGE) as group:
        if not group.is_first:
            train_along(group, torch.get_num_threads())
            return 0
        answer = guarded(advance, (request, group))
        if not isinstance(answer, Failure) and not (isinstance(answer, Wanted) and answer.stage != "reconstruct"):
            dismiss(group)
    failure = dataclasses.asdict(answer) if isinstance(answer, Failure) else None
    write_atomically(path.parent / ANSWER, json.dumps(failure).encode())
    return 0


def _to_json(request: ScanRequest) -> dict[str, Any]:
    settings = request.settings.model_dump(mode="json")
    return {
        "path": str(request.path),
        "output": str(request.output),
        "settings": settings,
        "overwrite": request.overwrite,
    }


def _from_json(value: dict[str, Any]) -> ScanRequest:
    settings = ReductionSettings.model_validate(value["settings"])
    return ScanRequest(Path(value["path"]), Path(value["output"]), settings, value["overwrite"])


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads of the libraries may outlive their use
