"""A packed codec encodes and decodes as the one that was packed, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from quietbeam.compress.codec import Codec, codec, known_codecs
from quietbeam.compress.codec_parts import HasParts
from quietbeam.compress.packed_codec import (
    MOST_BYTES,
    name_of_packed,
    pack_codec,
    packed_sha256,
    read_packed,
    unpack_codec,
)
from quietbeam.reconstruction.errors import NetworkFileError

from .test_golden import OPTIONS
from .volumes import foam

VOLUME = foam((4, 33, 31), num_voids=8)
SMALL: dict[str, dict[str, object]] = OPTIONS | {
    "crae": {"epochs": 1, "width": 8, "steps_per_epoch": 2, "crop_size": 32},
    "inr": OPTIONS["inr"] | {"shared_operator": True},
}
LEARNED = ["ae", "cnn", "crae", "crae2", "dcae", "dcnn", "inr", "vqvae"]

Header = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@cache
def fitted(name: str) -> Codec:
    kind = codec(name)
    if library := getattr(kind, "library", None):
        pytest.importorskip(library)
    return kind.fit(VOLUME, kind.settings_type.model_validate(SMALL.get(name, {})))


@cache
def packed(name: str) -> bytes:
    return pack_codec(fitted(name))


def changed(name: str, change: Callable[[Header, Tensors], object]) -> bytes:
    """Pack a codec anew with another header, other tensors."""
    content = packed(name)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["quietbeam"])
    tensors = load(content)
    change(header, tensors)
    return save(tensors, metadata={"quietbeam": json.dumps(header)})


@pytest.mark.parametrize("name", known_codecs())
def test_what_is_unpacked_gives_the_same_bytes(name: str) -> None:
    state = torch.random.get_rng_state()
    unpacked = unpack_codec(name, packed(name))
    assert torch.equal(state, torch.random.get_rng_state())
    assert unpacked.to_bytes() == fitted(name).to_bytes()
    bitstream = unpacked.encode(VOLUME[:2])
    assert bitstream == fitted(name).encode(VOLUME[:2])
    decoded = fitted(name).decode(bitstream, (2, 33, 31))
    np.testing.assert_array_equal(unpacked.decode(bitstream, (2, 33, 31)), decoded)
    assert pack_codec(unpacked) == packed(name)


def test_the_codecs_that_learn_hold_more_than_their_state() -> None:
    assert [name for name in known_codecs() if issubclass(codec(name), HasParts)] == LEARNED


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_read_from_an_archive_cannot_be_packed(name: str) -> None:
    decoder = codec(name).from_bytes(fitted(name).to_bytes())
    with pytest.raises(ValueError, match="only decodes: it cannot be packed"):
        pack_codec(decoder)


def test_another_codec_or_format_is_named() -> None:
    assert name_of_packed(packed("dcnn")) == "dcnn"
    with pytest.raises(NetworkFileError, match=r"x: expected the codec crae2, got dcnn: set archive\.codec=dcnn"):
        unpack_codec("crae2", packed("dcnn"), where="x")
    newer = changed("dcnn", lambda header, _: header.update(format="quietbeam-codec-9"))
    with pytest.raises(NetworkFileError, match="expected a codec of format quietbeam-codec-1, got 'quietbeam-codec-9'"):
        unpack_codec("dcnn", newer)
    other = changed("dcnn", lambda header, _: header.update(codec="mine"))
    with pytest.raises(NetworkFileError, match="holds the codec 'mine', which is none of ae, bitshuffle"):
        unpack_codec("dcnn", other)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crae2", lambda header, _: header["settings"].update(width=512), r"must be torch\.float32 of shape \(512,"),
        ("crae2", lambda header, _: header["settings"].update(width=None), "there is no crae2 of width None"),
        ("cnn", lambda header, _: header["settings"].update(latent_channels=65), "with 65 latent channels"),
        ("crae", lambda header, _: header["settings"].update(width=513), "width: Input should be less than or equal"),
        ("vqvae", lambda header, _: header["numbers"].update(std=0), "std: Input should be greater than 0"),
        ("ae", lambda header, _: header["numbers"].update(mean=float("nan")), "a number is NaN"),
        ("dcnn", lambda header, _: header["numbers"].update(low=9.0, high=9.0), "must ascend, got 9 and 9"),
        ("inr", lambda header, _: header["numbers"].pop("seed"), "seed: Field required"),
        ("inr", lambda _, tensors: tensors.update(operator=torch.zeros(0, dtype=torch.uint8)), "lacks its operator"),
        ("vqvae", lambda _, tensors: tensors.pop("quantiser.codebook"), "quantiser.codebook is missing"),
        ("vqvae", lambda _, tensors: tensors.update(more=torch.zeros(1)), "tensor more is not known"),
        ("dcnn", lambda _, tensors: tensors["encoder.0.bias"].fill_(float("inf")), "numbers that are not finite"),
        ("lattice", lambda _, tensors: tensors.pop("state"), "expected one tensor of bytes, state, got none"),
        ("lattice", lambda _, tensors: tensors["state"].fill_(0), "the state of codec lattice is damaged"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    name: str, change: Callable[[Header, Tensors], object], message: str
) -> None:
    with pytest.raises(NetworkFileError, match=message):
        unpack_codec(name, changed(name, change))


def test_weights_of_another_precision_are_refused() -> None:
    def halve(_: Header, tensors: Tensors) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    with pytest.raises(NetworkFileError, match=r"must be torch\.float32 of shape .* got torch\.float16"):
        unpack_codec("dcnn", changed("dcnn", halve))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_gives_a_codec(data: st.DataObject) -> None:
    content = bytearray(packed("dcnn"))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        place = data.draw(st.integers(0, 3000))
        content[place] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_codec("dcnn", bytes(content))
    except NetworkFileError:
        return
    assert found.name == "dcnn"
    assert len(content) == len(packed("dcnn"))


def test_only_what_may_be_a_codec_is_read(tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(packed("dcnn"))
    assert read_packed(path) == packed("dcnn")
    assert packed_sha256(path) != packed_sha256(None)
    with path.open("r+b") as file:
        file.truncate(MOST_BYTES + 1)  # sparse: takes no room
    with pytest.raises(NetworkFileError, match=f"not a codec file; such has at most {MOST_BYTES} bytes, this"):
        read_packed(path)
    path.write_bytes(b"a text of some words")
    with pytest.raises(NetworkFileError, match="not a codec file"):
        read_packed(path)
    with pytest.raises(NetworkFileError, match="not a codec file"):
        read_packed(tmp_path)
