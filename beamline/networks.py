"""Conversion of trained networks between the files of quietbeam, msd_pytorch and msdnet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings, Padding
from quietbeam.noise2inverse.msd_pytorch_files import DILATIONS, load_msd_pytorch, msd_pytorch_bytes
from quietbeam.noise2inverse.msdnet_files import HDF5_START, load_msdnet, msdnet_bytes
from quietbeam.noise2inverse.torch_archives import LEGACY_START, ZIP_START
from quietbeam.reconstruction.errors import ReductionError

from .atomic import file_sha256, write_atomically

__all__ = ["convert_network", "describe_network", "parse_dilations", "parse_padding"]


def convert_network(
    source: Path,
    target: Path,
    *,
    dilations: Sequence[int] | None = None,
    padding: Padding | None = None,
    overwrite: bool = False,
) -> MSD:
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

    Raises
    ------
    ReductionError
        If the source is no such network, or the target cannot hold it.
    FileExistsError
        If the target is there.
    ValueError
        If the target's name is of no known kind, or dilations are given for a file that holds its own.
    """
    if target.suffix not in _WRITERS:
        raise ValueError(f"{target}: expected a name that ends with {', '.join(_WRITERS)}")
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
    write_atomically(target, _WRITERS[target.suffix](model, provenance))
    return model


def describe_network(model: MSD) -> str:
    """Say how large a network is.

    Parameters
    ----------
    model : MSD
        The network.

    Returns
    -------
    str
        One line.
    """
    settings, cycle = model.settings, ",".join(map(str, model.settings.dilations))
    return (
        f"{model.in_channels} to {model.out_channels} channels, depth {settings.depth}, width {settings.width}, "
        f"dilations {cycle}, {settings.padding} borders"
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
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith((ZIP_START, LEGACY_START)):
        model, said = load_msd_pytorch(path, dilations=dilations or DILATIONS)
    elif dilations is not None:
        raise ValueError(f"{path} holds the dilations of its network; leave out --dilations")
    elif start.startswith(HDF5_START):
        model, said = load_msdnet(path)
    elif start[8:9] == b"{":
        return load_network(path)
    else:
        raise ReductionError(f"{path}: expected a network of quietbeam, msd_pytorch or msdnet, got {start[:8]!r}")
    return model, {"converted_from": said | {"file": path.name, "sha256": file_sha256(path)}}


def _with_padding(model: MSD, padding: Padding) -> MSD:
    settings = NetworkSettings(**(model.settings.model_dump() | {"padding": padding}))
    other = MSD(model.in_channels, model.out_channels, settings)
    other.load_state_dict(model.state_dict())
    return other


def _write_msd_pytorch(model: MSD, provenance: dict[str, Any]) -> bytes:
    return msd_pytorch_bytes(model, epoch=provenance.get("converted_from", {}).get("epoch", 0))


def _write_msdnet(model: MSD, provenance: dict[str, Any]) -> bytes:
    return msdnet_bytes(model)


_PADDINGS: dict[str, Padding] = {".torch": "symmetric", ".h5": "reflect"}
_WRITERS: dict[str, Callable[[MSD, dict[str, Any]], bytes]] = {
    ".safetensors": network_bytes,
    ".torch": _write_msd_pytorch,
    ".h5": _write_msdnet,
}
