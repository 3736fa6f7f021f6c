"""The process that does a job, as the worker sees it: started, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["COMMAND", "ChildProcess", "Ending", "device_environment"]

COMMAND = (sys.executable, "-m", "quietbeam.beamline.jobs.child")
GRACE_SECONDS = 2.0
"""Time that a child gets between SIGTERM and SIGKILL."""
KILLED_SECONDS = 10.0
"""Time that a killed child is waited for: one that hangs in a call of the kernel, for a disk, ends only after that."""
TAIL_LINES, TAIL_BYTES = 6, 1200
"""How much of the log goes into a reason."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended.

    Attributes
    ----------
    returncode : int
        As of `subprocess.Popen`: negative after a signal.
    result : dict or None
        What it made.
    error : str or None
        Why it made nothing, in its own words; None if it crashed.
    exit_code : int
        With `error`: what kind it is.
    may_pass : bool
        With `error`: it may be gone by itself later, as where a detector still writes.
    tail : str
        The last lines of its log.
    """

    returncode: int
    result: dict[str, Any] | None = None
    error: str | None = None
    exit_code: int = 1
    may_pass: bool = False
    tail: str = ""

    @property
    def crash(self) -> str:
        """How a child ended that said nothing."""
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.returncode).name}"
        return f"ended with code {self.returncode} and without a result"


class ChildProcess:
    """A child at work; whatever it started ends with it.

    Parameters
    ----------
    command : sequence of str
        The program.
    job : mapping
        For its standard input, as one line of JSON; the pipe stays open until the child has ended.
    log : Path
        For its standard error; the log of an earlier attempt is kept beside it.
    environment : mapping, optional
        All variables.

    Attributes
    ----------
    progress : str
        The last that it said.
    heard : float
        When that was, of `time.monotonic`.

    Raises
    ------
    OSError
        If the program or the log cannot be opened.
    """

    def __init__(
        self, command: Sequence[str], job: Mapping[str, Any], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log, self.progress, self.heard = log, "", time.monotonic()
        self._answer: dict[str, Any] = {}
        self._has_been_killed = False
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(  # noqa: S603
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C at the worker is the worker's affair
            )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        # A pipe holds little, and a child may hang before it reads.
        self._writer = threading.Thread(target=self._tell, args=(json.dumps(job).encode() + b"\n",), daemon=True)
        self._reader.start()
        self._writer.start()

    def _tell(self, line: bytes) -> None:
        stdin = self.process.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it ended before it read, and its ending will say why
                stdin.write(line)
                stdin.flush()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            with contextlib.suppress(ValueError):  # anything else that was printed
                self._hear(json.loads(line))

    def _hear(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        self.heard = time.monotonic()
        if "result" in message or "error" in message:
            self._answer = message
        elif "stage" in message:
            self.progress = _sentence(message)

    def wait(self, seconds: float) -> bool:
        """Wait for its end for so long; tell whether it came."""
        began = time.monotonic()
        self._reader.join(seconds)  # its end closes the pipe, unless something it started holds that
        return self._reap(0.0 if self._reader.is_alive() else max(0.0, began + seconds - time.monotonic()))

    def _reap(self, seconds: float) -> bool:
        """Wait for its end alone, and end what it left behind; tell whether it has ended."""
        if self.process.returncode is None:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            # Now, and not once more: with nobody left in it, the group's number may be another's later on.
            self._kill_group()
        return True

    def stop(self) -> None:
        """Ask it to end, then end it."""
        if not self._reap(0.0):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
        if not self.wait(GRACE_SECONDS):
            self.kill()

    def kill(self) -> None:
        """End it, and all that it started, at once."""
        if not self._reap(0.0):
            self._kill_group()
            if not (self._has_been_killed or self._reap(KILLED_SECONDS)):
                logger.warning("process %d was killed and has not ended; does a disk hang?", self.process.pid)
            self._has_been_killed = True

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter where all are zombies, on a Mac
            os.killpg(self.process.pid, signal.SIGKILL)

    def ending(self) -> Ending:
        """Wait for its end and tell how it was; of one that was killed and hangs, that it was killed."""
        self._reap(0.0 if self._has_been_killed else threading.TIMEOUT_MAX)
        returncode = -signal.SIGKILL if self.process.returncode is None else self.process.returncode
        self._reader.join(GRACE_SECONDS)  # longer only if something that left its group holds the pipe
        result, error = self._answer.get("result"), self._answer.get("error")
        return Ending(
            returncode=returncode,
            result=result if isinstance(result, dict) else None,
            error=str(error) if error is not None else None,
            exit_code=int(self._answer.get("exit_code") or 1),
            may_pass=bool(self._answer.get("may_pass")),
            tail=_tail(self.log),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe, user in ((self.process.stdin, self._writer), (self.process.stdout, self._reader)):
            user.join(GRACE_SECONDS)
            if pipe is not None and not user.is_alive():  # to close it would wait for its user
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def device_environment(device: str, num_slots: int, base: Mapping[str, str]) -> dict[str, str]:
    """Give a child's environment: one device to be seen, and its share of the cores.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu`` or ``cuda:N``, the N-th that the worker itself sees.
    num_slots : int
        Jobs at a time.
    base : mapping
        The worker's environment; a number of threads in it stays.

    Returns
    -------
    dict of str to str
        All variables.
    """
    environment = dict(base)
    if num_slots > 1:
        share = str(max(1, _num_cores() // num_slots))
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment.setdefault(name, share)
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        number = int(device.removeprefix("cuda:"))
        visible = [name for name in base.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) else str(number)
    return environment


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sentence(message: Mapping[str, Any]) -> str:
    done, total, note = message.get("done"), message.get("total"), message.get("note")
    return f"{message['stage']}: {done} of {total} {note or ''}".rstrip()


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
