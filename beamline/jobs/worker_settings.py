"""Settings of a worker: where results go, what it works on, and how long it waits and tries."""

from __future__ import annotations

import difflib
import re
import string
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from quietbeam.beamline.publishing.settings import PublishSettings
from quietbeam.beamline.toml_file import read_toml

__all__ = ["WorkerSettings", "WorkerSettingsError", "read_worker_settings"]

TEMPLATE = "{data_session}/scan_{scan_id:05d}_{uid8}"
_DEVICE = re.compile(r"auto|cpu|cuda:\d+")


class WorkerSettingsError(ValueError):
    """A setting of a worker that does not exist or does not fit; the text names it."""


def _check_template(template: str) -> str:
    parts = PurePosixPath(template).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError("expected names below the output folder, such as {data_session}/scan_{scan_id:05d}_{uid8}")
    for _, field, _, conversion in string.Formatter().parse(template):
        if field is not None and (not field.isidentifier() or conversion):
            raise ValueError(f"expected plain names of metadata in braces, got {{{field}}}")
    return template


def _check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"expected auto, cpu or cuda:NUMBER, got {device!r}")
    return devices


class WorkerSettings(BaseModel):
    """What a worker is told, in a TOML file or in Python."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(description="Folder below which each job gets a folder of its own.")
    name: Annotated[str, AfterValidator(_check_template)] = Field(
        TEMPLATE,
        description="Folder of a run's results below the output folder: names of the start document's metadata in "
        "braces, and uid8, the first 8 characters of the run's uid.",
    )
    profiles: Path | None = Field(None, description="Folder of profiles, NAME.toml.")
    path_map: tuple[tuple[str, str], ...] = Field(
        (), description="Where the detectors' files lie here: pairs of a path's beginning as written, and as seen here."
    )
    wait_seconds: float | None = Field(
        None, ge=0, description="Time to wait for frames that are still being written; None: as the scan's settings."
    )
    spools: tuple[Path, ...] = Field((), description="Folders, besides the queue's own, in which jobs are laid down.")
    devices: Annotated[tuple[str, ...], AfterValidator(_check_devices)] = Field(
        ("auto",), min_length=1, description="One job at a time runs on each: auto, cpu or cuda:NUMBER."
    )
    lease_seconds: float = Field(
        60.0, gt=0, description="A worker on another machine that was not heard of for so long has lost its job."
    )
    poll_seconds: float = Field(2.0, gt=0, description="Time between two looks into an empty queue.")
    retry_seconds: float = Field(
        30.0, ge=0, description="Time before a job that crashed is tried again; twice as long after each further crash."
    )
    crash_pause_seconds: float = Field(
        120.0, ge=0, description="Time before the next job where three different ones in a row have crashed."
    )
    stall_minutes: float | None = Field(
        180.0, gt=0, description="A job that tells no progress for so long is killed and tried again; None: never."
    )
    calibration_wait_minutes: float = Field(
        30.0, ge=0, description="Time after its submission that a job waits for the run with its darks and flats."
    )
    space_wait_hours: float = Field(24.0, ge=0, description="Time that a job waits for space on a full disk.")
    lock_wait_hours: float = Field(
        24.0, ge=0, description="Time that a job waits for another process that works in its output folder."
    )
    publish: PublishSettings = PublishSettings()

    @model_validator(mode="after")
    def _check_shared_devices(self) -> Self:
        if len(self.devices) > 1 and "auto" in self.devices:
            raise ValueError("devices: auto is for one job at a time; name each device, such as cuda:0, cuda:1")
        return self


def read_worker_settings(config: Path | None, *, output: Path | None = None) -> WorkerSettings:
    """Read the settings of a worker.

    Parameters
    ----------
    config : Path or None
        TOML file; ``[publish]`` is a table in it.
    output : Path, optional
        Output folder; goes before the file's.

    Returns
    -------
    WorkerSettings
        Checked and frozen.

    Raises
    ------
    WorkerSettingsError
        Naming the key, what was expected and the nearest known name.
    """
    tables = read_toml(config, WorkerSettingsError) if config else {}
    tables |= {"output": output} if output else {}
    try:
        return WorkerSettings.model_validate(tables)
    except ValidationError as error:
        raise WorkerSettingsError("; ".join(_explain(config or "worker", item) for item in error.errors())) from None


def _explain(config: Path | str, error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if not name:
        return f"{config}: {error['msg']}"
    if error["type"] == "missing":
        return f"{config}: {name} is missing: say where results shall go"
    if error["type"] != "extra_forbidden":
        got = "" if name.endswith("_uri") else f", got {error['input']!r}"  # an address may hold a key
        return f"{config}: {name}: {error['msg']}{got}"
    known = [*WorkerSettings.model_fields, *(f"publish.{field}" for field in PublishSettings.model_fields)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{config}: there is no setting {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
