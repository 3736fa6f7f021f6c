"""A queue of files, as in many a watch script: todo, doing, done. The peer of quietbeam's queue in queue_kills.py.

python benchmarks/folder_worker.py FOLDER [--put-back] [--until-empty]

A submission is a file in todo. It is renamed into doing, its job runs, and it is renamed into done or failed. With
--put-back, what lies in doing when the worker starts is put back into todo first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

JOB = (sys.executable, "-I", "-S", str(Path(__file__).with_name("light_job.py")))


def main() -> None:
    """Work, one file after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--put-back", action="store_true")
    parser.add_argument("--until-empty", action="store_true")
    arguments = parser.parse_args()
    todo, doing = arguments.folder / "todo", arguments.folder / "doing"
    for path in sorted(doing.iterdir()) if arguments.put_back else ():
        path.rename(todo / path.name)
    while waiting := sorted(todo.glob("*.json")) or not arguments.until_empty:
        for path in waiting if isinstance(waiting, list) else ():
            _do(path, arguments.folder)
        time.sleep(0.05)


def _do(path: Path, folder: Path) -> None:
    taken = path.rename(folder / "doing" / path.name)
    command = [*JOB, str(taken)]
    job = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)  # noqa: S603
    taken.rename(folder / ("failed" if job.returncode else "done") / path.name)


if __name__ == "__main__":
    main()
