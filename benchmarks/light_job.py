"""A job that computes nothing, for a worker: it keeps a journal of when it began and ended.

python -I -S benchmarks/light_job.py [FILE]

It is told what a worker tells a job, on its standard input or in FILE; ``settings`` say what it does: ``light.seconds``
that it takes, ``light.do`` (finish, refuse, crash, or crash once), and ``light.journal``, a file to which it appends
lines ``{"key", "event", "time", "mark"}``; event is begin, overlap (another process was at work on the same output) or
end. It ends when its standard input does.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path

ORPHANED, BAD_DATA = 75, 3


def main() -> int:
    """Do the job; give the exit code."""
    job = _read_job()
    settings, mark = job["settings"], uuid.uuid4().hex
    _note(settings["light.journal"], job["key"], "begin", mark)
    output = Path(job["output"])
    output.mkdir(parents=True, exist_ok=True)
    lock = os.open(output / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _note(settings["light.journal"], job["key"], "overlap", mark)
    _say({"stage": "sleep", "done": 0, "total": 1, "note": ""})
    time.sleep(settings["light.seconds"])
    return _end(job, mark)


def _end(job: dict, mark: str) -> int:
    what = job["settings"].get("light.do", "finish")
    if what == "crash" or (what == "crash once" and _is_first_time(Path(job["output"]))):
        sys.stderr.write("out of memory, or so\n")
        sys.stderr.flush()
        os.abort()
    if what == "refuse":
        _say({"error": "these are no projections", "exit_code": BAD_DATA})
        return BAD_DATA
    _note(job["settings"]["light.journal"], job["key"], "end", mark)
    _say({"result": {"output": job["output"], "mark": mark}})
    return 0


def _read_job() -> dict:
    if len(sys.argv) > 1:
        return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        os._exit(ORPHANED)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    return json.loads(line)


def _end_with_the_worker() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def _is_first_time(output: Path) -> bool:
    try:
        (output / "crashed").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _note(journal: str, key: str, event: str, mark: str) -> None:
    """Append one line by one call of the system, so that a kill leaves it whole or not at all."""
    line = json.dumps({"key": key, "event": event, "time": time.time(), "mark": mark}) + "\n"
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _say(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
