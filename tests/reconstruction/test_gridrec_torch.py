from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.gridrec_torch import TorchGridrecPlan, gridrec_torch

TWINS = 5e-4
"""The twin takes the kernel itself, not its polynomials; over the largest value."""

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@devices
@pytest.mark.parametrize("num_columns", [2, 15, 64])
def test_twins_agree(num_columns: int, device: str) -> None:
    theta = np.random.default_rng(0).uniform(-4, 9, 51)
    sinograms = noise(3, 51, num_columns)
    axis = 0.4 * num_columns
    right = gridrec(sinograms.numpy(), theta, axis)
    found = gridrec_torch(sinograms.to(device), theta, axis).cpu().numpy()
    assert np.abs(found - right).max() < TWINS * np.abs(right).max()


def test_twins_agree_on_filter_and_weights() -> None:
    theta, sinograms = np.pi * np.arange(20) / 20, noise(2, 20, 16)
    weights = np.linspace(0, 0.3, 20)
    right = gridrec(sinograms.numpy(), theta, 7.0, filter_name="hann", weights=weights)
    found = gridrec_torch(sinograms, theta, 7.0, filter_name="hann", weights=weights).numpy()
    assert np.abs(found - right).max() < TWINS * np.abs(right).max()


@devices
def test_gradient_is_the_transposed_reconstruction(device: str) -> None:
    theta = np.pi * np.arange(20) / 20
    plan = TorchGridrecPlan(theta, 16, 7.7, device=device)
    sinograms = noise(2, 20, 16).to(device).requires_grad_()
    other, step = noise(2, 16, 16).to(device), noise(2, 20, 16).to(device)
    (plan.reconstruct(sinograms) * other).sum().backward()
    assert sinograms.grad is not None
    along = (plan.reconstruct(step) * other).sum()  # linear: the derivative along a step is the step's own value
    torch.testing.assert_close((sinograms.grad * step).sum(), along, rtol=1e-4, atol=1e-4)


def test_sinograms_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(row, 20, 16\), got \(2, 19, 16\)"):
        TorchGridrecPlan(np.arange(20.0), 16, 7.5).reconstruct(noise(2, 19, 16))
