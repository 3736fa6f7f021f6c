"""With what settings the codecs are compared: a few points along each one's rate-distortion curve."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from pydantic import BaseModel

from .codec import CodecSettings, codec

__all__ = ["CLASSICAL", "LEARNED", "LOSSLESS", "sweep_settings"]

_PSNRS = (36.0, 40.0, 44.0, 48.0, 53.0)
_RELATIVE_ERRORS = tuple(10 ** (-psnr / 20) * 2 for psnr in _PSNRS)
"""Largest errors, over the range of the volume, that give about these PSNRs: those of errors spread evenly, and a bit
more."""

_POINTS: dict[str, list[dict[str, Any]]] = {
    "lattice": [{"psnr": psnr} for psnr in (40.0, 44.0, 48.0, 52.0)],
    "sperr": [{"psnr": psnr} for psnr in _PSNRS],
    "jpeg2000": [{"psnr": psnr} for psnr in _PSNRS],
    "jpeg2000z": [{"psnr": psnr} for psnr in _PSNRS],
    "jpeg": [{"quality": quality} for quality in (30, 60, 85, 95, 100)],
    "jpegxl": [{"distance": distance} for distance in (4.0, 1.5, 0.5, 0.1, 0.03)],
    "hevc": [{"qp": qp} for qp in (34, 28, 22, 15, 8)],
    "dcnn": [{"latent_depth": depth} for depth in (2, 4, 8)],
    "vqvae": [{"latent_depth": depth} for depth in (2, 4, 8)],
    "inr": [
        {"downsampling": ds, "channels": nc, "width": h} for ds, nc, h in product((2, 4, 8), (4, 8, 16), (30, 110, 230))
    ],
}
_BOUNDED = ("sz3", "zfp")
LOSSLESS = ("bitshuffle-zstd", "blosc2", "htj2k", "jpegxl-lossless")
CLASSICAL = ("hevc", "jpeg", "jpeg2000", "jpeg2000z", "jpegxl", "sperr", "sz3", "zfp")
LEARNED = ("ae", "cnn", "crae2", "dcae", "dcnn", "inr", "vqvae")


def sweep_settings(
    name: str, data_range: float, *, minutes: float | None = None, epochs: int | None = None
) -> list[BaseModel]:
    """Give the settings with which a codec is compared.

    Parameters
    ----------
    name : str
        Of the codec.
    data_range : float
        Largest minus smallest value of the volume, for codecs that are told a largest error.
    minutes : float, optional
        Time to train, for codecs that learn from a volume; not given: the source's epochs.
    epochs : int, optional
        Epochs to train, for all codecs that train.

    Returns
    -------
    list of BaseModel
        Of the codec's `settings_type`; one of defaults where there is nothing to sweep.
    """
    kind = codec(name).settings_type
    bounded: Iterable[dict[str, Any]] = ({"max_error": share * data_range} for share in _RELATIVE_ERRORS)
    points = list(bounded) if name in _BOUNDED else _POINTS.get(name, [{}])
    training: dict[str, Any] = {}
    if minutes and issubclass(kind, CodecSettings):
        training = {"minutes": minutes, "epochs": None}
    if epochs and "epochs" in kind.model_fields:
        training = {"epochs": epochs}
    return [kind.model_validate(point | training) for point in points]
