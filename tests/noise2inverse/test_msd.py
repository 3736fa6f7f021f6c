import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.noise2inverse.msd import MSD, NetworkSettings, beyond_border, mixed_scale_dense

ROUNDING = 1e-11
"""Largest difference in double precision, relative to the largest value."""
SINGLE_ROUNDING = 1e-5
"""The same in single precision, for sums of some thousand products."""
HALF_ROUNDING = {torch.bfloat16: 0.03, torch.float16: 0.004}
"""The same with features in half precision: some of their spacings, 2^-8 and 2^-11."""
OFF = -1e4
"""A bias that no layer of positive weights comes up from."""
LARGE = 2048.0
"""Beside it half precision tells 16 (bfloat16) or 2 (float16) apart, single precision 0.0002."""
STANDARD_ERRORS = 5
"""By how many a mean or deviation of random weights may miss that of their distribution."""


def network(in_channels=3, out_channels=2, seed=0, **chosen):
    generator = torch.Generator().manual_seed(seed)
    net = MSD(in_channels, out_channels, NetworkSettings(**chosen), generator=generator)
    with torch.no_grad():
        for parameter in (net.final_weight, net.final_bias, net.bias):
            parameter.normal_(0, 0.3, generator=generator)
        for values in (net.input_mean, net.input_std, net.output_mean, net.output_std):
            values.uniform_(0.5, 2, generator=generator)
    return net


def by_definition(net, x):
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


def images(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).to(dtype)


def output_and_gradients(apply, net, x, upstream):
    x = x.clone().requires_grad_()
    output = apply(net, x)
    return [output, *torch.autograd.grad(output, [x, *net.parameters()], upstream.to(output.dtype))]


def largest_difference(found, wanted):
    """Over all tensors, each relative to its largest value."""
    pairs = ((a.detach().double(), b.detach().double()) for a, b in zip(found, wanted, strict=True))
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


def without_cancelling(net):
    """Make each term of each sum positive, and each layer all on or all off.

    Then neither a small difference of large sums nor what is rectified hangs on rounding, whatever the shape; images
    and upstream gradients must be positive too.
    """
    with torch.no_grad():
        for values in (*net.weights, net.final_weight, net.final_bias):
            values.abs_()
        for weight in net.weights:
            weight.mul_(0.1)
        net.input_mean.neg_()
        net.bias.copy_(torch.where(net.bias > 0, 6, OFF))


def compare(shape, dtype=torch.float32, *, cancelling=True, **chosen):
    """Largest difference of output and gradients between the blocks in `dtype` and the definition in double."""
    net = network(shape[1], **chosen)
    x = images(*shape, dtype=dtype)
    upstream = images(shape[0], net.out_channels, *shape[2:], dtype=dtype, seed=2)
    if not cancelling:
        without_cancelling(net)
        x, upstream = x.abs(), upstream.abs()
    found = output_and_gradients(lambda net, x: net(x), net.to(dtype), x, upstream)
    wanted = output_and_gradients(by_definition, net.double(), x.double(), upstream)
    return largest_difference(found, wanted)


@pytest.mark.parametrize("padding", ["symmetric", "reflect"])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 11, 11), (1, 1, 13, 37), (2, 5, 31, 16)])
def test_blocks_equal_the_definition_in_output_and_gradients(shape, width, padding):
    assert compare(shape, depth=22, width=width, padding=padding) < SINGLE_ROUNDING
    assert compare(shape, torch.double, depth=22, width=width, padding=padding) < ROUNDING


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(7, 70),
    width=st.integers(7, 70),
    channels=st.integers(1, 4),
    batch=st.integers(1, 3),
    depth=st.integers(1, 25),
    dilations=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_blocks_equal_the_definition_for_any_shape(height, width, channels, batch, depth, dilations):
    shape = (batch, channels, height, width)
    assert compare(shape, cancelling=False, depth=depth, dilations=tuple(dilations)) < SINGLE_ROUNDING


def test_a_full_network_on_a_larger_image_equals_the_definition():
    assert compare((1, 5, 96, 130), cancelling=False, depth=100) < SINGLE_ROUNDING


@pytest.mark.parametrize("dilation", [16, 17, 40])
def test_dilations_beyond_a_vector(dilation):
    assert compare((1, 2, 50, 45), depth=5, dilations=(dilation, 1)) < SINGLE_ROUNDING


@pytest.mark.parametrize("dtype", HALF_ROUNDING)
def test_half_precision_gives_what_its_features_allow(dtype):
    net = network(3, depth=30)
    x = images(1, 3, 40, 40)
    wanted = by_definition(net.double(), x.double()).detach()
    found = net.to(dtype)(x.to(dtype)).double().detach()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < HALF_ROUNDING[dtype]


def cancelling_network():
    """Layers that copy the image, while a large offset is added before and taken away after what they contribute.

    The first output is layer 29: its bias, the input, two blocks of ten layers, and then minus the bias through layer
    28, which is 1. The second takes the same from the linear combination: the offset through layer 0, which is 1.
    """
    net = MSD(1, 2, NetworkSettings(depth=30))
    with torch.no_grad():
        for weight in net.weights:
            weight.zero_()
        for layer in range(1, 20):
            net.weights[layer][0, 0, 1, 1] = 1
        net.bias[[0, 28]] = 1
        net.bias[29] = LARGE
        net.weights[29][0, [0, *range(2, 21)], 1, 1] = 1 / 16
        net.weights[29][0, 29, 1, 1] = -LARGE
        net.final_weight[0, 30] = 1
        net.final_weight[1, [1, 29]] = torch.tensor([LARGE, -LARGE])
        net.final_weight[1, 11:21] = 1 / 16
    return net


@pytest.mark.parametrize("dtype", HALF_ROUNDING)
def test_half_precision_is_added_up_in_single(dtype):
    """Each part of the sums is far below what half precision tells apart beside the offset."""
    net, x = cancelling_network(), torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert LARGE * torch.finfo(dtype).eps / 2 > 10 / 16
    wanted = torch.cat([20 / 16 * x.double(), 10 / 16 * x.double()], dim=1)
    assert largest_difference([by_definition(net.double(), x.double())], [wanted]) < ROUNDING
    found = net.to(dtype)(x).double().detach()
    assert largest_difference(found[0], wanted[0]) < HALF_ROUNDING[dtype]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_do_not_change_a_bit(threads):
    net, x = network(3, depth=22, width=1), images(2, 3, 83, 150)
    upstream = images(2, 2, 83, 150, seed=2)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(output_and_gradients(lambda net, x: net(x), net, x, upstream))
    finally:
        torch.set_num_threads(before)
    names = ["output", "images", *dict(net.named_parameters())]
    for name, one, many in zip(names, *found, strict=True):
        assert torch.equal(one, many), name


def test_values_that_are_not_finite_come_through():
    net, x = network(1, 1, depth=12), images(1, 1, 40, 40)
    x[0, 0, 20, 20] = np.nan
    assert torch.isnan(net(x)).any()


def test_gradients_come_only_once():
    net = network(1, 1, depth=3)
    loss = net(images(1, 1, 12, 12)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up by an earlier backward pass"):
        loss.backward()


def test_second_derivatives_are_refused():
    net, x = network(1, 1, depth=3), images(1, 1, 12, 12).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(net(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_weights_changed_before_the_backward_pass_are_noticed(dtype):
    net, x = network(1, 1, depth=3).to(dtype), images(1, 1, 12, 12, dtype=dtype)
    loss = net(x).sum()
    with torch.no_grad():
        net.weights[1].mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_automatic_precision_changes_nothing():
    net, x = network(1, 1, depth=12), images(1, 1, 16, 16)
    wanted = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(x), wanted)


def test_images_are_brought_to_the_precision_of_the_weights():
    net, x = network(1, 1, depth=4), images(1, 1, 16, 16)
    wanted = net(x).detach()
    net.to(torch.bfloat16)
    assert largest_difference([net(x)], [wanted]) < HALF_ROUNDING[torch.bfloat16]


@pytest.mark.parametrize(("in_channels", "count"), [(1, 45_652), (5, 49_256)])
def test_number_of_parameters_is_that_of_the_paper(in_channels, count):
    net = MSD(in_channels, 1)
    assert net.num_parameters == count
    assert net.dilations[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2)


@pytest.mark.parametrize(("c_in", "c_out", "depth", "width"), [(1, 1, 100, 1), (5, 90, 3, 24)])
def test_initial_weights_have_the_deviation_of_the_formula(c_in, c_out, depth, width):
    """Of msd_pytorch: sqrt(2 / (9 (c_in + w (d - 1)) + c_out)), in early layers and in late ones."""
    net = MSD(c_in, c_out, NetworkSettings(depth=depth, width=width), generator=torch.Generator().manual_seed(0))
    wanted = (2 / (9 * (c_in + width * (depth - 1)) + c_out)) ** 0.5
    for layers in (range(depth // 2), range(depth // 2, depth)):
        weights = torch.cat([net.weights[layer].detach().flatten() for layer in layers]) / wanted
        assert float(weights.std()) == pytest.approx(1, abs=STANDARD_ERRORS / (2 * len(weights)) ** 0.5)
        assert abs(float(weights.mean())) < STANDARD_ERRORS / len(weights) ** 0.5
    for zeros in (net.bias, net.final_weight, net.final_bias):
        assert not zeros.any()


def test_untrained_network_gives_the_mean():
    net = MSD(1, 1, NetworkSettings(depth=5))
    net.output_mean.fill_(3.0)
    assert (net(torch.rand(1, 1, 16, 16)) == 3).all()


@pytest.mark.parametrize("padding", ["symmetric", "reflect"])
def test_images_go_on_as_numpy_pads_them(padding):
    x = images(2, 5, 7)
    wanted = np.pad(x.numpy(), [(0, 0), (4, 4), (4, 4)], mode=padding)
    np.testing.assert_array_equal(beyond_border(x, 4, padding).numpy(), wanted)


PEAK = """
import torch
torch.set_num_threads(1)
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
net = MSD(1, 1, NetworkSettings(depth=100))
peaks = []
for size in (256, 768):
    net(torch.rand(1, 1, size, size)).sum().backward()
    peaks += [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_training_keeps_about_one_plane_a_channel():
    """Growth of the peak memory (kibibytes) from small to large images.

    Beside the 101 planes there are the gradients of a block of 10, margins of rows, and a few planes of the output.
    """
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    planes = int(done.stdout) * 1024 / (4 * (768**2 - 256**2))
    assert 100 < planes < 101 * 1.25


@pytest.mark.parametrize(("padding", "smallest"), [("symmetric", 10), ("reflect", 11)])
def test_too_small_an_image_is_refused(padding, smallest):
    net = MSD(1, 1, NetworkSettings(padding=padding))
    with pytest.raises(ValueError, match=f"at least {smallest} pixels wide and high, got {smallest - 1}"):
        net(torch.rand(1, 1, smallest - 1, 64))
    assert net(torch.rand(1, 1, smallest, 64)).shape == (1, 1, smallest, 64)
