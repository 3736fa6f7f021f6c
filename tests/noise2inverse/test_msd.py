import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from quietbeam.noise2inverse.msd import MSD, NetworkSettings

EQUAL = 1e-11
"""Largest difference from framework convolutions in double precision: rounding."""


def network(in_channels=3, out_channels=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    net = MSD(in_channels, out_channels, NetworkSettings(**settings), generator=generator).double()
    with torch.no_grad():
        for parameter in (net.final_weight, net.final_bias, net.bias):
            parameter.normal_(0, 0.3, generator=generator)
        net.mean.fill_(0.7)
        net.std.fill_(1.9)
    return net


def by_convolutions(net, x):
    """The definition, with a padded convolution for each layer and all features joined."""
    x = (x - net.mean) / net.std
    for weight, bias, dilation in zip(net.weights, net.bias.view(len(net.weights), -1), net.dilations, strict=True):
        rows, columns = (torch.as_tensor(np.pad(np.arange(n), dilation, mode="symmetric")) for n in x.shape[-2:])
        x = torch.cat([x, torch.relu(conv2d(x[:, :, rows][..., columns], weight, bias, dilation=dilation))], 1)
    return conv2d(x, net.final_weight[:, :, None, None], net.final_bias) * net.std + net.mean


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("shape", [(10, 10), (13, 17), (24, 11)])
def test_equals_dilated_convolutions_in_output_and_gradients(width, shape):
    net = network(depth=22, width=width)
    x = torch.rand(2, 3, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ours, plain = net(x), by_convolutions(net, x)
    torch.testing.assert_close(ours, plain, rtol=0, atol=EQUAL)
    upstream = torch.rand(ours.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    wanted = [x, *net.parameters()]
    gradients = (torch.autograd.grad(output, wanted, upstream) for output in (ours, plain))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=EQUAL, atol=EQUAL * 1e3)


@pytest.mark.parametrize(("in_channels", "count"), [(1, 45_652), (5, 49_256)])
def test_number_of_parameters_is_that_of_the_paper(in_channels, count):
    net = MSD(in_channels, 1)
    assert net.num_parameters == count
    assert net.dilations[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2)


def test_untrained_network_gives_the_mean():
    net = MSD(1, 1, NetworkSettings(depth=5))
    net.mean.fill_(3.0)
    assert (net(torch.rand(1, 1, 16, 16)) == 3).all()


def test_training_keeps_about_two_planes_a_channel():
    """Counted in bytes of the tensors kept for the backward pass, and not O(depth^2)."""
    net = MSD(1, 1, NetworkSettings(depth=40))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        net(torch.rand(1, 1, 64, 64)).sum()
    planes = sum(kept) / 64**2
    assert planes < 41 + 1 + 5


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 10 pixels wide and high, got 9"):
        MSD(1, 1)(torch.rand(1, 1, 9, 64))
