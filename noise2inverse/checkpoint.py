"""A trained network as a file: safetensors with its settings and where it comes from. Nothing in it can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quietbeam.reconstruction.errors import NetworkFileError

from .msd import MSD, NetworkSettings

__all__ = ["FORMAT", "load_network", "network_bytes", "parse_network"]

FORMAT = "quietbeam-msd-2"
"""Name of the file format, for ever."""
_FORMAT_1 = "quietbeam-msd-1"
"""Dilations from 1 to a number, and one mean and standard deviation for all channels."""


_HEADER_AT = 8
"""Byte at which safetensors' header begins; its length stands before."""


class _Header(BaseModel):
    """What the file says beside the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    channels: tuple[PositiveInt, PositiveInt]
    settings: NetworkSettings
    provenance: dict[str, Any]


class _FirstSettings(BaseModel):
    """Size of a network of the first format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: PositiveInt
    width: PositiveInt
    num_dilations: int = Field(ge=1, le=255)


def network_bytes(model: MSD, provenance: dict[str, Any]) -> bytes:
    """Serialise a network.

    Parameters
    ----------
    model : MSD
        The network.
    provenance : dict
        What JSON can hold: scan identity, sections, settings, versions.

    Returns
    -------
    bytes
        Content of a ``.safetensors`` file; the same for the same network and provenance.
    """
    header = {
        "format": FORMAT,
        "channels": [model.in_channels, model.out_channels],
        "settings": model.settings.model_dump(),
        "provenance": provenance,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata={"quietbeam": json.dumps(header, sort_keys=True)})


def load_network(path: Path) -> tuple[MSD, dict[str, Any]]:
    """Read a network back. No random number is drawn.

    Parameters
    ----------
    path : Path
        File written from `network_bytes`.

    Returns
    -------
    MSD
        The network, on the CPU.
    dict
        Its provenance.

    Raises
    ------
    NetworkFileError
        If the file is not such a network, or not a whole one, or holds a number that is not finite or a standard
        deviation that is not above 0.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_AT + 1)  # nothing more of what is no such file, however large
            content = start + file.read() if start[_HEADER_AT:] == b"{" else start
    except OSError as error:
        raise NetworkFileError(f"{path}: not a network file ({error})") from error
    return parse_network(content, str(path))


def parse_network(content: bytes, name: str) -> tuple[MSD, dict[str, Any]]:
    """Read a network from the content of its file.

    Parameters
    ----------
    content : bytes
        From `network_bytes`.
    name : str
        Of the file, for messages.

    Returns
    -------
    MSD
        The network, on the CPU.
    dict
        Its provenance.

    Raises
    ------
    NetworkFileError
        As `load_network`.
    """
    try:
        tensors, said = load(content), _header_of(content)
    except (SafetensorError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise NetworkFileError(f"{name}: not a network file ({error})") from error
    known = said.get("format") if isinstance(said, dict) else None
    if known not in (FORMAT, _FORMAT_1):
        raise NetworkFileError(f"{name}: expected a network of format {FORMAT}, got {str(known)[:40]!r}")
    try:
        if known == _FORMAT_1:
            said, tensors = _brought_up_to_date(said, tensors)
        header = _Header.model_validate(said)
        return _network(header, tensors), header.provenance
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise NetworkFileError(f"{name}: damaged network file: {place} in its header: {problem['msg']}") from error
    except ValueError as error:
        raise NetworkFileError(f"{name}: damaged network file: {error}") from error


def _header_of(content: bytes) -> Any:
    """Take what `network_bytes` says of the network out of the header of safetensors: its length, then JSON."""
    length = int.from_bytes(content[:_HEADER_AT], "little")
    metadata = json.loads(content[_HEADER_AT : _HEADER_AT + length]).get("__metadata__") or {}
    return json.loads(metadata.get("quietbeam", "{}"))


def _network(header: _Header, tensors: dict[str, Tensor]) -> MSD:
    """Make a network of tensors, all of which must fit."""
    told, held = _numbers_of(header), sum(tensor.numel() for tensor in tensors.values())
    if told > held:
        raise ValueError(f"its header tells of a network of {told} numbers, it holds {held}")
    model = MSD(*header.channels, header.settings, generator=torch.Generator())
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"tensor {wrong[0]} is {'missing' if wrong[0] in expected else 'not known'}")
    for name, shape in expected.items():
        got = tensors[name]
        if tuple(got.shape) != shape or not got.is_floating_point():
            raise ValueError(f"tensor {name} must be real and of shape {shape}, got {got.dtype} of {tuple(got.shape)}")
    model.load_state_dict(tensors)
    _check_numbers(model)
    return model


def _check_numbers(model: MSD) -> None:
    """Refuse a network that could only give images which are not finite."""
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"tensor {name} holds numbers that are not finite: take another network")
        if name.endswith("_std") and not (values > 0).all():
            raise ValueError(f"tensor {name} holds a standard deviation that is not above 0: take another network")


def _numbers_of(header: _Header) -> int:
    """Count weights, biases, means and deviations, before memory is taken for them."""
    (inputs, outputs), depth, width = header.channels, header.settings.depth, header.settings.width
    weights = 9 * width * (depth * inputs + width * (depth * (depth - 1) // 2))
    return weights + depth * width + outputs * (inputs + depth * width + 1) + 2 * (inputs + outputs)


def _brought_up_to_date(
    content: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give header and tensors of the first format as those of the present one."""
    first = _FirstSettings.model_validate(content.get("settings"))
    dilations = list(range(1, first.num_dilations + 1))
    settings = {"depth": first.depth, "width": first.width, "dilations": dilations}
    header = _Header.model_validate(content | {"format": FORMAT, "settings": settings})
    tensors = dict(tensors)
    for name in ("mean", "std"):
        value = tensors.pop(name, torch.empty(0))
        if value.numel() != 1:
            raise ValueError(f"tensor {name} must be one number")
        for side, channels in zip(("input", "output"), header.channels, strict=True):
            tensors[f"{side}_{name}"] = value.reshape(1).expand(channels)
    return header.model_dump(), tensors
