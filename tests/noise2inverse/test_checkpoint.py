import json

import pytest
import torch
from safetensors.torch import save

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
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


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 something", save({"a": torch.zeros(1)})])
def test_any_other_file_is_refused(content, tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    with pytest.raises(ReductionError, match=r"network\.safetensors: (not a network|expected a network)"):
        load_network(path)
