"""The settings of a series: those of a reduction, and the ``[cluster]`` table beside them in the same TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quietbeam.beamline.settings import ReductionSettings, SettingsError, check_tables, read_tables

from .cluster_settings import ClusterSettings

__all__ = ["CLUSTER", "read_series_settings"]

CLUSTER = "cluster"
"""Name of the table."""


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
        Checked and frozen.

    Raises
    ------
    SettingsError
        Naming the key, what was expected and the nearest known name.
    """
    where = str(config) if config else "settings"
    tables = read_tables(config, overrides, options)
    cluster = tables.pop(CLUSTER, {})
    try:
        told = ClusterSettings.model_validate(cluster)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(where, item) for item in error.errors())) from None
    return check_tables(tables, where), told


def _explain(where: str, error: Any) -> str:
    name = ".".join(str(part) for part in (CLUSTER, *error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{where}: {name}: {error['msg']}, got {error['input']!r}"
    known = [f"{CLUSTER}.{field}" for field in ClusterSettings.model_fields]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{where}: there is no setting {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
