"""Finding things in HDF5 files from strangers: every link is followed by hand, none beyond the allowed folders.

HDF5 opens the target of an external link, and the sources of a virtual dataset, by itself as soon as one touches them.
Here the links are read as text first, checked, and only then followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin  # noqa: F401 - registers the compression filters

from quietbeam.reconstruction.errors import NotReadyError, ScanError

__all__ = ["Place", "data_files", "is_hdf5", "list_names", "locate", "open_hdf5", "open_unlocked"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_USER_BLOCK = 2**20
_MAX_LINKS = 32
_MAX_DEPTH = 12
_MAX_NAMES = 100_000


class Place(NamedTuple):
    """An object in an HDF5 file; `inner` is its absolute path there."""

    path: Path
    inner: str

    def __str__(self) -> str:
        return f"{self.path}:{self.inner}"


def is_hdf5(path: Path) -> bool:
    """Look for the signature at 0, 512, 1024, ... bytes, where HDF5 may begin behind a user's block."""
    if not path.is_file():
        return False
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < min(size, _MAX_USER_BLOCK):
            file.seek(offset)
            if file.read(8) == _HDF5_MAGIC:
                return True
            offset = 2 * offset or 512
    return False


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file read-only and without a lock; whatever HDF5 stumbles over becomes one `ScanError`."""
    try:
        with open_unlocked(path) as file:
            yield file
    except FileNotFoundError:
        raise ScanError(f"{path} does not exist") from None
    except PermissionError:
        raise ScanError(f"{path} may not be read by this user; check the file's permissions") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        if "not already open for SWMR writing" in reason:
            raise NotReadyError(
                f"{path} is still being written, or its writer was killed; try again when it is closed"
            ) from error
        raise ScanError(f"{path} is damaged or cut short ({reason}); copy it again from where it came") from error


def open_unlocked(path: Path) -> h5py.File:
    """Open read-only and without a lock, unless this process has the file open with one: HDF5 insists on one way.

    A file that a detector still has open is opened as one writer and many readers (SWMR) allow; its attribute
    `swmr_mode` is True then. Errors are HDF5's own.
    """
    for locking in (False, "best-effort"):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            if "already open for write" in str(error):
                return h5py.File(path, "r", locking=locking, swmr=True)
            if "flag values don't match" not in str(error):
                raise
    return h5py.File(path, "r", locking=True)


def locate(place: Place, roots: tuple[Path, ...]) -> Place | None:
    """Follow soft and external links to where an object really lies.

    Parameters
    ----------
    place : Place
        Where to look.
    roots : tuple of Path
        Folders that external links may lead to.

    Returns
    -------
    Place or None
        A path of hard links only; None if there is no such object.

    Raises
    ------
    ScanError
        If a link leads to a missing file or out of the allowed folders, or in circles, or a file is damaged.
    """
    for _ in range(_MAX_LINKS):
        following, final = _next_place(place, roots)
        if following is None or final:
            return following
        place = following
    raise ScanError(f"{place}: more than {_MAX_LINKS} links lead on from here, perhaps in a circle; mend the links")


def _next_place(place: Place, roots: tuple[Path, ...]) -> tuple[Place | None, bool]:
    """Walk down to the first link that is not hard and follow it; True beside the place if there is none."""
    parts = [part for part in place.inner.split("/") if part not in ("", ".")]
    with open_hdf5(place.path) as file:
        group: Any = file
        for depth, part in enumerate(parts):
            if not isinstance(group, h5py.Group) or not group.id.links.exists(part.encode()):
                return None, True
            kind = group.id.links.get_info(part.encode()).type
            if kind != h5py.h5l.TYPE_HARD:
                target = group.id.links.get_val(part.encode())
                return _follow(place.path, kind, target, parts[:depth], parts[depth + 1 :], roots), False
            group = group[part]
    return Place(place.path, "/" + "/".join(parts)), True


def _follow(path: Path, kind: int, target: Any, before: list[str], after: list[str], roots: tuple[Path, ...]) -> Place:
    if kind == h5py.h5l.TYPE_SOFT:
        inner = target.decode()
        start = [] if inner.startswith("/") else before
        return Place(path, "/" + "/".join([*start, inner.strip("/"), *after]))
    if kind == h5py.h5l.TYPE_EXTERNAL:
        name, inner = target[0].decode(), target[1].decode()
        return Place(_outside(path, name, roots), "/" + "/".join([inner.strip("/"), *after]))
    raise ScanError(f"{path}:/{'/'.join(before)} holds a link of an unknown kind ({kind}); store the data without it")


def _outside(path: Path, name: str, roots: tuple[Path, ...]) -> Path:
    """Find the file that a link in `path` names, without opening it.

    As HDF5 does: a relative name counts from the folder of the file with the link; of an absolute name that does not
    exist, the last part is looked for there.
    """
    folders = dict.fromkeys([path.parent, path.resolve().parent])
    names = dict.fromkeys([name, Path(name).name])
    candidates = [folder / part for part in names for folder in folders]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ScanError(
            f"{path} links to the file {name}, which is not there; copy it beside {path.name} and try again"
        )
    _check_allowed(path, found, roots)
    return found


def _check_allowed(path: Path, target: Path, roots: tuple[Path, ...]) -> None:
    if not any(target.resolve().is_relative_to(root.resolve()) for root in roots):
        raise ScanError(
            f"{path} links to {target.resolve()}, outside of the allowed folders {', '.join(map(str, roots))}; if you "
            f"trust it, allow its folder with --set scan.allowed_link_roots='[\"{target.resolve().parent}\"]'"
        )


def data_files(place: Place, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """Files that hold the pixels of a dataset, all of them present and allowed.

    Raises
    ------
    ScanError
        If the dataset keeps its pixels in a raw file outside HDF5, or a source of a virtual dataset is missing (HDF5
        would silently give fill values), not allowed, or itself unreadable.
    """
    files: dict[Path, None] = {}
    todo, seen = [place], {place}
    while todo:
        current = todo.pop()
        files[current.path] = None
        new = set(_virtual_sources(current, roots)) - seen
        seen |= new
        todo += sorted(new)
    return tuple(files)


def _virtual_sources(place: Place, roots: tuple[Path, ...]) -> list[Place]:
    with open_hdf5(place.path) as file:
        dataset = file[place.inner]
        if not isinstance(dataset, h5py.Dataset):
            raise ScanError(f"{place} is not a dataset; give the path of a dataset")
        if dataset.external:
            raise ScanError(f"{place} keeps its pixels in the raw file {dataset.external[0][0]}; store them in HDF5")
        sources = dataset.virtual_sources() if dataset.is_virtual else []
        pairs = list(dict.fromkeys((source.file_name, source.dset_name) for source in sources))
    return [_source_place(place, name, inner, roots) for name, inner in pairs for name in _expand(place, name)]


def _expand(place: Place, name: str) -> list[str]:
    """Names of the files that a name with a counter (``%b``) stands for."""
    if "%b" not in name:
        return [name.replace("%%", "%")]
    folder = (place.path.parent / name).parent
    found = sorted(folder.glob(Path(name).name.replace("%b", "*").replace("%%", "%")))
    if not found:
        raise ScanError(f"{place} is put together from files {name}, none of which is there; copy them beside it")
    return [str(path) for path in found]


def _source_place(place: Place, name: str, inner: str, roots: tuple[Path, ...]) -> Place:
    path = place.path if name == "." else _outside(place.path, name, roots)
    found = locate(Place(path, inner), roots)
    if found is None:
        raise ScanError(f"{place} is put together from {path}:{inner}, which is not there; copy that file again")
    return found


def list_names(path: Path) -> tuple[str, ...]:
    """List the absolute paths of all groups, datasets and links of a file, following hard links only.

    Names that are not UTF-8 (h5py gives them as bytes) are left out: no layout has such names.
    """
    names: list[str] = []
    with open_hdf5(path) as file:
        todo: list[tuple[str, Any]] = [("", file)]
        visited = set()
        while todo and len(names) < _MAX_NAMES:
            prefix, group = todo.pop(0)
            address = h5py.h5o.get_info(group.id).addr
            if address in visited or prefix.count("/") > _MAX_DEPTH:
                continue
            visited.add(address)
            for part in (part for part in group if isinstance(part, str)):
                name = f"{prefix}/{part}"
                names.append(name)
                if group.id.links.get_info(part.encode()).type == h5py.h5l.TYPE_HARD:
                    child = group[part]
                    todo += [(name, child)] if isinstance(child, h5py.Group) else []
    return tuple(names)
