import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes, parse_network
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.reconstruction.errors import ReductionError


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(0)
    net = MSD(3, 2, NetworkSettings(depth=5, dilations=(1, 4), padding="reflect"), generator=generator)
    with torch.no_grad():
        for tensor in (net.final_weight, net.bias, net.input_mean, net.output_std):
            tensor.uniform_(0.5, 1, generator=generator)
    return net


def test_a_network_comes_back(network, tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(network_bytes(network, {"scan": "abc"}))
    back, provenance = load_network(path)
    images = torch.rand(1, 3, 12, 12)
    assert provenance == {"scan": "abc"}
    assert back.settings == network.settings
    assert torch.equal(back(images), network(images))


def test_the_first_format_is_still_read(network, tmp_path):
    """One mean and standard deviation for all channels, dilations from 1 to a number."""
    net = MSD(3, 1, NetworkSettings(depth=5, dilations=(1, 2, 3)), generator=torch.Generator().manual_seed(0))
    net.final_weight.data.fill_(0.1)
    tensors = {name: value for name, value in net.state_dict().items() if not name.endswith(("_mean", "_std"))}
    tensors |= {"mean": torch.tensor(0.5), "std": torch.tensor(2.0)}
    settings = {"depth": 5, "width": 1, "num_dilations": 3}
    header = {"format": "quietbeam-msd-1", "channels": [3, 1], "settings": settings, "provenance": {}}
    path = tmp_path / "network.safetensors"
    path.write_bytes(save(tensors, metadata={"quietbeam": json.dumps(header)}))
    back, _ = load_network(path)
    for values, value in ((net.input_mean, 0.5), (net.output_mean, 0.5), (net.input_std, 2.0), (net.output_std, 2.0)):
        values.fill_(value)
    images = torch.rand(1, 3, 12, 12)
    assert torch.equal(back(images), net(images))


def test_no_random_numbers_are_drawn(network, tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(network_bytes(network, {}))
    before = torch.get_rng_state()
    load_network(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_came_back_learns(network, tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(network_bytes(network, {}))
    back, _ = load_network(path)
    back(torch.ones(1, 3, 12, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())
    assert {value.device.type for value in back.state_dict().values()} == {"cpu"}


HEADER = {
    "format": "quietbeam-msd-2",
    "channels": [3, 2],
    "settings": {"depth": 5, "width": 1, "dilations": [1, 4], "padding": "reflect"},
    "provenance": {},
}
FIRST = {"format": "quietbeam-msd-1", "settings": {"depth": 5, "width": 1, "num_dilations": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": None}, "channels in its header"),
        ({"channels": [3]}, "channels.1 in its header: Field required"),
        ({"channels": [3, 0]}, "channels.1 in its header"),
        ({"channels": [10**30, 2]}, "a network of [0-9]{30,} numbers, it holds 258"),
        ({"channels": [4, 2]}, "a network of 307 numbers, it holds 258"),
        ({"channels": [2, 2]}, r"tensor final_weight must be real and of shape \(2, 7\)"),
        ({"settings": {"depth": 10**9}}, "a network of [0-9]{18,} numbers, it holds 258"),
        ({"settings": {"depth": 4}}, "tensor weights.4 is not known"),
        ({"settings": {"depth": 6}}, "a network of 333 numbers, it holds 258"),
        ({"settings": {"depth": "deep"}}, "settings.depth in its header"),
        ({"settings": {"dilations": []}}, "settings.dilations in its header"),
        ({"settings": []}, "settings in its header"),
        ({"provenance": 1}, "provenance in its header"),
        ({"more": 1}, "more in its header: Extra"),
        (FIRST, "tensor mean must be one number"),
        (FIRST | {"settings": {"depth": 5, "width": 1}}, "num_dilations in its header: Field required"),
        (FIRST | {"channels": 7}, "channels in its header"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(network, tmp_path, change, message):
    path = tmp_path / "network.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(tensors, metadata={"quietbeam": json.dumps(_joined(HEADER, change))}))
    with pytest.raises(ReductionError, match=rf"network\.safetensors: damaged network file: .*{message}"):
        load_network(path)


def _joined(header, change):
    inner = change.get("settings")
    if isinstance(inner, dict) and "num_dilations" not in inner and "format" not in change:
        change = change | {"settings": header["settings"] | inner}
    return header | change


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weights.3", None, "its header tells of a network of"),
        ("bias", torch.zeros(0), r"its header tells of a network of"),
        ("more", torch.zeros(1), "tensor more is not known"),
        ("bias", torch.zeros(6), r"tensor bias must be real and of shape \(5,\), got torch.float32 of \(6,\)"),
        ("bias", torch.zeros(5, dtype=torch.int32), "tensor bias must be real .*got torch.int32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(network, tmp_path, name, tensor, message):
    path = tmp_path / "network.safetensors"
    tensors = load(network_bytes(network, {}))
    tensors.pop(name, None)
    path.write_bytes(save(tensors | ({} if tensor is None else {name: tensor}), {"quietbeam": json.dumps(HEADER)}))
    with pytest.raises(ReductionError, match=rf"network\.safetensors: damaged network file: {message}"):
        load_network(path)


@pytest.mark.parametrize("name", ["weights.3", "bias", "final_weight", "final_bias", "input_mean", "output_std"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_refused(network, tmp_path, name, value):
    network.state_dict()[name].flatten()[-1:] = value
    path = tmp_path / "network.safetensors"
    path.write_bytes(network_bytes(network, {}))
    with pytest.raises(ReductionError, match=rf"network\.safetensors: damaged .*tensor {name} holds .* not finite"):
        load_network(path)


@pytest.mark.parametrize("name", ["input_std", "output_std"])
@pytest.mark.parametrize("value", [0, -1, 1e-60])
def test_a_deviation_is_above_0(network, tmp_path, name, value):
    """Also in the precision of the network, which 1e-60 is not."""
    tensors = load(network_bytes(network, {}))
    tensors[name] = tensors[name].double()
    tensors[name][1] = value
    path = tmp_path / "network.safetensors"
    path.write_bytes(save(tensors, {"quietbeam": json.dumps(HEADER)}))
    with pytest.raises(ReductionError, match=rf"network\.safetensors: damaged .*tensor {name} .*not above 0"):
        load_network(path)


def test_content_is_read_as_its_file_is(network, tmp_path):
    content = network_bytes(network, {"scan": "abc"})
    back, provenance = parse_network(content, "a name")
    assert provenance == {"scan": "abc"}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in back.state_dict().items())
    with pytest.raises(ReductionError, match="a name: not a network file"):
        parse_network(content[:-1], "a name")
    with pytest.raises(ReductionError, match=r"absent\.safetensors: not a network file .*No such file"):
        load_network(tmp_path / "absent.safetensors")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_a_network_of_the_same_size_or_refused(network, tmp_path, data):
    """A flipped bit among the weights cannot be told where they stay finite; one elsewhere may only be a refusal."""
    content = bytearray(network_bytes(network, {"scan": "abc"}))
    length = 8 + int.from_bytes(content[:8], "little")
    if data.draw(st.booleans(), "truncated"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        for _ in range(data.draw(st.integers(1, 3), "flips")):
            place = data.draw(st.integers(0, length - 1) | st.integers(0, len(content) - 1), "place")
            content[place] ^= data.draw(st.integers(1, 255), "bits")
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    try:
        back, _ = load_network(path)
    except ReductionError as error:
        assert str(path) in str(error)
    else:
        assert len(content) > length
        assert sum(value.numel() for value in back.state_dict().values()) == sum(
            value.numel() for value in network.state_dict().values()
        )


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 something", save({"a": torch.zeros(1)})])
def test_any_other_file_is_refused(content, tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    with pytest.raises(ReductionError, match=r"network\.safetensors: (not a network|expected a network)"):
        load_network(path)
