"""What a codec is made of: settings, numbers of its volume, and tensors; enough to encode and decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

__all__ = ["CodecParts", "HasParts", "Normalisation", "fill", "parts_of_network"]


class CodecParts(NamedTuple):
    """What a codec is made of.

    Attributes
    ----------
    settings : BaseModel or dict
        Of the codec's `settings_type`, or the same as JSON.
    numbers : dict
        What JSON can hold: how its volume is normalised, and other numbers.
    tensors : dict of str to Tensor
        Weights of encoder and decoder, or other arrays, on the CPU.
    """

    settings: Any
    numbers: dict[str, Any]
    tensors: dict[str, Tensor]


@runtime_checkable
class HasParts(Protocol):
    """A codec that holds more for encoding than what `to_bytes` gives for decoding."""

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""


class Normalisation(BaseModel):
    """How a volume is brought to mean 0 and standard deviation 1, and how large it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = Field(allow_inf_nan=False, description="in the volume's units")
    std: float = Field(gt=0, allow_inf_nan=False, description="in the volume's units")
    num_voxels: int = Field(ge=1, description="slices times rows times columns")
    threshold: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="activity above which a tile is important, where that counts"
    )


def parts_of_network(network: nn.Module) -> dict[str, Tensor]:
    """Give the numbers of a network under their names, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put numbers into a network; memory is taken for nothing but what is given.

    Parameters
    ----------
    network : nn.Module
        Built on the ``meta`` device; afterwards on the CPU, in evaluation mode.
    tensors : mapping of str to float32 Tensor
        From `parts_of_network`; they become the network's own.

    Raises
    ------
    ValueError
        If a tensor is missing, not known, of another shape or type, or not finite.
    """
    expected = network.state_dict()
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"tensor {wrong[0]} is {'missing' if wrong[0] in expected else 'not known'}")
    for name, layer in expected.items():
        got = tensors[name]
        if got.shape != layer.shape or got.dtype != layer.dtype:
            kind = f"{layer.dtype} of shape {tuple(layer.shape)}"
            raise ValueError(f"tensor {name} must be {kind}, got {got.dtype} of shape {tuple(got.shape)}")
        if not bool(got.isfinite().all()):
            raise ValueError(f"tensor {name} holds numbers that are not finite")
    network.load_state_dict(dict(tensors), assign=True)
    network.eval()
