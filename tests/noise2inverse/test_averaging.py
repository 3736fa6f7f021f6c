import numpy as np
import pytest
import torch

from quietbeam.noise2inverse.averaging import WeightAverage

FLOAT32 = 1e-5
"""Relative rounding of a few dozen float32 operations."""


def test_the_average_is_the_weighted_sum():
    model, decay = torch.nn.Linear(3, 2), 0.4
    average, seen = WeightAverage(model, decay), []
    seen.append(model.weight.detach().clone())
    for step in range(12):
        torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(step))
        average.update(model, step)
        seen.append(model.weight.detach().clone())
    kept = [min(decay, (1 + step) / (10 + step)) for step in range(12)]  # 0.1, 2/11, 3/12, ..., 0.4
    shares = [np.prod(kept)] + [(1 - kept[i]) * np.prod(kept[i + 1 :]) for i in range(12)]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, seen, strict=True))
    assert average.model.weight.numpy() == pytest.approx(expected.numpy(), rel=FLOAT32, abs=FLOAT32)
