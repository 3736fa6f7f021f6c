"""A folder of submissions that wait for the queue: one file each, there whole or not at all, on any disk."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .request import Submission

__all__ = ["Spool", "Spooled"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spooled:
    """One submission in a spool.

    Attributes
    ----------
    path : Path
        Its file.
    submission : Submission
        What the file holds.
    """

    path: Path
    submission: Submission

    def remove(self) -> None:
        """Forget the file: its submission is in the database. Another worker may have done so before."""
        self.path.unlink(missing_ok=True)


class Spool:
    """A folder in which submissions wait until a worker takes them into the queue.

    Renaming is atomic on local disks and on network disks, and so is a spool: many may write, many may take. A writer
    needs nothing but the right to write in the folder.

    Parameters
    ----------
    folder : Path or str
        Made by the first `write`, if the folder above is there.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._told: set[str] = set()
        self._taken: set[str] = set()

    def write(self, submission: Submission) -> Path:
        """Leave a submission, flushed to the disk.

        Returns
        -------
        Path
            Its file. Names sort by time.

        Raises
        ------
        OSError
            If the folder cannot be made or written, or the disk is full; nothing is left then.
        """
        content = submission.to_json().encode() + b"\n"
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.json"
        temporary = path.with_name(f".{path.name}.partial")
        try:
            _write_flushed(temporary, content)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_names(self.folder)
        return path

    def take(self) -> Iterator[Spooled]:
        """Go through what waits, oldest first.

        The caller puts each submission into the database, then calls its `remove`. A damaged file is moved to
        ``refused/`` with the reason beside it; one that cannot be read now stays; neither holds up the rest.
        """
        for path in self._waiting():
            if (submission := self._read(path)) is not None:
                yield Spooled(path, submission)

    def keep(self, path: Path, error: OSError) -> None:
        """Pass a file over from now on that was taken and could not be removed, as in a folder of another user."""
        self._taken.add(path.name)
        self._tell(path, f"is in the queue, but stays here as well; remove it, or give the right to: {error}")

    def refuse(self, path: Path, reason: str) -> None:
        """Move a file that cannot be used to ``refused/``, with the reason beside it."""
        refused = self.folder / "refused"
        try:
            refused.mkdir(exist_ok=True)
            path.rename(refused / path.name)
            (refused / f"{path.name}.reason.txt").write_text(reason + "\n")
        except FileNotFoundError:
            return  # another worker refused it
        except OSError as error:
            reason = f"{reason}; it could not be moved to {refused} either: {error}"
        self._tell(path, f"refused, see {refused}: {reason}")

    def __len__(self) -> int:
        return len(self._waiting())

    def _read(self, path: Path) -> Submission | None:
        try:
            return Submission.from_json(path.read_bytes())
        except FileNotFoundError:
            pass  # another worker was faster
        except OSError as error:
            self._tell(path, f"cannot be read now and stays: {error}")
        except ValueError as error:
            self.refuse(path, str(error))
        return None

    def _waiting(self) -> list[Path]:
        try:
            paths = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._tell(self.folder, f"cannot be listed: {error}")
            return []
        self._taken &= {path.name for path in paths}
        waiting = (path for path in paths if path.suffix == ".json" and path.name not in self._taken)
        return [path for path in waiting if not path.name.startswith(".")]

    def _tell(self, path: Path, what: str) -> None:
        """Log once for each file, however often the spool is looked through."""
        if path.name not in self._told:
            self._told.add(path.name)
            logger.warning("%s: %s", path, what)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_names(folder: Path) -> None:
    # The file is there by now: a network disk that cannot flush names, or a folder that may not be read, is no failure.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
