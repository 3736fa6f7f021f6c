"""Conversion of trained networks between the files of quietbeam, msd_pytorch and msdnet."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings, Padding
from quietbeam.noise2inverse.msd_pytorch_files import load_msd_pytorch, msd_pytorch_bytes
from quietbeam.noise2inverse.msdnet_files import HDF5_START, load_msdnet, msdnet_bytes
from quietbeam.noise2inverse.torch_archives import LEGACY_START, ZIP_START
from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .atomic import file_sha256, write_atomically

__all__ = ["convert_network", "describe_network", "parse_dilations", "parse_padding"]


def convert_network(
    source: Path,
    target: Path,
    *,
    dilations: Sequence[int] | None = None,
    padding: Padding | None = None,
    overwrite: bool = False,
) -> tuple[MSD, dict[str, Any]]:
    """Write a trained network as a file of another program.

    Parameters
    ----------
    source : Path
        Network file of quietbeam, msd_pytorch or msdnet; told by its content.
    target : Path
        File to write; told by its name: ``.safetensors``, ``.torch`` or ``.h5``.
    dilations : sequence of int, optional
        Of the layers in turn, for a file of msd_pytorch, which does not hold them. [1 to 10]
    padding : {"symmetric", "reflect"}, optional
        How the network shall continue images from now on. Its results change near their border where this is not how
        it was trained. [as the source does]
    overwrite : bool
        Whether a file that is there may be replaced.

    Returns
    -------
    MSD
        The network as it was written.
    dict
        Its provenance. Where dilations were not given for a file of msd_pytorch, ``dilations_assumed`` is true in its
        ``converted_from``.

    Raises
    ------
    NetworkFileError
        If the source is no such network.
    ReductionError
        If the target cannot hold it.
    FileExistsError
        If the target is there.
    ValueError
        If the target's name is of no known kind or its folder is missing, or dilations are given for a file that holds
        its own.
    """
    if target.suffix not in _WRITERS:
        raise ValueError(f"{target}: expected a name that ends with {', '.join(_WRITERS)}")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.parent}; make it first")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already; --overwrite replaces it")
    model, provenance = _read(source, dilations)
    if padding is not None:
        model = _with_padding(model, padding)
    if (needed := _PADDINGS.get(target.suffix, model.settings.padding)) != model.settings.padding:
        raise ReductionError(
            f"{source}: the network continues images by {model.settings.padding} borders, a network in {target.suffix} "
            f"files always by {needed} ones: its results would change there; --padding {needed} accepts this"
        )
    try:
        content = _WRITERS[target.suffix](model, provenance)
    except ReductionError as error:
        raise type(error)(f"{source}: {error}") from error
    write_atomically(target, content)
    return model, provenance


def describe_network(model: MSD, provenance: dict[str, Any]) -> str:
    """Say how large a network is.

    Parameters
    ----------
    model : MSD
        The network.
    provenance : dict
        Where it comes from.

    Returns
    -------
    str
        One line; it tells of dilations that were assumed.
    """
    assumed = " (assumed: msd_pytorch files do not hold them)" if _origin(provenance).get("dilations_assumed") else ""
    settings, cycle = model.settings, ",".join(map(str, model.settings.dilations))
    return (
        f"{model.in_channels} to {model.out_channels} channels, depth {settings.depth}, width {settings.width}, "
        f"dilations {cycle}{assumed}, {settings.padding} borders"
    )


def parse_dilations(text: str) -> tuple[int, ...]:
    """Read dilations as a person writes them.

    Parameters
    ----------
    text : str
        For example ``1,2,4,8``.

    Returns
    -------
    tuple of int
        The dilations, pixels.

    Raises
    ------
    ValueError
        If they are not whole numbers from 1 to 255.
    """
    numbers = text.replace(" ", "").split(",")
    if not all(number.isdecimal() and 1 <= int(number) <= 255 for number in numbers):
        raise ValueError(f"expected dilations like 1,2,4,8, each from 1 to 255, got {text}")
    return tuple(map(int, numbers))


def parse_padding(text: str) -> Padding:
    """Read how images go on beyond their border.

    Parameters
    ----------
    text : str
        ``symmetric`` or ``reflect``.

    Returns
    -------
    {"symmetric", "reflect"}
        The same.

    Raises
    ------
    ValueError
        If it is another word.
    """
    known: dict[str, Padding] = {name: name for name in get_args(Padding)}
    if text not in known:
        raise ValueError(f"padding must be one of {', '.join(known)}, got {text}")
    return known[text]


def _read(path: Path, dilations: Sequence[int] | None) -> tuple[MSD, dict[str, Any]]:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise NetworkFileError(f"{path}: expected a file, got something else")
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith((ZIP_START, LEGACY_START)):
        model, said = load_msd_pytorch(path, dilations=dilations)
    elif dilations is not None:
        raise ValueError(f"{path} holds the dilations of its network; leave out --dilations")
    elif start.startswith(HDF5_START):
        model, said = load_msdnet(path)
    elif start[8:9] == b"{":
        return load_network(path)
    else:
        got = "a file of another kind" if start else "an empty file"
        raise NetworkFileError(f"{path}: expected a network of quietbeam, msd_pytorch or msdnet, got {got}")
    return model, {"converted_from": said | {"file": path.name, "sha256": file_sha256(path)}}


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """Give what the file of another program said, if the network comes from one."""
    said = provenance.get("converted_from")
    return said if isinstance(said, dict) else {}


def _with_padding(model: MSD, padding: Padding) -> MSD:
    settings = NetworkSettings(**(model.settings.model_dump() | {"padding": padding}))
    other = MSD(model.in_channels, model.out_channels, settings)
    other.load_state_dict(model.state_dict())
    return other


def _write_msd_pytorch(model: MSD, provenance: dict[str, Any]) -> bytes:
    return msd_pytorch_bytes(model, epoch=_origin(provenance).get("epoch", 0))


def _write_msdnet(model: MSD, provenance: dict[str, Any]) -> bytes:
    return msdnet_bytes(model)


_PADDINGS: dict[str, Padding] = {".torch": "symmetric", ".h5": "reflect"}
_WRITERS: dict[str, Callable[[MSD, dict[str, Any]], bytes]] = {
    ".safetensors": network_bytes,
    ".torch": _write_msd_pytorch,
    ".h5": _write_msdnet,
}
