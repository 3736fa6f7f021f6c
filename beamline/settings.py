"""All settings of a reduction together: TOML and ``--set`` in, one frozen model out."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quietbeam.compress.codec import CodecOptions
from quietbeam.compress.header import ArchiveSettings
from quietbeam.noise2inverse.inference import InferenceSettings
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import PairSettings
from quietbeam.noise2inverse.training import TrainingSettings
from quietbeam.reconstruction.normalize import NormalizeSettings
from quietbeam.reconstruction.outliers import OutlierSettings
from quietbeam.reconstruction.phase import PhaseSettings
from quietbeam.reconstruction.reconstructors import ReconstructionSettings
from quietbeam.reconstruction.rotation_axis import AxisSettings
from quietbeam.reconstruction.sections import SectionSettings
from quietbeam.reconstruction.stripes import StripeSettings

from .network_registry import WarmStartSettings
from .recording import ScanSettings
from .toml_file import read_toml

__all__ = [
    "ComputeSettings",
    "ReductionSettings",
    "SettingsError",
    "check_tables",
    "parse_overrides",
    "read_settings",
    "read_tables",
    "where_from",
]


class SettingsError(ValueError):
    """A setting that does not exist or does not fit; the text names it."""


class ComputeSettings(BaseModel):
    """Where and with how much the job computes; of the result, it changes the rounding, which training amplifies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(None, ge=1, description="Threads; None takes as many as train fastest here.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is one.")
    chunk_slices: int = Field(16, ge=1, description="Slices reconstructed together; fewer where memory is short.")
    tile_size: int = Field(512, ge=32, description="Side of the tiles that the network is applied to, pixels.")
    scratch: Path | None = Field(
        None, description="Folder for what is of use until the job is done; None: a folder work beside the results."
    )
    memory_gib: float | None = Field(
        None, gt=0, description="Memory that the job may take, GiB; None: what is free when it is asked for."
    )


class ReductionSettings(BaseModel):
    """The settings of all stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: ScanSettings = ScanSettings()
    normalize: NormalizeSettings = NormalizeSettings()
    outliers: OutlierSettings = OutlierSettings()
    phase: PhaseSettings = PhaseSettings()
    stripes: StripeSettings = StripeSettings()
    rotation_axis: AxisSettings = AxisSettings()
    sections: SectionSettings = SectionSettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    pairs: PairSettings = PairSettings()
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    warm_start: WarmStartSettings = WarmStartSettings()
    inference: InferenceSettings = InferenceSettings()
    codec: CodecOptions = CodecOptions()
    archive: ArchiveSettings = ArchiveSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="after")
    def _check_finite(self) -> Self:
        for stage, settings in self:
            for name, value in settings:
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"{stage}.{name} must be finite")
        return self


def read_settings(
    config: Path | None = None, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None
) -> ReductionSettings:
    """Read settings; options go before ``--set``, that before the file, the file before the defaults.

    Parameters
    ----------
    config : Path, optional
        TOML file with a table for each stage.
    overrides : iterable of str
        ``stage.name=value``, the value as in TOML; text needs no quotes.
    options : mapping of str, optional
        Values of ``stage.name``.

    Returns
    -------
    ReductionSettings
        Checked and frozen.

    Raises
    ------
    SettingsError
        Naming the key, what was expected and the nearest known name.
    """
    overrides = list(overrides)
    tables = read_tables(config, overrides, options)
    if config is not None:
        tables.pop("cluster", None)  # of a series, which may be told all in one file
    return check_tables(tables, where_from(config, overrides, options))


def where_from(
    config: Path | None, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None
) -> Callable[[str], str]:
    """Give what tells where a setting was given, for errors.

    Parameters
    ----------
    config, overrides, options
        See `read_settings`.

    Returns
    -------
    callable
        Takes ``stage.name``; gives ``--set``, the file, or ``settings``.
    """
    by_option = [*(options or {})]
    by_set = [name for name in parse_overrides(overrides) if name not in by_option]

    def where(name: str) -> str:
        for place, names in (("settings", by_option), ("--set", by_set)):
            if any(f"{name}.".startswith(f"{one}.") or (name and one.startswith(f"{name}.")) for one in names):
                return place
        return str(config) if config else "settings"

    return where


def read_tables(
    config: Path | None = None, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Put the tables of settings together, as `read_settings` does, without looking at what they hold.

    Parameters
    ----------
    config, overrides, options
        See `read_settings`.

    Returns
    -------
    dict
        Stage to its table.

    Raises
    ------
    SettingsError
        If the file cannot be read, or an override is not of the form ``stage.name=value``.
    """
    tables = read_toml(config, SettingsError) if config else {}
    for name, option in (*parse_overrides(overrides).items(), *(options or {}).items()):
        _put(tables, name, option)
    return tables


def check_tables(tables: dict[str, Any], where: Callable[[str], str]) -> ReductionSettings:
    """Check tables of settings.

    Parameters
    ----------
    tables : dict
        Stage to its table.
    where : callable
        Tells where a setting comes from, for the error; see `where_from`.

    Returns
    -------
    ReductionSettings
        Frozen.

    Raises
    ------
    SettingsError
        See `read_settings`.
    """
    try:
        return ReductionSettings.model_validate(tables)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(where, tables, item) for item in error.errors())) from None


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Read what ``--set`` was given; whether there are such settings is not checked.

    Parameters
    ----------
    overrides : iterable of str
        ``stage.name=value``.

    Returns
    -------
    dict of str to object
        ``stage.name`` to value.

    Raises
    ------
    SettingsError
        If one is not of that form.
    """
    return {name: _value(name, text) for name, text in map(_split, overrides)}


def _split(override: str) -> tuple[str, str]:
    name, equals, text = override.partition("=")
    if not equals or "." not in name:
        raise SettingsError(f"expected --set STAGE.NAME=VALUE, for example training.minutes=5, got {override!r}")
    return name.strip(), text.strip()


def _put(tables: dict[str, Any], name: str, value: Any) -> None:
    *stages, last = name.split(".")
    table = tables
    for stage in stages:
        table = table.setdefault(stage, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{name}: {stage} is a value, not a table")
    table[last] = value


def _value(name: str, text: str) -> Any:
    if text in ("none", "None") and not _is_a_choice(name, text):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _is_a_choice(name: str, text: str) -> bool:
    """Tell whether a setting takes this very word, as ``stripes.method`` takes none."""
    annotation: Any = ReductionSettings
    for part in name.split("."):
        field = getattr(annotation, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
    return text in get_args(annotation)


def _explain(where_of: Callable[[str], str], tables: dict[str, Any], error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    where = where_of(name)
    if not name:
        return f"{where}: {error['msg']}"
    if error["type"] != "extra_forbidden":
        return f"{where}: {name}: {error['msg']}, got {error['input']!r}"
    known = _known_names()
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{where}: there is no setting {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _known_names() -> list[str]:
    names = []
    for stage, field in ReductionSettings.model_fields.items():
        names.append(stage)
        names += [f"{stage}.{name}" for name in type(field.default).model_fields]
    return names
