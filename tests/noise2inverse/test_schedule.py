import pytest

from quietbeam.noise2inverse.schedule import learning_rate


def test_step_sizes():
    assert [learning_rate(step, 2.0, warmup_steps=4) for step in range(6)] == [0.5, 1, 1.5, 2, 2, 2]
    cosine = [learning_rate(step, 2.0, "cosine", num_steps=4) for step in range(6)]
    assert cosine == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0])
    both = [learning_rate(step, 2.0, "cosine", warmup_steps=2, num_steps=10) for step in range(10)]
    falling = [learning_rate(step, 2.0, "cosine", num_steps=8) for step in range(8)]
    assert both == pytest.approx([1, 2, *falling])


def test_a_warm_up_takes_no_more_than_a_quarter_of_the_steps():
    assert [learning_rate(step, 2.0, warmup_steps=100, num_steps=8) for step in range(4)] == [1, 2, 2, 2]
    assert learning_rate(0, 2.0, warmup_steps=100, num_steps=3) == 2
    with pytest.raises(ValueError, match=r'"cosine" needs the number of steps'):
        learning_rate(0, 1.0, "cosine")
