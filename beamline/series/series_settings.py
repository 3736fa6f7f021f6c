"""The settings of a series: those of a reduction, and the ``[cluster]`` table beside them in the same TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quietbeam.beamline.settings import ReductionSettings, SettingsError, check_tables, read_tables, where_from

from .cluster_settings import ClusterSettings

__all__ = ["CLUSTER", "absolute_settings", "read_series_settings"]

CLUSTER = "cluster"
"""Name of the table."""
Settings = TypeVar("Settings", bound=BaseModel)


def read_series_settings(
    config: Path | None = None, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None
) -> tuple[ReductionSettings, ClusterSettings]:
    """Read the settings of a series.

    Parameters
    ----------
    config : Path, optional
        TOML file with a table for each stage, and ``[cluster]``.
    overrides : iterable of str
        ``stage.name=value`` or ``cluster.name=value``.
    options : mapping of str, optional
        Values of ``stage.name`` or ``cluster.name``; they go before the others.

    Returns
    -------
    ReductionSettings, ClusterSettings
        Checked and frozen; paths are absolute, since workers run in other folders.

    Raises
    ------
    SettingsError
        Naming the key, what was expected and the nearest known name.
    """
    overrides = list(overrides)
    where = where_from(config, overrides, options)
    tables = read_tables(config, overrides, options)
    cluster = tables.pop(CLUSTER, {})
    try:
        told = ClusterSettings.model_validate(cluster)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(where, item) for item in error.errors())) from None
    return absolute_settings(check_tables(tables, where)), absolute_paths(told, "scratch")


def absolute_settings(settings: ReductionSettings) -> ReductionSettings:
    """Give the same settings for a process in another folder: no path in them counts from the present one."""
    return settings.model_copy(
        update={
            "scan": settings.scan.absolute(),
            "warm_start": absolute_paths(settings.warm_start, "registry", "network"),
            "codec": absolute_paths(settings.codec, "trained"),
            "archive": absolute_paths(settings.archive, "decoders"),
            "compute": absolute_paths(settings.compute, "scratch"),
        }
    )


def absolute_paths(settings: Settings, *names: str) -> Settings:
    """Make the named paths of a table absolute; those that are not given stay so."""
    given = {name: path for name in names if (path := getattr(settings, name)) is not None}
    return settings.model_copy(update={name: path.absolute() for name, path in given.items()})


def _explain(where_of: Callable[[str], str], error: Any) -> str:
    name = ".".join(str(part) for part in (CLUSTER, *error["loc"]))
    where = where_of(name)
    if error["type"] != "extra_forbidden":
        return f"{where}: {name}: {error['msg']}, got {error['input']!r}"
    known = [f"{CLUSTER}.{field}" for field in ClusterSettings.model_fields]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{where}: there is no setting {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
