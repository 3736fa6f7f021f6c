"""Refusing now what would fail after hours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from quietbeam.compress.codec import codec
from quietbeam.compress.header import ArchiveHeader
from quietbeam.noise2inverse.pairs import held_out_group
from quietbeam.reconstruction.acquisition import Acquisition
from quietbeam.reconstruction.errors import ReductionError, ScanError
from quietbeam.reconstruction.pairing import pair_sections
from quietbeam.reconstruction.reconstructors import available_reconstructors
from quietbeam.reconstruction.tomopy_backend import tomopy_is_installed

from .codec_reuse import read_trained
from .geometry import split
from .network_reuse import check_reuse
from .scan import Scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, sinogram_halo
from .warm_start import check_start

if TYPE_CHECKING:
    import torch

__all__ = ["check_feasible", "check_volume", "choose_device", "codec_settings"]

_WHAT_IS_MISSING = {
    "fbp-cuda": "a CUDA device and its driver, and ASTRA finds none here",
    "tomopy-gridrec": "tomopy, which is not installed here (conda install -c conda-forge tomopy)",
}


def check_feasible(scan: Scan, settings: ReductionSettings) -> None:
    """Refuse settings that the scan or this machine cannot do, before anything is computed.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.

    Raises
    ------
    ScanError
        If the axis given is not on the detector, or the phase is to be retrieved and the scan does not tell how.
    ReductionError
        If the method's library or device is not here, the projections are too few for the sections, the slices too
        small, too many, or too few for those held out, the network is to see time steps, or the network to begin with
        does not fit.
    """
    check_volume(scan.path, (scan.num_rows, scan.num_columns, scan.num_columns), settings)
    method, column = settings.reconstruction.method, settings.rotation_axis.column
    if method not in available_reconstructors():
        raise ReductionError(f"reconstruction.method={method} needs {_WHAT_IS_MISSING[method]}: choose gridrec or fbp")
    if settings.phase.delta_beta and settings.phase.method == "tomopy-paganin" and not tomopy_is_installed():
        raise ReductionError(f"phase.method=tomopy-paganin needs {_WHAT_IS_MISSING['tomopy-gridrec']}: choose paganin")
    if column is not None and not 0 <= column <= scan.num_columns - 1:
        raise ScanError(
            f"{scan.path}: rotation_axis must lie in [0, {scan.num_columns - 1}], got {column:g}: leave it out to have "
            "it found"
        )
    choose_device(settings.compute.device)
    codec_settings(settings)
    read_trained(settings)
    _check_pairs(scan, settings)
    check_start(settings)
    check_reuse(scan, settings)
    split(scan, Acquisition.from_angles(scan.theta), settings)
    sinogram_halo(scan, SinogramSettings.of(settings))


def _check_pairs(scan: Scan, settings: ReductionSettings) -> None:
    """Refuse what cannot be paired, with the message of the setting."""
    try:
        held_out_group(scan.num_rows, settings.pairs)
        pair_sections([range(settings.sections.num_sections)], settings.pairs.strategy)
    except ValueError as error:
        raise ReductionError(f"{scan.path}: {error}") from error
    if settings.pairs.context_steps:
        raise ReductionError(
            f"{scan.path}: pairs.context_steps must be 0 where there is one time step, got "
            f"{settings.pairs.context_steps}: time series are denoised from Python, see the how-to on time series"
        )


def choose_device(name: str) -> torch.device:
    """Find the device of the network.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        auto takes CUDA where there is one.

    Returns
    -------
    torch.device
        It.

    Raises
    ------
    ReductionError
        If CUDA is asked for and not here.
    """
    import torch

    has_cuda = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ReductionError("compute.device is cuda, but torch finds no CUDA device here; take auto or cpu")
    return torch.device("cuda" if has_cuda else "cpu")


def codec_settings(settings: ReductionSettings) -> Any:
    """Give the settings of the archive's codec.

    Parameters
    ----------
    settings : ReductionSettings
        All settings.

    Returns
    -------
    BaseModel
        Of the codec's `settings_type`.

    Raises
    ------
    ReductionError
        If the codec has no such settings.
    """
    kind = codec(settings.archive.codec)
    try:
        return settings.codec.for_codec(kind)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        known = ", ".join(kind.settings_type.model_fields)
        raise ReductionError(f"codec.options of codec {kind.name}: {faults}; it knows {known}") from error


def check_volume(path: Path, shape: tuple[int, int, int], settings: ReductionSettings) -> None:
    """Refuse a volume that does not fit into an archive, or is too small for the network.

    Parameters
    ----------
    path : Path
        The scan, for the message.
    shape : (int, int, int)
        Slice, y, x.
    settings : ReductionSettings
        All settings.

    Raises
    ------
    ReductionError
        With the numbers, and the setting to change.
    """
    archive, network = settings.archive, settings.network
    try:
        ArchiveHeader(shape=shape, codec=archive.codec, max_error=1, chunk_slices=archive.chunk_slices)
    except ValueError as error:
        raise ReductionError(f"{path}: does not fit into an archive: {error}") from error
    largest = network.largest_dilation
    if min(settings.pairs.crop_size, *shape[1:]) < largest + (network.padding == "reflect"):
        raise ReductionError(
            f"{path}: slices of {shape[2]} pixels are smaller than the network's largest dilation, {largest}: lower "
            "network.dilations"
        )
