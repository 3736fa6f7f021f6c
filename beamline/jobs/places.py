"""Where queues and spools lie."""

from __future__ import annotations

import hashlib
import os
import pwd
import tempfile
from pathlib import Path

__all__ = ["default_queue", "is_own", "rescue_folders", "spool_folder", "state_folder", "user_and_host"]


def state_folder() -> Path:
    """Give the user's folder for what programs keep: ``$XDG_STATE_HOME/quietbeam``, or below ``~/.local/state``."""
    given = os.environ.get("XDG_STATE_HOME", "")
    # The standard says that a relative path in this variable is to be ignored.
    base = Path(given) if Path(given).is_absolute() else Path(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111
    return base / "quietbeam"


def default_queue() -> Path:
    """Give the queue of this user: the environment's ``QUIETBEAM_QUEUE``, else ``jobs.db`` in `state_folder`."""
    given = os.environ.get("QUIETBEAM_QUEUE", "")
    return Path(given) if given else state_folder() / "jobs.db"


def spool_folder(queue: Path) -> Path:
    """Give the spool that belongs to a database: its path with ``.spool`` behind it."""
    return queue.with_name(f"{queue.name}.spool")


def rescue_folders(spool: Path) -> tuple[Path, Path]:
    """Give the spools for when neither the database nor the spool beside it can take anything.

    Parameters
    ----------
    spool : Path
        The spool that they stand for. Its path is part of their names, so that a worker of the same user on this
        machine finds what was meant for it.

    Returns
    -------
    tuple of Path
        In the user's state folder, and in the temporary folder.
    """
    spool = spool.resolve()
    name = f"{spool.stem}-{hashlib.sha256(os.fsencode(spool)).hexdigest()[:8]}.spool"
    return state_folder() / name, Path(tempfile.gettempdir()) / f"quietbeam-{os.getuid()}" / name


def user_and_host() -> str:
    """Name whose the rescue folders are and where: ``USER on HOST``; the number of a user that has no name."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"user {os.getuid()}"
    return f"{user} on {os.uname().nodename}"


def is_own(folder: Path) -> bool:
    """Tell whether a folder is there and this user's: in the temporary folder anybody may make one of any name."""
    try:
        return folder.lstat().st_uid == os.getuid()
    except OSError:
        return False
