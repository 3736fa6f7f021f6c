"""What the result of each stage depends on, as hashes: a stage is taken up again only under the same key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from quietbeam.compress.archive_file import FORMAT as ARCHIVE_FORMAT

from .journal import stage_key
from .recording import ScanSettings
from .settings import ReductionSettings
from .sinograms import SinogramSettings

__all__ = ["StageKeys"]

FORMAT = 4
"""Raised when a stage computes something else from the same settings: older scratch files are then not used."""


@dataclass(frozen=True)
class StageKeys:
    """The keys of one reduction; each stage's key holds that of the stage before.

    Attributes
    ----------
    scan : str
        Hash of the scan's files.
    settings : ReductionSettings
        All settings; where and with how much is computed does not count.
    named_start : str or None
        Hash of the network that is named to begin with, if there is one.
    """

    scan: str
    settings: ReductionSettings
    named_start: str | None = None

    @property
    def result(self) -> str:
        """Key of the finished result, which stays finished when networks are added to the registry."""
        settings = self.settings.model_dump(mode="json", exclude={"compute", "scan", "warm_start"})
        return stage_key("result", FORMAT, self.scan, _choices(self.settings.scan), settings, self._start())

    @property
    def sinograms(self) -> SinogramSettings:
        """The settings of the steps before the sections."""
        return SinogramSettings.of(self.settings)

    @property
    def screen(self) -> str:
        """Key of the search for bad projections."""
        return stage_key("screen", FORMAT, self.scan, _choices(self.settings.scan))

    @property
    def axis(self) -> str:
        """Key of the rotation axis, which is found with rings and without phase retrieval."""
        return self._key("axis", self.screen, "rotation_axis", self.sinograms.for_axis())

    def sections(self, column: float) -> str:
        """Key of the sections' reconstructions about an axis."""
        return self._key("sections", stage_key(self.axis, column), "sections", "reconstruction", self.sinograms)

    def training(self, column: float, start: str | None = None) -> str:
        """Key of the trained network, whatever the number of epochs; `start` is the hash of what it begins with."""
        return self._key("training", stage_key(self.sections(column), start), "pairs", "network", "training")

    def denoised(self, column: float, network: bytes) -> str:
        """Key of the volume denoised by a network, given as bytes."""
        return self._key("denoised", stage_key(self.sections(column), _sha256(network)), "pairs", "inference")

    def codec(self, denoised: str) -> str:
        """Key of the codec trained on a denoised volume."""
        return self._key("codec", denoised, "codec", "archive")

    def payloads(self, decoder: bytes, denoised: str, max_error: float) -> str:
        """Key of the chunks encoded for a decoder, given as bytes."""
        return self._key("payloads", stage_key(denoised, _sha256(decoder), max_error, ARCHIVE_FORMAT), "archive")

    def _start(self) -> list[str | None]:
        """Tell how the start was chosen; where the registry lies and what it holds does not count."""
        if self.named_start or not self.settings.warm_start.registry:
            return [self.named_start]
        return ["registry", self.settings.scan.instrument]

    def _key(self, stage: str, before: str, *parts: str | BaseModel) -> str:
        models = [getattr(self.settings, part) if isinstance(part, str) else part for part in parts]
        return stage_key(stage, before, [model.model_dump(mode="json") for model in models])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _choices(settings: ScanSettings) -> dict[str, Any]:
    """Leave out where files lie, whose content is hashed, and the instrument; keep what was chosen of them."""
    elsewhere = {"allowed_link_roots", "instrument", "dark_flat_run", "path_map", "wait_seconds"}
    choices = settings.model_dump(mode="json", exclude=elsewhere)
    for name in ("flats", "darks"):
        choices[name] = str(choices[name] or "").partition(":/")[2]
    if not settings.has_angle_steps:
        choices["angles"] = None
    return choices
