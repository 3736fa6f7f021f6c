from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quietbeam.compress.rate_distortion import RatePoint
from quietbeam.compress.tradeoff import (
    Configuration,
    configurations,
    draw_rates,
    draw_tradeoff,
    find_tradeoff,
    pareto_front,
)

FRONT = [
    Configuration("tiny", 0, 0),
    Configuration("small", 1, 6),
    Configuration("medium", 3, 9),
    Configuration("large", 6, 9.8),
    Configuration("huge", 10, 10),
]
"""Distances from the ideal corner 1, 0.41, 0.32, 0.6, 1; above the chord 0, 0.5, 0.6, 0.38, 0."""

POINTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20)


def named(pairs: list[tuple[int, int]]) -> list[Configuration]:
    return [Configuration(str(number), *map(float, pair)) for number, pair in enumerate(pairs)]


def test_a_known_front() -> None:
    found = find_tradeoff(FRONT)
    assert found.nearest.name == found.knee.name == "medium"
    assert list(found.front) == FRONT


def test_the_nearest_point_and_the_knee_may_differ() -> None:
    # Nearest: b at 0.36, a at 0.40; above the chord: a 0.58, b 0.52.
    points = [
        Configuration("o", 0, 0),
        Configuration("a", 0.02, 0.6),
        Configuration("b", 0.3, 0.82),
        Configuration("p", 1, 1),
    ]
    found = find_tradeoff(points)
    assert (found.nearest.name, found.knee.name) == ("b", "a")


def test_beaten_points_are_not_on_the_front_and_change_nothing() -> None:
    beaten = [Configuration("worse", 4, 8), Configuration("far", 500, 9), Configuration("twin", 3, 9)]
    found = find_tradeoff([*beaten[:2], *FRONT, beaten[2]])
    assert found == find_tradeoff(FRONT)


def test_of_ties_the_smaller_one_is_taken() -> None:
    assert find_tradeoff([Configuration("large", 8, 5), Configuration("small", 2, 1)]).nearest.name == "small"
    four = [Configuration(name, size, size) for name, size in (("d", 0.9), ("c", 0.6), ("b", 0.3), ("a", 0.0))]
    assert find_tradeoff(four).knee.name == "a"


def test_one_point_is_the_tradeoff() -> None:
    only = Configuration("only", 3, 40)
    assert find_tradeoff([only]) == (only, only, (only,))


@pytest.mark.parametrize("points", [[], [Configuration("a", 1, math.inf)], [Configuration("a", math.nan, 1)]])
def test_no_point_or_one_without_numbers_is_refused(points: list[Configuration]) -> None:
    with pytest.raises(ValueError, match="at least one point, all of finite size and quality"):
        find_tradeoff(points)


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_no_point_beats(pairs: list[tuple[int, int]]) -> None:
    points = named(pairs)
    front = pareto_front(points)
    for point in points:
        beaten = any(
            other.size <= point.size and other.quality >= point.quality and other[1:] != point[1:] for other in points
        )
        assert (point[1:] in [kept[1:] for kept in front]) != beaten
    assert np.all(np.diff([point[1:] for point in front], axis=0) > 0)


@settings(deadline=None)
@given(POINTS, st.sampled_from([0.5, 8.0, 1024.0]), st.sampled_from([-64.0, 0.0, 512.0]))
def test_units_do_not_matter(pairs: list[tuple[int, int]], scale: float, shift: float) -> None:
    points = named(pairs)
    scaled = [Configuration(name, scale * size + shift, quality / scale - shift) for name, size, quality in points]
    found, again = find_tradeoff(points), find_tradeoff(scaled)
    assert (found.nearest.name, found.knee.name) == (again.nearest.name, again.knee.name)


@given(POINTS, st.randoms())
def test_order_does_not_matter(pairs: list[tuple[int, int]], random: Random) -> None:
    points = named(sorted(set(pairs)))
    mixed = points.copy()
    random.shuffle(mixed)
    assert find_tradeoff(mixed) == find_tradeoff(points)


def rates() -> list[RatePoint]:
    rest = (None, None, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
    numbers = [("hevc", "qp=20", 1.0, 40.0), ("hevc", "qp=10", 2.0, 48.0), ("htj2k", "", 12.0, math.inf)]
    return [RatePoint(*each, *rest) for each in (*numbers, ("hevc", "qp=20", 1.0, 40.0), ("sz3", "", 3.0, 60.0))]


def test_measured_codecs_become_configurations_without_the_lossless_ones() -> None:
    assert configurations(rates())[1:] == [("hevc qp=10", 2, 48), ("hevc qp=20", 1, 40), ("sz3", 3, 60)]


def png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def num_pixels(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image - colour).max(axis=2) < 8).sum())


def test_a_figure_shows_front_and_choice() -> None:
    files = [BytesIO() for _ in range(2)]
    for file in files:
        draw_tradeoff(FRONT, FRONT[2], file)
    assert files[0].getvalue() == files[1].getvalue()
    image = png(files[0].getvalue())
    assert image.shape == (660, 960, 3)
    assert num_pixels(image, (0xB4, 0x63, 0x2A)) > 100
    assert num_pixels(image, (0x0B, 0x6A, 0x7F)) > 500


def test_a_figure_shows_a_line_for_each_codec(tmp_path: Path) -> None:
    path = tmp_path / "rates.png"
    draw_rates(rates(), path)
    image = png(path.read_bytes())
    assert num_pixels(image, (0x1F, 0x77, 0xB4)) > 500
    assert num_pixels(image, (0xFF, 0x7F, 0x0E)) > 30
    assert num_pixels(image, (0x2C, 0xA0, 0x2C)) == 0


def test_nothing_to_draw_is_an_empty_figure() -> None:
    file = BytesIO()
    draw_rates([], file)
    assert png(file.getvalue()).shape == (660, 960, 3)
