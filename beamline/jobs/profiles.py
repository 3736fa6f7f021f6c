"""Profiles: settings under a name, so that a scan says "fast" or "strong" and not thirty numbers.

::

    # PROFILES/fast.toml: what the beamline changes in the profile that comes with quietbeam
    [training]
    minutes = 1.0

    # PROFILES/foam.toml: one of its own
    extends = "strong"
    [normalize]
    ...
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quietbeam.beamline.toml_file import read_toml

__all__ = ["BUILT_IN", "DEFAULT", "ProfileError", "is_path", "known_profiles", "profile_options", "profile_stem"]

DEFAULT = "default"
BUILT_IN: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        DEFAULT: MappingProxyType({}),
        "fast": MappingProxyType({"training.minutes": 2.0, "network.depth": 50}),
        "strong": MappingProxyType(
            {"training.minutes": 60.0, "training.schedule": "cosine", "inference.mode": "average"}
        ),
    }
)
"""The profiles that come with quietbeam: what they change, ``stage.name`` to value. `fast` is for looking at a scan
while the sample is still in the beam, `strong` for the volume that is kept."""
_SUFFIX = ".toml"


class ProfileError(ValueError):
    """A profile that does not exist or cannot be read; the text names it, and those there are."""


def known_profiles(folder: Path | None = None) -> tuple[str, ...]:
    """List the profiles by name: those that come with quietbeam, then those of a folder.

    Parameters
    ----------
    folder : Path, optional
        Folder of TOML files.

    Returns
    -------
    tuple of str
        Each once.
    """
    files = sorted(path.stem for path in folder.glob(f"*{_SUFFIX}")) if folder else []
    return tuple(dict.fromkeys((*BUILT_IN, *files)))


def profile_stem(profile: str) -> str:
    """Give a short name for a profile, which may be the path of a file."""
    return Path(profile).stem if is_path(profile) else profile


def profile_options(profile: str, folder: Path | None = None) -> dict[str, object]:
    """Read a profile.

    Parameters
    ----------
    profile : str
        Its name, or the path of a TOML file; a path that does not begin at the root is one in `folder`.
    folder : Path, optional
        Folder of TOML files. One that has the name of a profile that comes with quietbeam changes that; any other one
        changes ``default``, as those of quietbeam do, or what it says it ``extends``.

    Returns
    -------
    dict of str to object
        ``stage.name`` to value: what differs from the settings' defaults. The settings themselves are not checked here.

    Raises
    ------
    ProfileError
        If there is no such profile, the file cannot be read, or profiles extend each other in a circle.
    """
    options: dict[str, object] = {}
    for part in reversed(list(_chain(profile, folder))):
        options |= part
    return options


def _chain(profile: str, folder: Path | None) -> Iterator[Mapping[str, object]]:
    """Give the options of a profile, then of what it extends, up to the default ones."""
    seen: list[str] = []
    while True:
        if profile in seen:
            circle = " extends ".join([*seen, profile])
            raise ProfileError(f"profile {seen[0]}: {circle}: a circle; remove one 'extends'")
        seen.append(profile)
        path = _file(profile, folder)
        tables = read_toml(path, ProfileError) if path else {}
        base = tables.pop("extends", profile)
        if not isinstance(base, str):
            raise ProfileError(f"{path}: extends: expected the name of a profile, got {base!r}")
        yield dict(_flat(tables))
        if base == profile:
            yield BUILT_IN.get(profile, {})
            if profile == DEFAULT:
                return
            base = DEFAULT
        profile = base


def _file(profile: str, folder: Path | None) -> Path | None:
    """Find the file of a profile; None where it is one of quietbeam's alone."""
    path = Path(profile) if is_path(profile) else Path(f"{profile}{_SUFFIX}")
    if folder is not None or path.is_absolute():
        path = (folder or Path()) / path
        if path.is_file():
            return path
    if profile in BUILT_IN:
        return None
    raise ProfileError(_unknown(profile, path, folder))


def _unknown(profile: str, path: Path, folder: Path | None) -> str:
    if is_path(profile):
        return f"profile {profile}: there is no file {path}; give its whole path, from the root"
    known = known_profiles(folder)
    nearest = difflib.get_close_matches(profile, known, n=1, cutoff=0.5)
    where = f" and in {folder}" if folder else "; the worker has no folder of profiles"
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"there is no profile {profile!r} among quietbeam's own{where}: known are {', '.join(known)}{hint}"


def is_path(profile: str) -> bool:
    """Tell whether a profile is named by the path of its file."""
    return "/" in profile or profile.endswith(_SUFFIX)


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
