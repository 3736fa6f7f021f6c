"""How a codec that learned from one sample serves others, as it is and after fine-tuning, as Fettah et al. ask.

See `quietbeam.compress.autoencoder` for the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.quality import SMALLEST_SIDE, ms_ssim, psnr

from .autoencoder import AutoencoderSettings
from .codec import SliceSource
from .latent_codec import LatentCodec
from .training import fit_codec

__all__ = ["GeneralisationRow", "Split", "fine_tune", "generalisation", "split_slices"]

_L = TypeVar("_L", bound=LatentCodec)

Volume = NDArray[np.float32]


class GeneralisationRow(NamedTuple):
    """How a codec does on the test slices of one volume.

    Attributes
    ----------
    volume : str
        Its name.
    weights : {"trained", "as they are", "fine-tuned"}
        Trained on this volume; on the other one; then trained further on this.
    psnr, validation_psnr : float
        Decibel, on the test slices and on the validation slices.
    ms_ssim : float or None
        On the test slices; None where a side is below 161 pixels.
    bits_per_voxel : float
        Of the latents of the test slices, without the decoder.
    """

    volume: str
    weights: Literal["trained", "as they are", "fine-tuned"]
    psnr: float
    validation_psnr: float
    ms_ssim: float | None
    bits_per_voxel: float


class Split(NamedTuple):
    """Slices to train, validate and test on: three blocks from the first slice to the last."""

    training: slice
    validation: slice
    test: slice


def split_slices(num_slices: int, settings: AutoencoderSettings) -> Split:
    """Split slices by the shares of the settings.

    Neighbouring slices are alike: drawn at random, the test slices would be those that were trained on.

    Parameters
    ----------
    num_slices : int
        Of the volume.
    settings : AutoencoderSettings
        Shares of the slices.

    Returns
    -------
    Split
        None of the three is empty.

    Raises
    ------
    ValueError
        If the shares leave one of them empty.
    """
    first = round(num_slices * settings.training_share)
    second = round(num_slices * (settings.training_share + settings.validation_share))
    if not 0 < first < second < num_slices:
        raise ValueError(
            f"{num_slices} slices split at {first} and {second} leave none to train, validate or test on: "
            "give more slices, or other shares"
        )
    return Split(slice(0, first), slice(first, second), slice(second, num_slices))


def fine_tune(codec: _L, volume: SliceSource, settings: Any, *, seed: int = 0) -> _L:
    """Train a codec further, on another volume.

    Parameters
    ----------
    codec : LatentCodec
        With its encoder; it is left as it is.
    volume : SliceSource
        Shape (slice, y, x); the new codec has its normalisation.
    settings : LatentCodecSettings
        Of the codec's kind; width and latent channels are those of `codec`.
    seed : int
        Of the crops.

    Returns
    -------
    LatentCodec
        Of the same kind.

    Raises
    ------
    ValueError
        If the codec only decodes.
    """
    start = type(codec).for_volume(volume, settings, seed, start=codec)
    return fit_codec(type(codec), volume, settings, seed=seed, start=start)


def generalisation(
    kind: type[LatentCodec],
    volumes: Mapping[str, Volume],
    trained_on: str,
    settings: AutoencoderSettings,
    *,
    fine_tuning: AutoencoderSettings | None = None,
    seed: int = 0,
) -> list[GeneralisationRow]:
    """Train on one volume, test on all, fine-tune on the others and test again.

    Parameters
    ----------
    kind : type
        ``AeCodec``, ``CnnCodec`` or ``DcaeCodec``.
    volumes : mapping of str to float32, shape (slice, y, x)
        By name; as they are before fine-tuning they get their own mean and standard deviation, and the other's weights.
    trained_on : str
        One of the names.
    settings : AutoencoderSettings
        How to train, and the shares of the slices.
    fine_tuning : AutoencoderSettings, optional
        How to train further; by default as before.
    seed : int
        Of weights and crops.

    Returns
    -------
    list of GeneralisationRow
        One for the volume that was trained on, two for each other one.

    Raises
    ------
    ValueError
        If `trained_on` is none of the names, or a volume has too few slices to be split.
    """
    if trained_on not in volumes:
        raise ValueError(f"trained_on must be one of {', '.join(volumes)}, got {trained_on!r}")
    splits = {name: split_slices(len(volume), settings) for name, volume in volumes.items()}
    trained = kind.fit(volumes[trained_on][splits[trained_on].training], settings, seed=seed)
    rows = [_row(trained_on, "trained", trained, volumes[trained_on], splits[trained_on])]
    for name in sorted(set(volumes) - {trained_on}):
        part = volumes[name][splits[name].training]
        moved = kind.for_volume(part, settings, seed, start=trained)
        rows.append(_row(name, "as they are", moved, volumes[name], splits[name]))
        tuned = fine_tune(trained, part, fine_tuning or settings, seed=seed)
        rows.append(_row(name, "fine-tuned", tuned, volumes[name], splits[name]))
    return rows


def _row(
    name: str,
    weights: Literal["trained", "as they are", "fine-tuned"],
    codec: LatentCodec,
    volume: Volume,
    split: Split,
) -> GeneralisationRow:
    test, validation = volume[split.test], volume[split.validation]
    bitstream = codec.encode(test)
    decoded = codec.decode(bitstream, test.shape)
    validated = codec.decode(codec.encode(validation), validation.shape)
    similarity = ms_ssim(test, decoded) if min(test.shape[1:]) >= SMALLEST_SIDE else None
    bits_per_voxel = 8 * len(bitstream) / test.size
    return GeneralisationRow(
        name, weights, psnr(test, decoded), psnr(validation, validated), similarity, bits_per_voxel
    )
