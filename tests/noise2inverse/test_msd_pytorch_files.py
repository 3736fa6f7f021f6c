"""Networks of msd_pytorch: the names and shapes of its files, and what its networks compute."""

import io
from collections import OrderedDict
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quietbeam.noise2inverse.msd_pytorch_files import load_msd_pytorch, msd_pytorch_bytes
from quietbeam.reconstruction.errors import ReductionError

from .foreign_networks import assert_equal_output, assert_same_weights, mixed_scale_dense_float64, random_network


class Block(nn.Module):
    """Parameters under the names of msd_pytorch's MSDBlock."""

    def __init__(self, c_in, depth, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(depth * width))
        for layer in range(depth):
            setattr(self, f"weight{layer}", nn.Parameter(torch.randn(width, c_in + width * layer, 3, 3) / 5))


class Twin(nn.Module):
    """Parameters under the names of msd_pytorch's MSDModule."""

    def __init__(self, c_in, c_out, depth, width):
        super().__init__()
        self.msd_block = Block(c_in, depth, width)
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Conv1d(c_in + depth * width, c_out, 1)


def scaling(channels):
    """Give a frozen 1 x 1 convolution with a diagonal matrix."""
    layer = nn.Conv2d(channels, channels, 1).requires_grad_(False)
    layer.weight.copy_(torch.diag(torch.rand(channels) + 0.5)[:, :, None, None])
    return layer


def twin(c_in=2, c_out=3, depth=7, width=2):
    torch.manual_seed(0)
    return nn.Sequential(scaling(c_in), Twin(c_in, c_out, depth, width), scaling(c_out))


def file_of(net, path, *, zipped=True, **changes):
    """Write a network with the state of an optimizer that has made a step."""
    trained = deepcopy(net[1])
    optimizer = torch.optim.Adam(trained.parameters())
    sum(parameter.sum() for parameter in trained.parameters()).backward()
    optimizer.step()
    state = {"epoch": 12, "state_dict": net.state_dict(), "optimizer": optimizer.state_dict()} | changes
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def save_state(path, **changes):
    """Write a state dict alone, with tensors replaced, added or, where None, left out."""
    state = dict(twin().state_dict()) | {name.replace("__", "."): value for name, value in changes.items()}
    torch.save(OrderedDict((name, value) for name, value in state.items() if value is not None), path)
    return path


def output_of_state(state, images, dilations):
    """Compute a network for regression from its state dict alone."""
    state = {name: tensor.double().numpy() for name, tensor in state.items()}
    gains = [(np.diag(state[f"{i}.weight"][:, :, 0, 0]), state[f"{i}.bias"]) for i in (0, 2)]
    weights = [state[f"1.msd_block.weight{layer}"] for layer in range(len(dilations))]
    biases = state["1.msd_block.bias"].reshape(len(dilations), -1)
    final = state["1.final_layer.linear.weight"][:, :, 0], state["1.final_layer.linear.bias"]
    return mixed_scale_dense_float64(images, gains, weights, biases, *final, dilations=dilations, mode="symmetric")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("c_in", "c_out", "depth", "width"), [(1, 1, 12, 1), (3, 2, 5, 3)])
def test_an_imported_network_computes_what_its_file_means(zipped, c_in, c_out, depth, width, tmp_path):
    net = twin(c_in, c_out, depth, width)
    images = np.random.default_rng(0).normal(2, 1, (c_in, 23, 18))
    found, said = load_msd_pytorch(file_of(net, tmp_path / "net.torch", zipped=zipped))
    assert said == {"format": "msd_pytorch", "epoch": 12, "dilations": list(range(1, 11)), "dilations_assumed": True}
    assert found.settings.padding == "symmetric"
    dilations = [1 + layer % 10 for layer in range(depth)]
    assert_equal_output(found, images, output_of_state(net.state_dict(), images, dilations))


def test_dilations_are_those_that_are_given(tmp_path):
    net = twin()
    images = np.random.default_rng(0).normal(size=(2, 16, 16))
    found, said = load_msd_pytorch(file_of(net, tmp_path / "net.torch"), dilations=(1, 4, 2))
    assert (said["dilations"], said["dilations_assumed"]) == ([1, 4, 2], False)
    _, said = load_msd_pytorch(tmp_path / "net.torch", dilations=range(1, 11))
    assert not said["dilations_assumed"], "they were given, though they are the usual ones"
    assert_equal_output(found, images, output_of_state(net.state_dict(), images, (1, 4, 2, 1, 4, 2, 1)))
    with pytest.raises(ReductionError, match=r"dilations must lie in \[1, 255\], got \[0\]"):
        load_msd_pytorch(tmp_path / "net.torch", dilations=(0,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_precision_are_read(dtype, tmp_path):
    net = twin().to(dtype)
    images = np.random.default_rng(0).normal(size=(2, 16, 16))
    found, _ = load_msd_pytorch(file_of(net, tmp_path / "net.torch"))
    assert found.bias.dtype == torch.float32
    assert_equal_output(found, images, output_of_state(net.state_dict(), images, range(1, 8)))


def test_networks_of_several_gpus_are_read_and_bare_states(tmp_path):
    net = twin()
    expected, _ = load_msd_pytorch(file_of(net, tmp_path / "net.torch"))
    parallel = OrderedDict((f"module.{name}", tensor) for name, tensor in net.state_dict().items())
    found, _ = load_msd_pytorch(file_of(net, tmp_path / "parallel.torch", state_dict=parallel))
    assert_same_weights(expected, found)
    torch.save(net.state_dict(), tmp_path / "bare.torch")
    found, said = load_msd_pytorch(tmp_path / "bare.torch")
    assert "epoch" not in said
    assert_same_weights(expected, found)


def test_a_network_of_ours_loads_into_theirs():
    """What its ``load`` does: state dict, optimizer over the layers between the scalings, epoch."""
    ours = random_network(in_channels=2, out_channels=3, depth=7, width=2, dilations=(1, 4))
    content = io.BytesIO(msd_pytorch_bytes(ours, epoch=5))
    state = torch.load(content, weights_only=True)  # noqa: TID251 - how the other program reads the file
    net = twin()
    net.load_state_dict(state["state_dict"], strict=True)
    assert list(state["state_dict"]) == list(net.state_dict())
    optimizer = torch.optim.Adam(net[1].parameters())
    optimizer.load_state_dict(state["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 1e-3
    sum(parameter.sum() for parameter in net[1].parameters()).backward()
    optimizer.step()
    assert state["epoch"] == 5
    images = np.random.default_rng(0).normal(size=(2, 16, 16))
    assert_equal_output(ours, images, output_of_state(state["state_dict"], images, (1, 4, 1, 4, 1, 4, 1)))


@pytest.mark.parametrize("width", [1, 3])
def test_networks_come_back(width, tmp_path):
    ours = random_network(depth=6, width=width, dilations=(1, 3))
    path = tmp_path / "net.torch"
    path.write_bytes(msd_pytorch_bytes(ours))
    back, _ = load_msd_pytorch(path, dilations=(1, 3))
    assert back.settings == ours.settings
    assert_same_weights(ours, back)
    assert msd_pytorch_bytes(ours) == path.read_bytes()


def test_what_msd_pytorch_cannot_hold_is_refused():
    with pytest.raises(ReductionError, match="symmetric borders only, the network has reflect"):
        msd_pytorch_bytes(random_network(depth=2, padding="reflect"))
    net = random_network(depth=2)
    net.input_std[1] = 0
    with pytest.raises(ReductionError, match="standard deviation of the input must be at least"):
        msd_pytorch_bytes(net)
    net.input_std[1] = 1
    net.output_mean[0] = torch.inf
    with pytest.raises(ReductionError, match="output offset: there are numbers that are not finite"):
        msd_pytorch_bytes(net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0__weight": torch.ones(2, 2, 1, 1)}, r"0\.weight mixes channels"),
        ({"2__weight": -torch.eye(3)[:, :, None, None]}, "output gain must be at least 1e-30"),
        ({"1__msd_block__weight3": torch.ones(2, 8, 3, 3, 3)}, r"weight3: expected shape \(2, 8, 3, 3\), got"),
        ({"1__msd_block__weight0": torch.ones(2, 2, 3, 3, 3)}, r"3D convolutions"),
        ({"1__msd_block__weight0": torch.ones(2)}, "not enough values"),
        ({"1__msd_block__weight3": None}, r"expected shape|weight3 is missing"),
        ({"1__msd_block__weight6": None, "1__msd_block__weight9": torch.ones(1)}, r"weight6 is missing"),
        ({"1__msd_block__weight0": None}, r"expected tensors 1\.msd_block\.weight0"),
        ({"0__bias": None}, r"0\.bias is missing"),
        ({"3__bias": torch.ones(2)}, r"3\.bias is no part of it"),
        ({"1__0__msd_block__bias": torch.ones(2)}, "it is for segmentation"),
        ({"2__bias": torch.tensor([1.0, torch.nan, 0.0])}, "output offset: there are numbers that are not finite"),
        ({"2__bias": torch.ones(3, dtype=torch.int64)}, r"2\.bias: expected floating point"),
        ({"2__bias": "text"}, r"expected tensors by name, got str for '2\.bias'"),
    ],
)
def test_other_networks_are_refused(changes, message, tmp_path):
    with pytest.raises(
        ReductionError, match=rf"net\.torch: not a network of msd_pytorch that can be used: .*({message})"
    ):
        load_msd_pytorch(save_state(tmp_path / "net.torch", **changes))


@pytest.mark.parametrize("value", [5, [], {}, {"state_dict": 5}, {"state_dict": {}}, torch.ones(3)])
def test_other_content_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "net.torch")
    with pytest.raises(ReductionError, match=r"net\.torch: not a network of msd_pytorch"):
        load_msd_pytorch(tmp_path / "net.torch")


def sample(zipped):
    file = io.BytesIO()
    torch.save({"epoch": 1, "state_dict": twin(1, 1, 2, 1).state_dict()}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([sample(True), sample(False)]), st.data())
def test_damage_raises_nothing_else(tmp_path_factory, content, data):
    damaged = bytearray(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "net.torch"
    path.write_bytes(damaged)
    try:
        load_msd_pytorch(path)
    except ReductionError as error:
        assert "net.torch" in str(error)
