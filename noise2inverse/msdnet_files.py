"""Network files of msdnet (HDF5).

The group ``network`` holds the attributes ``d`` (depth), ``nin`` and ``nout``, and the datasets ``dl`` (dilation of
each layer), ``f/00000`` and so on (weights, one output channel a layer), ``o`` (biases), ``w`` and ``oo`` (of the
output), and where data were normalised ``gam_in``, ``off_in``, ``gam_out`` and ``off_out`` (gain * x + offset, by
channel). Layers are cross-correlations; images are mirrored at the middle of the outermost pixel.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .msd import MSD
from .network_parts import NetworkParts, join_network, split_network

__all__ = ["HDF5_START", "load_msdnet", "msdnet_bytes"]

HDF5_START = b"\x89HDF\r\n\x1a\n"
"""First bytes of the file."""

_GROUP = "network"
_SHOWN = 40
_FLOAT, _INTEGER = "f", "iu"  # kinds of NumPy's types
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RuntimeError)


def load_msdnet(path: Path) -> tuple[MSD, dict[str, Any]]:
    """Read a network that msdnet has saved.

    Parameters
    ----------
    path : Path
        HDF5 file. Whether a network was trained for segmentation does not stand in it: such a one is read as well, and
        gives what msdnet has before the softmax.

    Returns
    -------
    MSD
        The network, on the CPU, with padding "reflect".
    dict
        ``{"format": "msdnet"}``.

    Raises
    ------
    NetworkFileError
        If the file is no such network: damaged, with parts missing or of other shapes, or with 3D filters.
    """
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(_GROUP, getlink=True), h5py.HardLink):
                raise ValueError(f"there is no group named {_GROUP} in it")
            reader = _Reader(file, path.stat().st_size)
            dilations, parts = _read_parts(reader)
        model = join_network(parts, dilations=_shortest_cycle(dilations), padding="reflect")
    except _MALFORMED as error:
        raise NetworkFileError(f"{path}: not a network of msdnet that can be used: {error}") from error
    return model, {"format": "msdnet"}


def msdnet_bytes(model: MSD) -> bytes:
    """Serialise a network for ``MSDNet.from_file`` of msdnet.

    Parameters
    ----------
    model : MSD
        The network.

    Returns
    -------
    bytes
        Content of an ``.h5`` file.

    Raises
    ------
    ReductionError
        If msdnet cannot hold the network: its layers are one channel wide, and its borders reflect.
    """
    if model.settings.width != 1:
        raise ReductionError(f"msdnet has layers of one channel only, the network has width {model.settings.width}")
    if model.settings.padding != "reflect":
        raise ReductionError(f"msdnet has reflecting borders only, the network has {model.settings.padding} ones")
    try:
        parts = split_network(model)
    except ValueError as error:
        raise ReductionError(f"the network cannot be written: {error}") from error
    content = BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group(_GROUP)
        group.attrs.update({"d": len(model.weights), "nin": model.in_channels, "nout": model.out_channels})
        group["dl"] = np.array(model.dilations, dtype=np.int32)
        for name, values in _named(parts).items():
            group[name] = values.numpy()
    return content.getvalue()


def _named(parts: NetworkParts) -> dict[str, Tensor]:
    return {f"f/{layer:05d}": weight[0] for layer, weight in enumerate(parts.weights)} | {
        "o": parts.bias,
        "w": parts.final_weight,
        "oo": parts.final_bias,
        "gam_in": parts.input_gain,
        "off_in": parts.input_offset,
        "gam_out": parts.output_gain,
        "off_out": parts.output_offset,
    }


class _Reader:
    """Takes numbers out of a file, in all no more than it has bytes."""

    def __init__(self, file: h5py.File, num_bytes: int) -> None:
        self.file, self.left = file, num_bytes

    def count(self, name: str) -> int:
        attributes = self.file[_GROUP].attrs
        kept = attributes.get_id(name)
        if kept.shape != () or kept.dtype.kind not in _INTEGER:
            raise ValueError(f"{name}: expected one integer, got {_describe(kept)}")
        number = int(attributes[name])
        if number < 1:
            raise ValueError(f"{name}: expected a number of at least 1, got {number}")
        return number

    def array(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
        data = self.file[_GROUP]
        for step in name.split("/"):
            if not isinstance(data.get(step, getlink=True), h5py.HardLink):
                raise ValueError(f"{name}: missing, or a link to somewhere else")
            data = data[step]
        if not isinstance(data, h5py.Dataset) or data.shape != shape or data.dtype.kind not in kind:
            raise ValueError(f"{name}: expected numbers of shape {shape}, got {_describe(data)}")
        if data.chunks is not None or data.external or data.is_virtual:
            raise ValueError(f"{name}: expected a plain dataset, neither compressed nor from another file")
        self.left -= data.size
        if self.left < 0:
            raise ValueError(f"{name}: larger than the file")
        return np.asarray(data[()])

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self.array(name, shape, _FLOAT).astype(np.float32))

    def gains(self, side: str, channels: int) -> tuple[Tensor, Tensor]:
        if f"gam_{side}" not in self.file[_GROUP]:
            return torch.ones(channels), torch.zeros(channels)
        return self.tensor(f"gam_{side}", (channels,)), self.tensor(f"off_{side}", (channels,))


def _describe(data: Any) -> str:
    """Say what is in a place of the file, without reading it."""
    if not hasattr(data, "dtype"):
        return type(data).__name__
    return f"{str(data.dtype)[:_SHOWN]} of shape {data.shape}"


def _read_parts(reader: _Reader) -> tuple[list[int], NetworkParts]:
    depth, c_in, c_out = reader.count("d"), reader.count("nin"), reader.count("nout")
    dilations = reader.array("dl", (depth,), _INTEGER)
    final_weight = reader.tensor("w", (c_out, c_in + depth))
    weights = [reader.tensor(f"f/{layer:05d}", (c_in + layer, 3, 3))[None] for layer in range(depth)]
    input_gain, input_offset = reader.gains("in", c_in)
    output_gain, output_offset = reader.gains("out", c_out)
    return dilations.tolist(), NetworkParts(
        weights=weights,
        bias=reader.tensor("o", (depth,)),
        final_weight=final_weight,
        final_bias=reader.tensor("oo", (c_out,)),
        input_gain=input_gain,
        input_offset=input_offset,
        output_gain=output_gain,
        output_offset=output_offset,
    )


def _shortest_cycle(dilations: list[int]) -> list[int]:
    """Fewest dilations that give the same when they are taken in turn."""
    for length in range(1, len(dilations)):
        if all(here == before for here, before in zip(dilations[length:], dilations, strict=False)):
            return dilations[:length]
    return dilations
