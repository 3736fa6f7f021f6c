"""Network files of msd_pytorch (``.torch``).

A file holds ``{"epoch", "state_dict", "optimizer"}`` as written by ``torch.save``. The network of its class
``MSDRegressionModel`` is a sequence of three: ``0`` scales the input (a 1 x 1 convolution with a diagonal matrix),
``1`` is the MS-D network, ``2`` scales the output. Layers are cross-correlations; images are mirrored at the edge of
the outermost pixel. Dilations are not in the file.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .msd import MSD
from .network_parts import NetworkParts, join_network, split_network
from .pickled_values import describe
from .torch_archives import MALFORMED, StoredTensor, TorchArchive, read_torch_archive

__all__ = ["DILATIONS", "load_msd_pytorch", "msd_pytorch_bytes"]

DILATIONS = tuple(range(1, 11))
"""Of the layers in turn, unless msd_pytorch was told otherwise."""

_PARALLEL = "module."  # before all names, of networks that were trained on several GPUs
_LAYER = re.compile(r"1\.msd_block\.weight\d+")
_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}


def load_msd_pytorch(path: Path, *, dilations: Sequence[int] | None = None) -> tuple[MSD, dict[str, Any]]:
    """Read a network for regression that msd_pytorch has saved.

    Parameters
    ----------
    path : Path
        File of either format of ``torch.save``, with the whole state or the state dict alone.
    dilations : sequence of int, optional
        What the network was made with; the file does not say. Taken in turn, pixels. [`DILATIONS`]

    Returns
    -------
    MSD
        The network, on the CPU, with padding "symmetric". Weights other than float32 are rounded to it.
    dict
        ``{"format": "msd_pytorch", "dilations", "dilations_assumed"}``: those taken, and whether none were given; the
        network is another one if it was made with others. Also "epoch", where the file says it.

    Raises
    ------
    NetworkFileError
        If the file is no such network: damaged, 3D, for segmentation, with channels that are mixed by its scaling.
    """
    taken = DILATIONS if dilations is None else tuple(dilations)
    archive = read_torch_archive(path)
    try:
        saved = archive.content
        if not isinstance(saved, dict):
            raise TypeError(f"expected a state dict, got {_kind(saved)}")
        state = saved.get("state_dict", saved)
        epoch = saved.get("epoch")
        parts = _read_parts(archive, _known_names(state))
        model = join_network(parts, dilations=taken, padding="symmetric")
    except MALFORMED as error:
        raise NetworkFileError(f"{path}: not a network of msd_pytorch that can be used: {error}") from error
    said = {"format": "msd_pytorch", "dilations": list(taken), "dilations_assumed": dilations is None}
    return model, said | ({"epoch": epoch} if type(epoch) is int else {})


def msd_pytorch_bytes(model: MSD, *, epoch: int = 0) -> bytes:
    """Serialise a network for ``MSDRegressionModel.load`` of msd_pytorch.

    Parameters
    ----------
    model : MSD
        The network. The model that loads it must have its channels, depth, width and dilations.
    epoch : int
        Number of epochs it was trained for; what ``load`` returns.

    Returns
    -------
    bytes
        Content of a ``.torch`` file, for PyTorch 1.6 and later. Its Adam optimizer starts afresh.

    Raises
    ------
    ReductionError
        If the network continues images otherwise than msd_pytorch does, or holds numbers that cannot be used.
    """
    if model.settings.padding != "symmetric":
        raise ReductionError(f"msd_pytorch has symmetric borders only, the network has {model.settings.padding}")
    try:
        state = _state_dict(split_network(model))
    except ValueError as error:
        raise ReductionError(f"the network cannot be written: {error}") from error
    num_trained = len(model.weights) + 3
    optimizer = {"state": {}, "param_groups": [{**_ADAM, "params": list(range(num_trained))}]}
    file = BytesIO()
    torch.save({"epoch": epoch, "state_dict": state, "optimizer": optimizer}, file)
    return file.getvalue()


def _state_dict(parts: NetworkParts) -> OrderedDict[str, Tensor]:
    names = {f"1.msd_block.weight{layer}": weight for layer, weight in enumerate(parts.weights)}
    return OrderedDict(
        {
            "0.weight": torch.diag(parts.input_gain)[:, :, None, None],
            "0.bias": parts.input_offset,
            "1.msd_block.bias": parts.bias,
            **names,
            "1.final_layer.linear.weight": parts.final_weight[:, :, None],
            "1.final_layer.linear.bias": parts.final_bias,
            "2.weight": torch.diag(parts.output_gain)[:, :, None, None],
            "2.bias": parts.output_offset,
        }
    )


def _kind(saved: object) -> str:
    return "a tensor" if isinstance(saved, StoredTensor) else describe(saved)


def _known_names(state: Mapping[str, object]) -> dict[str, StoredTensor]:
    """Tensors by their names without prefix."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise TypeError(f"expected tensors by name, got {type(value).__name__} for {describe(name)}")
        tensors[name.removeprefix(_PARALLEL)] = value
    if any(name.startswith("1.0.msd_block") for name in tensors):
        raise ValueError("it is for segmentation; only networks for regression can be converted")
    return tensors


def _read_parts(archive: TorchArchive, stored: dict[str, StoredTensor]) -> NetworkParts:
    shapes = _expected_shapes(stored)
    if missing := [name for name in shapes if name not in stored]:
        raise ValueError(f"{missing[0]} is missing")
    if unknown := [name for name in stored if name not in shapes]:
        raise ValueError(f"{unknown[0][:40]} is no part of it")
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {stored[name].shape}")
    tensors = archive.float_tensors(stored)
    return NetworkParts(
        weights=[tensors[f"1.msd_block.weight{layer}"] for layer in range(_num_layers(stored))],
        bias=tensors["1.msd_block.bias"],
        final_weight=tensors["1.final_layer.linear.weight"].squeeze(-1),
        final_bias=tensors["1.final_layer.linear.bias"],
        input_gain=_diagonal(tensors["0.weight"], "0.weight"),
        input_offset=tensors["0.bias"],
        output_gain=_diagonal(tensors["2.weight"], "2.weight"),
        output_offset=tensors["2.bias"],
    )


def _num_layers(stored: dict[str, StoredTensor]) -> int:
    return sum(_LAYER.fullmatch(name) is not None for name in stored)


def _expected_shapes(stored: dict[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, from those of the first layer and of the last."""
    first = stored.get("1.msd_block.weight0")
    if first is None or "2.bias" not in stored:
        raise ValueError("expected tensors 1.msd_block.weight0 and 2.bias, as in the state dict of MSDRegressionModel")
    if len(first.shape) == 5:
        raise ValueError("it has 3D convolutions; only networks for images (2D) can be converted")
    width, c_in = first.shape[:2]
    (c_out,) = stored["2.bias"].shape
    depth = _num_layers(stored)
    if min(width, c_in, c_out) < 1:
        raise ValueError(f"expected channels, got {c_in} in, {width} in each layer, {c_out} out")
    layers = {f"1.msd_block.weight{layer}": (width, c_in + width * layer, 3, 3) for layer in range(depth)}
    return layers | {
        "0.weight": (c_in, c_in, 1, 1),
        "0.bias": (c_in,),
        "1.msd_block.bias": (depth * width,),
        "1.final_layer.linear.weight": (c_out, c_in + depth * width, 1),
        "1.final_layer.linear.bias": (c_out,),
        "2.weight": (c_out, c_out, 1, 1),
        "2.bias": (c_out,),
    }


def _diagonal(weight: Tensor, name: str) -> Tensor:
    matrix = weight[:, :, 0, 0]
    diagonal = matrix.diagonal()
    if not torch.equal(matrix, torch.diag(diagonal)):
        raise ValueError(
            f"{name} mixes channels, where a gain for each is expected (msd_pytorch before 0.9.0 wrote such a scaling "
            "for several channels)"
        )
    return diagonal
