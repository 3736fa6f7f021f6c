import pytest
import torch

from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense

EQUAL = 1e-11
"""Largest difference from framework convolutions in double precision: rounding."""


def network(in_channels=3, out_channels=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    net = MSD(in_channels, out_channels, NetworkSettings(**settings), generator=generator).double()
    with torch.no_grad():
        for parameter in (net.final_weight, net.final_bias, net.bias):
            parameter.normal_(0, 0.3, generator=generator)
        for values in (net.input_mean, net.input_std, net.output_mean, net.output_std):
            values.uniform_(0.5, 2, generator=generator)
    return net


def by_convolutions(net, x):
    """The definition, between normalisation and scaling."""
    output = mixed_scale_dense(
        (x - net.input_mean[:, None, None]) / net.input_std[:, None, None],
        list(net.weights),
        net.bias,
        net.final_weight,
        net.final_bias,
        dilations=net.dilations,
        padding=net.settings.padding,
    )
    return output * net.output_std[:, None, None] + net.output_mean[:, None, None]


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
    net.output_mean.fill_(3.0)
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
