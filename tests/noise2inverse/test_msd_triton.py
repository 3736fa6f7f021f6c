"""The kernels against the definition by framework convolutions and its automatic gradients.

Without a GPU the kernels run in Triton's interpreter: the same source, one program after the other.
"""

import os

import pytest
import torch
from torch.nn.functional import conv2d

from quietbeam.noise2inverse.block_structure import Network
from quietbeam.noise2inverse.msd import beyond_border, mixed_scale_dense

CUDA = torch.cuda.is_available()
os.environ.setdefault("TRITON_INTERPRET", "0" if CUDA else "1")  # before triton is imported
pytest.importorskip("triton")

from quietbeam.noise2inverse import msd_triton  # noqa: E402
from quietbeam.noise2inverse.triton_planes import TritonPlanes  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest difference, of the largest value: sums in float32; a rounding of operands and results to 11 and 8 bits."""

KINDS = list(CLOSE)
SHAPES = [(2, 7, 9, 2), (1, 5, 5, 5), (1, 13, 18, 3)]  # batch, y, x, dilation; one as large as the image
CHANNELS = slice(1, 5)
TARGETS = (6, 8, 11)  # not one after the other
NUM_PLANES = 13


def fits(shape, padding):
    """Reflection needs one pixel more than the dilation."""
    return min(shape[1:3]) >= shape[3] + (padding == "reflect")


CASES = [
    (kind, shape, padding)
    for kind in KINDS
    for shape in SHAPES
    for padding in ("symmetric", "reflect")
    if fits(shape, padding) and (kind == torch.float32 or shape is SHAPES[0])
]


def random(*shape, kind=torch.float32, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(kind).to(DEVICE)


def convolution(planes, weight, dilation, padding):
    """Mirrored convolution of planes (c, batch, y, x) in float32: (m, batch, y, x)."""
    images = planes.float().transpose(0, 1)
    return conv2d(beyond_border(images, dilation, padding), weight.float(), dilation=dilation).transpose(0, 1)


def assert_close(actual, expected, kind):
    error = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert error < CLOSE[kind], f"{error:.3g}"


def others_unchanged(before, after, changed):
    untouched = [plane for plane in range(len(before)) if plane not in changed]
    return torch.equal(before[untouched], after[untouched])


@pytest.fixture(params=CASES, ids=lambda case: f"{str(case[0])[6:]}-{'x'.join(map(str, case[1]))}-{case[2]}")
def case(request):
    kind, (batch, height, width, dilation), padding = request.param
    features = random(NUM_PLANES, batch, height, width, kind=kind)
    weight = random(len(TARGETS), CHANNELS.stop - CHANNELS.start, 3, 3, seed=1)
    return features, torch.tensor(TARGETS, device=DEVICE), weight, dilation, padding


def test_add_convolution(case):
    features, targets, weight, dilation, padding = case
    expected = features.float()
    expected[list(TARGETS)] += convolution(features[CHANNELS], weight, dilation, padding)
    before = features.clone()
    msd_triton.add_convolution(features, CHANNELS, targets, weight, dilation, padding)
    assert_close(features, expected, features.dtype)
    assert others_unchanged(before, features, TARGETS)


def test_add_adjoint_is_the_gradient_of_the_convolution(case):
    features, targets, weight, dilation, padding = case
    block = features[CHANNELS].float().requires_grad_()
    output = convolution(block, weight, dilation, padding)
    start = random(*block.shape, seed=2)
    expected = start + torch.autograd.grad(output, block, features[list(TARGETS)].float())[0]
    before = features.clone()
    msd_triton.add_adjoint(start, features, targets, weight, dilation, padding)
    assert_close(start, expected, features.dtype)
    assert torch.equal(features, before)


def test_weight_gradient(case):
    features, targets, weight, dilation, padding = case
    weight.requires_grad_()
    output = convolution(features[CHANNELS], weight, dilation, padding)
    (expected,) = torch.autograd.grad(output, weight, features[list(TARGETS)].float())
    found = msd_triton.weight_gradient(features, CHANNELS, targets, dilation, padding)
    assert found.dtype == torch.float32
    assert_close(found, expected, torch.float32)  # products of 8 and 11 bits are exact


def test_finish_layer(case):
    features, _, weight, dilation, padding = case
    layer, bias = slice(6, 8), random(2, seed=3)  # two planes: width 2
    sums = features[layer].float() + convolution(features[CHANNELS], weight[:2], dilation, padding)
    before = features.clone()
    msd_triton.finish_layer(features, CHANNELS, layer, weight[:2], bias, dilation, padding)
    assert_close(features[layer], torch.relu(sums + bias[:, None, None, None]), features.dtype)
    assert others_unchanged(before, features, (6, 7))


def test_finish_gradient(case):
    features, targets, weight, dilation, padding = case
    dilations = [dilation, 1, 2]
    plane = features[4:5].float().requires_grad_()
    for target, weights, distance in zip(TARGETS, weight[:, 0], dilations, strict=True):
        convolution(plane, weights[None, None], distance, padding).backward(features[target : target + 1].float())
    start = random(*features.shape[1:], seed=2)
    expected = (start + plane.grad[0]) * (features[4] > 0)
    before = features.clone()
    steps = torch.tensor(dilations, device=DEVICE)
    msd_triton.finish_gradient(start, features, 4, targets, weight[:, 0], steps, padding)
    assert_close(features[4], expected, features.dtype)
    assert others_unchanged(before, features, (4,))


@pytest.mark.parametrize("sizes", [(17, 2), (2, 19)])
def test_more_channels_or_layers_than_one_matrix_product_takes(sizes):
    num_targets, num_channels = sizes
    features = random(num_channels + num_targets, 1, 4, 5)
    weight = random(num_targets, num_channels, 3, 3, seed=1).requires_grad_()
    channels, targets = slice(0, num_channels), torch.arange(num_channels, num_channels + num_targets, device=DEVICE)
    block = features[channels].clone().requires_grad_()
    output = convolution(block, weight, 2, "symmetric")
    by_block, by_weight = torch.autograd.grad(output, (block, weight), features[targets])
    gradient = torch.zeros_like(by_block)
    msd_triton.add_adjoint(gradient, features, targets, weight, 2, "symmetric")
    assert_close(gradient, by_block, torch.float32)
    found = msd_triton.weight_gradient(features, channels, targets, 2, "symmetric")
    assert_close(found, by_weight, torch.float32)
    expected = features[targets] + output.detach()
    msd_triton.add_convolution(features, channels, targets, weight, 2, "symmetric")
    assert_close(features[targets], expected, torch.float32)


def test_columns_of_several_tiles():
    """Wider than a tile of 64 columns and a segment of 256 of the weight gradient."""
    features, weight = random(3, 1, 3, 270), random(1, 2, 3, 3, seed=1).requires_grad_()
    channels, targets = slice(0, 2), torch.tensor([2], device=DEVICE)
    block = features[channels].clone().requires_grad_()
    output = convolution(block, weight, 2, "reflect")
    by_block, by_weight = torch.autograd.grad(output, (block, weight), features[targets])
    gradient = torch.zeros_like(by_block)
    msd_triton.add_adjoint(gradient, features, targets, weight, 2, "reflect")
    assert_close(gradient, by_block, torch.float32)
    assert_close(msd_triton.weight_gradient(features, channels, targets, 2, "reflect"), by_weight, torch.float32)
    expected = features[targets] + output.detach()
    msd_triton.add_convolution(features, channels, targets, weight, 2, "reflect")
    assert_close(features[targets], expected, torch.float32)


def test_layers_of_several_tiles():
    """Wider than two tiles of 512 columns: one at each border, one in between."""
    features, weight, bias = random(2, 1, 3, 1030), random(1, 1, 3, 3, seed=1), random(1, seed=2)
    plane = features[:1].clone().requires_grad_()
    output = convolution(plane, weight, 2, "reflect")
    (gradient,) = torch.autograd.grad(output, plane, features[1:])
    expected = torch.relu(features[1:] + output.detach() + bias)
    steps, targets = torch.tensor([2], device=DEVICE), torch.tensor([1], device=DEVICE)
    back, nothing = features.clone(), torch.zeros_like(features[0])
    msd_triton.finish_gradient(nothing, back, 0, targets, weight[:, 0], steps, "reflect")
    assert_close(back[:1], gradient * (features[:1] > 0), torch.float32)
    msd_triton.finish_layer(features, slice(0, 1), slice(1, 2), weight, bias, 2, "reflect")
    assert_close(features[1:], expected, torch.float32)


def test_first_layer_of_a_block_has_only_its_bias():
    features = random(2, 1, 4, 5)
    expected = torch.relu(features[1] + 0.5)
    none, half = torch.empty(1, 0, 3, 3, device=DEVICE), torch.full((1,), 0.5, device=DEVICE)
    msd_triton.finish_layer(features, slice(1, 1), slice(1, 2), none, half, 1, "symmetric")
    assert torch.equal(features[1], expected)


def test_weight_gradient_is_the_same_in_every_run():
    features, targets = random(4, 2, 9, 20), torch.tensor([2, 3], device=DEVICE)
    first, second = (msd_triton.weight_gradient(features, slice(0, 2), targets, 2, "symmetric") for _ in range(2))
    assert torch.equal(first, second)


def test_nan_stays():
    features = random(1, 1, 4, 5)
    features[0, 0, 1, 2] = torch.nan
    none, zero = torch.empty(1, 0, 3, 3, device=DEVICE), torch.zeros(1, device=DEVICE)
    msd_triton.finish_layer(features, slice(0, 0), slice(0, 1), none, zero, 1, "symmetric")
    assert features.isnan().sum() == 1


@pytest.mark.parametrize(
    ("planes", "weight", "message"),
    [
        (random(5, 1, 6, 8)[..., ::2], random(1, 2, 3, 3), "one after the other"),
        (random(5, 1, 6, 8), random(2, 1, 3, 3), r"must have the shape \(1, 2, 3, 3\), got \(2, 1, 3, 3\)"),
    ],
)
def test_wrong_layouts_are_refused(planes, weight, message):
    with pytest.raises(ValueError, match=message):
        msd_triton.add_convolution(planes, slice(0, 2), torch.tensor([4], device=DEVICE), weight, 1, "symmetric")


@pytest.mark.parametrize(("width", "padding"), [(1, "symmetric"), (2, "reflect")])
def test_whole_network_and_its_gradients(width, padding):
    """Blocks of two layers, with a block of one dilation twice and a last one of one layer."""
    structure = Network(2, width, (1, 2, 2, 1, 2), padding, 2)
    images = random(1, 2, 4, 5).requires_grad_()
    weights = [(random(width, 2 + width * i, 3, 3, seed=i) / 8).requires_grad_() for i in range(5)]
    bias, final = (
        torch.ones(5 * width, device=DEVICE).requires_grad_(),
        random(1, 2 + 5 * width, seed=7).requires_grad_(),
    )
    shift = torch.zeros(1, device=DEVICE)
    output = mixed_scale_dense(
        images, weights, bias, final, shift, dilations=structure.dilations, padding=structure.padding
    )
    upstream = random(*output.shape, seed=8)
    d_images, d_bias, d_final, *d_weights = torch.autograd.grad(output, [images, bias, final, *weights], upstream)

    with torch.no_grad():
        planes = TritonPlanes(images, weights, bias, structure)
        planes.run()
        assert_close(planes.combine(final), output, torch.float32)
        assert_close(planes.correlate(upstream), d_final, torch.float32)
        back = planes.run_back(upstream, final, wants_images=True)
    assert_close(back.images, d_images, torch.float32)
    assert_close(back.bias, d_bias, torch.float32)
    for found, expected in zip(back.weights, d_weights, strict=True):
        assert_close(found, expected, torch.float32)
