import pytest

from quietbeam.noise2inverse.schedule import learning_rate


def test_step_sizes():
    assert [learning_rate(step, 2.0, warmup_steps=4) for step in range(6)] == [0.5, 1, 1.5, 2, 2, 2]
    cosine = [learning_rate(step, 2.0, "cosine", num_steps=4) for step in range(6)]
    assert cosine == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0])
    both = [learning_rate(step, 2.0, "cosine", warmup_steps=2, num_steps=6) for step in range(6)]
    assert both == pytest.approx([1, 2, *cosine[:4]])
    with pytest.raises(ValueError, match=r'"cosine" needs the number of steps'):
        learning_rate(0, 1.0, "cosine")
