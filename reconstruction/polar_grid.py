"""Polar samples of the slices' spectra, spread on a Cartesian half plane, and the lines of the slices read off it.

A real slice needs half of its Fourier plane, u_x >= 0; what the other half would add follows from the symmetry
F(-u) = conj(F(u)). The slices of a batch are the innermost axis of the grid: one sample of all of them is one vector of
the processor, and the weights are computed once for them together.

The grid has a border for what a sample spreads across the edges: index 0 of u_x is -1, index 0 of u_y is -size / 2 - 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .compiled import compiled
from .spreading_kernel import WIDTH, grid_size

__all__ = ["BATCH", "PolarLines", "empty_grid", "fold_border", "grid_bytes", "read_lines", "spread", "write_pixels"]

BATCH = 8
"""Slices of a batch: as complex float32, one line of the cache and one vector of 512 bits."""

_LANES = 2 * BATCH
_BLOCK = 128  # samples of a line that are made ready at a time: they stay in the first level of the cache


class PolarLines(NamedTuple):
    """The lines of the Fourier plane on which the projections lie, each turned into the half plane u_x >= 0.

    Attributes
    ----------
    step_x, step_y : float64, shape (angle,)
        Grid points from one frequency to the next.
    turn : float64, shape (angle,)
        Radians by which the phase grows from one frequency to the next: where the axis and the middle pixel lie.
    weight : float64, shape (angle,)
        Factor of the whole line.
    sign : float64, shape (angle,)
        -1 where the line was turned by pi, and its values are conjugated; else 1.
    """

    step_x: NDArray[np.float64]
    step_y: NDArray[np.float64]
    turn: NDArray[np.float64]
    weight: NDArray[np.float64]
    sign: NDArray[np.float64]

    def part(self, angles: slice | NDArray[np.intp]) -> PolarLines:
        """Select the lines of some projections."""
        return PolarLines(*(values[angles] for values in self))


def grid_bytes(num_columns: int) -> int:
    """Memory of the half plane of a batch of slices of `num_columns` pixels a side; each thread has one."""
    size = grid_size(num_columns)
    return 4 * (size // 2 + 3) * (size + 3) * _LANES


def empty_grid(size: int) -> NDArray[np.float32]:
    """Make the half plane of a batch: float32, shape (size // 2 + 3, size + 3, 2 * BATCH), zero."""
    return np.zeros((size // 2 + 3, size + 3, _LANES), np.float32)


@intrinsic
def _add_taps(context: Any, grid: Any, at: Any, values: Any, start: Any, w0: Any, w1: Any, w2: Any, w3: Any) -> Any:
    """Add one sample of all slices to four neighbours, ``grid[at + 16 t :][:16] += w_t values[start:][:16]``.

    Written with vectors, because compilers do not see that the two arrays are apart and would add number by number.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        grid, at, values, start, *weights = arguments
        lanes, index = ir.VectorType(ir.FloatType(), _LANES), ir.IntType(32)
        undefined, to_all = ir.Constant(lanes, ir.Undefined), ir.Constant(ir.VectorType(index, _LANES), [0] * _LANES)

        def vector(array: Any, kind: Any, offset: Any) -> Any:
            first = builder.gep(context.make_array(kind)(context, builder, array).data, [offset])
            return builder.bitcast(first, lanes.as_pointer())

        sample = builder.load(vector(values, signature.args[2], start), align=4)
        for tap, weight in enumerate(weights):
            target = vector(grid, signature.args[0], builder.add(at, ir.Constant(at.type, tap * _LANES)))
            scale = builder.insert_element(undefined, weight, ir.Constant(index, 0))
            product = builder.fmul(builder.shuffle_vector(scale, undefined, to_all), sample, flags=("contract",))
            total = builder.fadd(builder.load(target, align=4), product, flags=("contract",))
            builder.store(total, target, align=4)
        return context.get_dummy_value()

    position, weight = types.int64, types.float32
    return types.void(grid, position, values, position, weight, weight, weight, weight), build


@compiled(fastmath={"contract", "nsz"})
def _make_taps(
    taps: NDArray[np.float32],
    first: NDArray[np.int64],
    fraction: NDArray[np.float32],
    step: float,
    start: int,
    origin: int,
    polynomials: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Weigh the grid points around each sample of a block along one axis, and find the first of them."""
    for i in range(first.size):
        position = step * (start + i) + origin
        below = math.floor(position)
        first[i] = int(below) - 1
        fraction[i] = 2 * (position - below) - 1
    for tap in range(WIDTH):
        c8, c7, c6 = polynomials[0, tap], polynomials[1, tap], polynomials[2, tap]
        c5, c4, c3 = polynomials[3, tap], polynomials[4, tap], polynomials[5, tap]
        c2, c1, c0 = polynomials[6, tap], polynomials[7, tap], polynomials[8, tap]
        for i in range(first.size):  # one expression, so that the samples are a vector of the processor
            x = fraction[i]
            taps[tap, i] = (((((((c8 * x + c7) * x + c6) * x + c5) * x + c4) * x + c3) * x + c2) * x + c1) * x + c0


@compiled(fastmath={"contract", "nsz"})
def _make_factors(
    factors: NDArray[np.complex64], ramp: NDArray[np.float32], weight: float, turn: float, start: int
) -> None:  # pragma: no cover - compiled
    """Join filter, weight and phase of a block of samples; the phase is turned on from sample to sample."""
    rotation = complex(math.cos(turn), math.sin(turn))
    phase = weight * complex(math.cos(turn * start), math.sin(turn * start))
    for i in range(factors.size):
        factors[i] = ramp[start + i] * phase
        phase *= rotation


@compiled(fastmath={"contract", "nsz"})
def _make_values(
    values: NDArray[np.float32],
    spectra: NDArray[np.complex64],
    angle: int,
    factors: NDArray[np.complex64],
    sign: float,
    start: int,
) -> None:  # pragma: no cover - compiled
    """Multiply a block of samples by its factors, the slices innermost."""
    conjugate = np.float32(sign)
    for i in range(factors.size):
        for lane in range(spectra.shape[0]):
            value = factors[i] * spectra[lane, angle, start + i]
            values[i * _LANES + 2 * lane] = value.real
            values[i * _LANES + 2 * lane + 1] = conjugate * value.imag


@compiled(fastmath={"contract", "nsz"})
def spread(
    grid: NDArray[np.float32],
    spectra: NDArray[np.complex64],
    ramp: NDArray[np.float32],
    lines: PolarLines,
    polynomials: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Add the spectra of some projections to the half plane, in place; the highest frequency is left out.

    Parameters
    ----------
    grid : float32, shape (size // 2 + 3, size + 3, 2 * BATCH)
        Of `empty_grid`.
    spectra : complex64, shape (slice, angle, frequency)
        Half spectra of the padded rows of up to `BATCH` slices.
    ramp : float32, shape (frequency,)
        Filter; half of it at frequency 0, which both halves of the plane have.
    lines : PolarLines
        Where the projections lie.
    polynomials : float32
        Of `tap_polynomials`.
    """
    values = np.zeros(_BLOCK * _LANES, np.float32)
    all_factors, fraction = np.empty(_BLOCK, np.complex64), np.empty(_BLOCK, np.float32)
    taps_x, taps_y = np.empty((WIDTH, _BLOCK), np.float32), np.empty((WIDTH, _BLOCK), np.float32)
    all_x, all_y = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    flat, side = grid.reshape(-1), grid.shape[1]
    origin_y = (side - 3) // 2 + 1
    for angle in range(spectra.shape[1]):
        for start in range(0, spectra.shape[2] - 1, _BLOCK):
            count = min(_BLOCK, spectra.shape[2] - 1 - start)
            factors, x, y = all_factors[:count], all_x[:count], all_y[:count]
            _make_factors(factors, ramp, lines.weight[angle], lines.turn[angle], start)
            _make_values(values, spectra, angle, factors, lines.sign[angle], start)
            _make_taps(taps_x, x, fraction, lines.step_x[angle], start, 1, polynomials)
            _make_taps(taps_y, y, fraction, lines.step_y[angle], start, origin_y, polynomials)
            for i in range(count):
                y0, y1, y2, y3 = taps_y[0, i], taps_y[1, i], taps_y[2, i], taps_y[3, i]
                for tap in range(WIDTH):
                    at = ((x[i] + tap) * side + y[i]) * _LANES
                    w = taps_x[tap, i]
                    _add_taps(flat, at, values, i * _LANES, w * y0, w * y1, w * y2, w * y3)  # type: ignore[call-arg]


def fold_border(grid: NDArray[np.float32]) -> None:
    """Add what was spread across the ends of u_y to where it belongs: the plane is periodic."""
    size = grid.shape[1] - 3
    grid[:, size] += grid[:, 0]
    grid[:, 1:3] += grid[:, size + 1 :]


@compiled()
def read_lines(
    lines: NDArray[np.complex64], grid: NDArray[np.complex64], y: NDArray[np.intp]
) -> None:  # pragma: no cover - compiled
    """Read lines of the slices off the grid, which was transformed along u_y, and add the other half of the plane.

    Parameters
    ----------
    lines : complex64, shape (slice, line, size // 2 + 1)
        Half spectra of the lines; written in place.
    grid : complex64, shape (size // 2 + 3, size, slice)
        The half plane, u_x from -1, and y from 0.
    y : intp, shape (line,)
        Which lines, from 0 to size - 1.
    """
    num_slices, _, num_frequencies = lines.shape
    last = num_frequencies - 1
    for line in range(y.size):
        for u in range(num_frequencies):
            for lane in range(num_slices):
                lines[lane, line, u] = grid[u + 1, y[line], lane]
        for lane in range(num_slices):
            column = grid[:, y[line], lane]
            lines[lane, line, 0] = 2 * column[1].real
            lines[lane, line, 1] += column[0].conjugate()
            lines[lane, line, last - 1] += column[last + 2].conjugate()
            lines[lane, line, last] = 2 * column[last + 1].real


@compiled()
def write_pixels(
    slices: NDArray[np.float32],
    lines: NDArray[np.float32],
    first: int,
    scale_y: NDArray[np.float32],
    scale_x: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Cut the pixels out of transformed lines and divide them by the kernel's transform.

    Parameters
    ----------
    slices : float32, shape (slice, y, x)
        Written in place, from row `first` on.
    lines : float32, shape (slice, line, size)
        Periodic: pixel 0 is the middle of the row, ``num_columns // 2``.
    first : int
        Row of the first line.
    scale_y, scale_x : float32, shape (num_columns,)
        Factors of rows and columns.
    """
    num_columns = slices.shape[2]
    middle, size = num_columns // 2, lines.shape[2]
    for index in range(lines.shape[0]):
        for line in range(lines.shape[1]):
            row, values, scale = slices[index, first + line], lines[index, line], scale_y[first + line]
            for i in range(middle):
                row[i] = values[size - middle + i] * (scale * scale_x[i])
            for i in range(middle, num_columns):
                row[i] = values[i - middle] * (scale * scale_x[i])
