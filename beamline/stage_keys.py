"""What the result of each stage depends on, as hashes: a stage is taken up again only under the same key."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from .journal import stage_key
from .settings import ReductionSettings
from .sinograms import SinogramSettings

__all__ = ["StageKeys"]

FORMAT = 1
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
    """

    scan: str
    settings: ReductionSettings

    @property
    def result(self) -> str:
        """Key of the finished result."""
        return stage_key("result", FORMAT, self.scan, self.settings.model_dump(mode="json", exclude={"compute"}))

    @property
    def sinograms(self) -> SinogramSettings:
        """The settings of the steps before the sections."""
        settings = self.settings
        return SinogramSettings(normalize=settings.normalize, outliers=settings.outliers, stripes=settings.stripes)

    @property
    def axis(self) -> str:
        """Key of the rotation axis."""
        return self._key("axis", stage_key("scan", FORMAT, self.scan), "scan", "rotation_axis", self.sinograms)

    def sections(self, column: float) -> str:
        """Key of the sections' reconstructions about an axis."""
        return self._key("sections", stage_key(self.axis, column), "sections", "reconstruction")

    def training(self, column: float) -> str:
        """Key of the trained network, whatever the number of epochs."""
        return self._key("training", self.sections(column), "pairs", "network", "training")

    def denoised(self, column: float, epochs: int) -> str:
        """Key of the denoised volume."""
        return self._key("denoised", stage_key(self.training(column), epochs))

    def codec(self, denoised: str) -> str:
        """Key of the codec trained on a denoised volume."""
        return self._key("codec", denoised, "codec", "archive")

    def _key(self, stage: str, before: str, *parts: str | BaseModel) -> str:
        models = [getattr(self.settings, part) if isinstance(part, str) else part for part in parts]
        return stage_key(stage, before, [model.model_dump(mode="json") for model in models])
