"""With what settings the codecs are compared: a few points along each one's rate-distortion curve."""

from __future__ import annotations

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
    "inr": [{"downsampling": 2, "channels": 8, "width": 110}],
}
_GRIDS: dict[str, list[dict[str, Any]]] = {
    "inr": [
        {"downsampling": ds, "channels": nc, "width": h} for ds, nc, h in product((2, 4, 8), (4, 8, 16), (30, 110, 230))
    ],
}
"""The networks among which the source finds its trade-off point."""

_BOUNDED = {"sz3": _RELATIVE_ERRORS, "zfp": (0.7, 0.35, 0.175, 0.0875)}
"""Largest errors over the range. Those of zfp are far above its real ones, and it rounds them down to a power of two;
halves give different points."""
LOSSLESS = ("bitshuffle-zstd", "blosc2", "htj2k", "jpegxl-lossless")
CLASSICAL = ("hevc", "jpeg", "jpeg2000", "jpeg2000z", "jpegxl", "sperr", "sz3", "zfp")
LEARNED = ("ae", "cnn", "crae2", "dcae", "dcnn", "inr", "vqvae")


def sweep_settings(
    name: str, data_range: float, *, minutes: float | None = None, epochs: int | None = None, grid: bool = False
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
        Epochs to train, for all codecs that train; go before the time.
    grid : bool
        All sizes of network that the source compares, where it has such a grid: 27 of ``inr``.

    Returns
    -------
    list of BaseModel
        Of the codec's `settings_type`; one of defaults where there is nothing to sweep.

    Raises
    ------
    ValueError
        If only a time is given, and the codec trains by epochs alone.
    """
    kind = codec(name).settings_type
    training = _training(name, kind, minutes, epochs)
    return [kind.model_validate(point | training) for point in _points(name, data_range, grid)]


def _points(name: str, data_range: float, grid: bool) -> list[dict[str, Any]]:
    if name in _BOUNDED:
        return [{"max_error": share * data_range} for share in _BOUNDED[name]]
    return (_GRIDS if grid and name in _GRIDS else _POINTS).get(name, [{}])


def _training(name: str, kind: type[BaseModel], minutes: float | None, epochs: int | None) -> dict[str, Any]:
    if "epochs" not in kind.model_fields:
        return {}
    if epochs:
        return {"epochs": epochs}
    if minutes and not issubclass(kind, CodecSettings):
        raise ValueError(f"{name} takes --epochs, and no time to train")
    return {"minutes": minutes, "epochs": None} if minutes else {}
