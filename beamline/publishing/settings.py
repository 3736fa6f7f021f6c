"""What is made of a result, and where it is announced."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["ARCHIVE_MIMETYPE", "PublishSettings"]

ARCHIVE_MIMETYPE = "application/x-quietbeam-archive"
"""What a Tiled server knows an archive by."""

Format = Literal["nxtomoproc", "zarr", "tiff"]
SourceType = Literal["Synchrotron X-ray Source", "Fixed Tube X-ray", "Rotating Anode X-ray", "Reactor Neutron Source"]


class PublishSettings(BaseModel):
    """What is made of a result, and where it is announced.

    The key of a Tiled server is never a setting: it comes from the environment variable ``TILED_API_KEY``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # an address may hold a key

    formats: tuple[Format, ...] = Field(
        ("nxtomoproc",), description="Files made in OUT/published: volume.nxs, volume.zarr, tiff/."
    )
    tiled_uri: str | None = Field(None, description="Tiled server; None leaves it out.")
    tiled_path: str = Field("", description="Container of the derived runs there, a/b; made if it is not there.")
    tiled_archive: bool = Field(False, description="The server reads archives: register the archive itself too.")
    tiled_timeout: float = Field(30.0, gt=0, allow_inf_nan=False, description="Longest wait for an answer, seconds.")
    documents: Path | None = Field(None, description="Folder for the derived run as JSON lines, UID.jsonl.")
    backup: Path | None = Field(
        None, description="Folder that keeps the derived run while a catalogue is out of reach; None: OUT/published."
    )
    path_map: tuple[tuple[str, str], ...] = Field(
        (), description="Prefix of a path here and as readers see it, for the places told in the derived run."
    )
    source_name: str = Field("unknown", description="Name of the facility, for NeXus.")
    source_type: SourceType = Field("Synchrotron X-ray Source", description="Kind of source, for NeXus.")
    probe: Literal["x-ray", "neutron"] = Field("x-ray", description="Kind of radiation, for NeXus.")

    @field_validator("tiled_uri")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        if uri is not None:
            parts = urlsplit(uri)
            if "api_key" in parse_qs(parts.query) or parts.password:
                raise ValueError("tiled_uri must not hold a key: take it out and set TILED_API_KEY in the environment")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("tiled_uri must be http://HOST:PORT or https://HOST")
        return uri

    @model_validator(mode="after")
    def _check_something_to_show(self) -> Self:
        if (self.tiled_uri or self.documents) and "nxtomoproc" not in self.formats and not self.tiled_archive:
            raise ValueError("a derived run shows volume.nxs or the archive: add nxtomoproc to formats")
        return self
