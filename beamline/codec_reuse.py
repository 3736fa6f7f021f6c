"""One codec for several scans: taking one that was trained before, and storing one decoder for many archives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietbeam.compress.codec import Codec, SliceSource
from quietbeam.compress.codec_parts import HasParts
from quietbeam.compress.header import ArchiveSettings
from quietbeam.compress.packed_codec import read_packed, unpack_codec
from quietbeam.compress.shared_decoder import DECODERS
from quietbeam.compress.slices import mean_and_std, sample_slices

from .atomic import write_atomically
from .job import Job
from .settings import ReductionSettings
from .workspace import LEARNED_CODEC

if TYPE_CHECKING:
    from .codec_fitting import FittedCodec

__all__ = [
    "codec_settings_for_followers",
    "decide_on_trained",
    "decoder_share",
    "decoders_folder",
    "decoders_of_series",
    "keep_codec",
    "read_trained",
]


def read_trained(settings: ReductionSettings) -> Codec | None:
    """Read the codec that is to be taken as it is.

    Parameters
    ----------
    settings : ReductionSettings
        All settings.

    Returns
    -------
    Codec or None
        None if one is to be made for the volume.

    Raises
    ------
    NetworkFileError
        If the file is no codec of the name `archive.codec`, or damaged.
    """
    path = settings.codec.trained
    if path is None:
        return None
    return unpack_codec(settings.archive.codec, read_packed(path), where=f"codec.trained={path}")


def decide_on_trained(job: Job, trained: Codec, volume: SliceSource) -> None:
    """Tell that a codec is taken as it is, and how its normalisation, which stays, fits the volume.

    Parameters
    ----------
    job : Job
        Keeps the decision.
    trained : Codec
        From `read_trained`.
    volume : SliceSource
        To be coded; at most 16 slices are looked at.
    """
    numbers = trained.to_parts().numbers if isinstance(trained, HasParts) else {}
    sha256 = str(job.keys.trained_codec)
    job.decide("codec taken", f"sha256 {sha256[:12]}", f"codec.trained, nothing is fitted{_fit(numbers, volume)}")


def _fit(numbers: dict[str, Any], volume: SliceSource) -> str:
    """Compare what a codec expects with a volume; values it does not expect cost bytes, never error."""
    planes = sample_slices(volume)
    if "std" in numbers:
        mean, std = mean_and_std(planes)
        made_for = f"a mean of {numbers['mean']:.4g} and a deviation of {numbers['std']:.4g}"
        return f"; made for {made_for}, this volume has {mean:.4g} and {std:.4g}"
    if "low" in numbers:
        made_for = f"values from {numbers['low']:.4g} to {numbers['high']:.4g}"
        return f"; made for {made_for}, those here go from {planes.min():.4g} to {planes.max():.4g}"
    return ""


def decoder_share(archive: ArchiveSettings, state: bytes, shape: tuple[int, ...]) -> float:
    """Tell what a voxel bears of the stored decoder.

    Parameters
    ----------
    archive : ArchiveSettings
        Whether the archive holds it.
    state : bytes
        What decoding needs.
    shape : tuple of int
        Of the volume.

    Returns
    -------
    float
        Bytes; 0 where several archives share it.
    """
    return len(state) / math.prod(shape) if archive.embed else 0.0


def decoders_folder(archive: ArchiveSettings, output: Path) -> Path | None:
    """Name the folder that the decoder goes to.

    Parameters
    ----------
    archive : ArchiveSettings
        Whether the archive holds it, and where it goes else.
    output : Path
        Output folder of the scan.

    Returns
    -------
    Path or None
        None if the archive holds it; absolute else.
    """
    if archive.embed:
        return None
    return (archive.decoders or output.absolute().parent / DECODERS).absolute()


def decoders_of_series(settings: ReductionSettings, output: Path) -> ReductionSettings:
    """Let the scans of a series share the decoders of one folder, unless they hold their own or another is named.

    Parameters
    ----------
    settings : ReductionSettings
        Of the series.
    output : Path
        Its output folder.

    Returns
    -------
    ReductionSettings
        For each scan.
    """
    archive = settings.archive
    if archive.embed or archive.decoders:
        return settings
    archive = archive.model_copy(update={"decoders": output.absolute() / DECODERS})
    return settings.model_copy(update={"archive": archive})


def keep_codec(job: Job, fitted: FittedCodec) -> None:
    """Put a codec that was trained here beside the archive, or take away that of an earlier result.

    Parameters
    ----------
    job : Job
        With the output folder.
    fitted : FittedCodec
        It is not kept if nothing was trained for it, or if it was taken from elsewhere.
    """
    path = job.workspace.output / LEARNED_CODEC
    if fitted.file is None or not fitted.learned or job.settings.codec.trained:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, fitted.file.read_bytes())


def codec_settings_for_followers(settings: ReductionSettings, first_output: Path) -> ReductionSettings:
    """Let a scan of a series take the codec that was trained for the first one.

    Parameters
    ----------
    settings : ReductionSettings
        As the user gave them, with `codec.reuse`.
    first_output : Path
        Output folder of the first scan, finished.

    Returns
    -------
    ReductionSettings
        With `codec.trained`; as they were if each scan makes its own codec, one is named already, or the codec learns
        nothing.
    """
    path = first_output.absolute() / LEARNED_CODEC
    if settings.codec.reuse != "first" or settings.codec.trained or not path.exists():
        return settings
    return settings.model_copy(update={"codec": settings.codec.model_copy(update={"trained": path})})
