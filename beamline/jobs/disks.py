"""Which kind of file system a folder lies on: SQLite's shared-memory log needs a local disk."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["NETWORK_DISKS", "file_system", "is_network_disk"]

NETWORK_DISKS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "afs", "openafs", "auristorfs", "ncpfs", "coda", "davfs"),
        *("gpfs", "lustre", "beegfs", "ceph", "cephfs", "panfs", "pvfs2", "orangefs", "glusterfs", "weka", "wekafs"),
        *("gfs2", "ocfs2", "acfs", "quobyte", "moosefs", "xtreemfs", "9p", "vboxsf"),
    }
)
"""Types in /proc/self/mountinfo of disks that several machines share; also behind ``fuse.``."""

_NETWORK_FUSE = frozenset({"sshfs", "s3fs", "rclone", "juicefs", "mfs", "seaweedfs", "davfs2", "goofys", "gcsfuse"})
_MOUNTS = Path("/proc/self/mountinfo")


def file_system(path: Path, *, mounts: Path = _MOUNTS) -> str:
    """Tell the type of file system that a path lies on, or would lie on.

    Parameters
    ----------
    path : Path
        It need not exist: its nearest folder that does counts.
    mounts : Path
        The system's list of what is mounted where (proc_pid_mountinfo(5)).

    Returns
    -------
    str
        ``"ext4"``, ``"nfs4"``, ``"fuse.sshfs"`` ...; ``"unknown"`` where the system has no such list.
    """
    folder = _nearest_folder(path)
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return "unknown"
    kind, depth = "unknown", -1
    for place, mounted in map(_mount, lines):
        # Of two mounts at one place the later one hides the earlier.
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            kind, depth = mounted, len(place.parts)
    return kind


def is_network_disk(kind: str) -> bool:
    """Tell whether a type given by `file_system` is shared between machines."""
    behind_fuse = kind.removeprefix("fuse.").removeprefix("fuse_")
    return behind_fuse in NETWORK_DISKS or (behind_fuse != kind and behind_fuse in _NETWORK_FUSE)


def _nearest_folder(path: Path) -> Path:
    # Looking at it also makes an automounter mount it.
    path = path.absolute()
    return next((folder.resolve() for folder in (path, *path.parents) if folder.exists()), Path("/"))


def _mount(line: str) -> tuple[Path, str]:
    # 36 35 98:0 /root /mount\040point rw,noatime shared:1 - ext4 /dev/sda1 rw
    fields, _, source = line.partition(" - ")
    place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
    return Path(place), source.split(" ")[0]
