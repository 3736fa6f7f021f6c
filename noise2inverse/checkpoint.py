"""A trained network as a file: safetensors with its settings and where it comes from. Nothing in it can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quietbeam.reconstruction.errors import ReductionError

from .msd import MSD, NetworkSettings

__all__ = ["FORMAT", "load_network", "network_bytes"]

FORMAT = "quietbeam-msd-2"
"""Name of the file format, for ever."""
_FORMAT_1 = "quietbeam-msd-1"
"""Dilations from 1 to a number, and one mean and standard deviation for all channels."""


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
    """Read a network back.

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
    ReductionError
        If the file is not such a network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("quietbeam", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ReductionError(f"{path}: not a network file ({error})") from error
    if header.get("format") == _FORMAT_1:
        _bring_up_to_date(header, tensors)
    if header.get("format") != FORMAT:
        raise ReductionError(f"{path}: expected a network of format {FORMAT}, got {header.get('format')!r}")
    in_channels, out_channels = header["channels"]
    model = MSD(in_channels, out_channels, NetworkSettings(**header["settings"]))
    model.load_state_dict(tensors)
    return model, header["provenance"]


def _bring_up_to_date(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    settings = header["settings"]
    settings["dilations"] = list(range(1, settings.pop("num_dilations") + 1))
    mean, std = tensors.pop("mean"), tensors.pop("std")
    for side, channels in zip(("input", "output"), header["channels"], strict=True):
        tensors |= {f"{side}_mean": mean.repeat(channels), f"{side}_std": std.repeat(channels)}
    header["format"] = FORMAT
