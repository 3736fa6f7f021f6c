"""What the result of each stage depends on, as hashes: a stage is taken up again only under the same key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel

from quietbeam.compress.archive_file import FORMAT as ARCHIVE_FORMAT
from quietbeam.compress.packed_codec import packed_sha256

from .journal import stage_key
from .network_registry import named_sha256
from .recording import ScanSettings
from .settings import ReductionSettings
from .sinograms import SinogramSettings

__all__ = ["StageKeys"]

FORMAT = 4
"""Raised when a stage computes something else from the same settings: older scratch files are then not used."""

NOT_COMPUTED_FROM: dict[str, Any] = {
    "training": {"reuse", "compare", "compare_every", "compare_epochs"},
    "codec": {"reuse", "trained"},
    "archive": {"embed", "decoders"},
}
"""Settings by stage that choose how a series shares its work, or what is told of it, and change no result."""


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
    trained_codec : str or None
        Hash of the codec that is taken as it is, if one is named.
    """

    scan: str
    settings: ReductionSettings
    named_start: str | None = None
    trained_codec: str | None = None

    @classmethod
    def of(cls, scan: str, settings: ReductionSettings) -> Self:
        """Give the keys of a scan, by its hash; the files that the settings name are read."""
        network, codec = named_sha256(settings.warm_start), packed_sha256(settings.codec.trained)
        return cls(scan, settings, network, codec)

    @property
    def result(self) -> str:
        """Key of the finished result, which stays finished when networks are added to the registry."""
        other = {"compute": True, "scan": True, "warm_start": True}
        settings = self.settings.model_dump(mode="json", exclude={**other, **NOT_COMPUTED_FROM})
        choices, shared = _choices(self.settings.scan), self._shared()
        return stage_key("result", FORMAT, self.scan, choices, settings, self._start(), *shared)

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
        before = stage_key(denoised, self.trained_codec) if self.trained_codec else denoised
        return self._key("codec", before, "codec", "archive")

    def payloads(self, decoder: bytes, denoised: str, max_error: float) -> str:
        """Key of the chunks encoded for a decoder, given as bytes."""
        return self._key(
            "payloads", stage_key(denoised, _sha256(decoder), max_error, ARCHIVE_FORMAT, *self._shared()), "archive"
        )

    def _shared(self) -> list[str]:
        """Tell what codec was taken, and that the decoder is not in the archive; nothing where each has its own."""
        taken = [self.trained_codec] if self.trained_codec else []
        return taken if self.settings.archive.embed else [*taken, "decoder apart"]

    def _start(self) -> list[str | None]:
        """Tell how the start was chosen; where the registry lies and what it holds does not count."""
        applied = ["applied"] if self.settings.training.reuse == "registry" else []
        if self.named_start or not self.settings.warm_start.registry:
            return [self.named_start, *applied]
        return ["registry", self.settings.scan.instrument, *applied]

    def _key(self, stage: str, before: str, *parts: str | BaseModel) -> str:
        return stage_key(stage, before, [self._dump(part) for part in parts])

    def _dump(self, part: str | BaseModel) -> dict[str, Any]:
        """Give settings, or those of a stage without what changes no result."""
        if isinstance(part, str):
            return getattr(self.settings, part).model_dump(mode="json", exclude=NOT_COMPUTED_FROM.get(part))  # type: ignore[no-any-return]
        return part.model_dump(mode="json")


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
