"""Networks to exchange, and the MS-D network once more, in NumPy and float64, as the other programs define it."""

import numpy as np
import torch

from quietbeam.noise2inverse.msd import MSD, NetworkSettings

ROUNDING = 1e-5
"""Largest difference, relative to the range of the output, of a network in float32 and in float64."""


def random_network(seed=0, in_channels=2, out_channels=2, **settings):
    """Give a network in which every number matters, with other scaling in each channel."""
    generator = torch.Generator().manual_seed(seed)
    net = MSD(in_channels, out_channels, NetworkSettings(**settings), generator=generator)
    with torch.no_grad():
        for tensor in (net.bias, net.final_weight, net.final_bias, net.input_mean, net.output_mean):
            tensor.normal_(0, 0.5, generator=generator)
        for tensor in (net.input_std, net.output_std):
            tensor.uniform_(0.1, 3, generator=generator)
    return net


def mixed_scale_dense_float64(images, gains, weights, biases, final_weight, final_bias, *, dilations, mode):
    """Compute the network of images (channel, y, x): gains are (gain, offset) of the input and of the output.

    Tap (p, q) of a filter is multiplied with the pixel (p - 1) * dilation below and (q - 1) * dilation right.
    """
    (gain_in, offset_in), (gain_out, offset_out) = (
        tuple(np.asarray(v, float)[:, None, None] for v in g) for g in gains
    )
    features = np.asarray(images, float) * gain_in + offset_in
    height, width = features.shape[1:]
    for weight, bias, dilation in zip(weights, biases, dilations, strict=True):
        padded = np.pad(features, ((0, 0), (dilation, dilation), (dilation, dilation)), mode=mode)
        new = np.zeros((len(weight), height, width)) + np.asarray(bias, float)[:, None, None]
        for p in range(3):
            for q in range(3):
                shifted = padded[:, p * dilation : p * dilation + height, q * dilation : q * dilation + width]
                new += np.einsum("oi,iyx->oyx", np.asarray(weight, float)[:, :, p, q], shifted)
        features = np.concatenate([features, np.maximum(new, 0)])
    output = np.einsum("oi,iyx->oyx", np.asarray(final_weight, float), features)
    return (output + np.asarray(final_bias, float)[:, None, None]) * gain_out + offset_out


def assert_equal_output(net, images, expected):
    """Compare a network's output with what another computation gave."""
    with torch.no_grad():
        output = net(torch.from_numpy(images).float()[None])[0].numpy()
    assert np.abs(output - expected).max() < ROUNDING * np.ptp(expected)


def assert_same_weights(one, other):
    """Compare bit by bit what was trained, and closely what data were scaled with."""
    for name, tensor in one.state_dict().items():
        if name.endswith(("_mean", "_std")):
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=3e-7, atol=1e-12)
        else:
            assert torch.equal(other.state_dict()[name], tensor), name
