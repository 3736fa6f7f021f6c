"""A block of integers to bytes and back, on lattices from coarse to fine.

Each pass codes how its points are predicted and then the corrections, in one stream of binary decisions; encoder and
decoder run through the same functions. In *rate-distortion mode* corrections are left out where they cost more than
they gain, coarse levels have smaller steps, and a filter comes at the end; in *bounded mode* each value is off by at
most half a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .binary_coder import BinaryCoder, check_end, check_length, finish, new_decoder, new_encoder, reserve
from .bitstream import ByteReader, varint
from .context_mixing import Mixer, new_mixer
from .lattice import (
    COSETS,
    PADDING,
    Geometry,
    Grid,
    Shape,
    lattice_shape,
    make_geometry,
    mirror_edges,
    new_grid,
    num_levels,
)
from .lattice_corrections import Pass, code_corrections, new_quantiser
from .lattice_filter import FilterModel, code_filter, filter_grid, fit_filter
from .lattice_prediction import PassModel, default_model, fit_model, with_scales
from .lattice_side import MODEL_KINDS, SideInformation

__all__ = ["DISTORTION_WEIGHT", "LARGEST", "decode_lattice", "encode_lattice"]

LARGEST = 1 << 28
"""Values lie below this in size."""
DISTORTION_WEIGHT = 0.12
"""What a bit may cost in squared error, in units of the squared step: found by trials on denoised volumes."""

_NUM_PAIRS = 20
_LEAST_POINTS = (0, 300, 4000, 20_000)
_FINE_POINTS = (400_000, 50_000, 5_000)
_MOST_SIDE_DECISIONS = 300_000
_BOUNDED_SHARES, _SHARES = (256, 256, 256), (192, 90, 230)
_WHAT = "a block of the lattice coder"

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class _Header:
    """Range and steps of a block.

    Attributes
    ----------
    shape : tuple of int
        Slices, rows, columns.
    limits : tuple of int
        Smallest and largest value.
    step : int
        Of the finest level.
    shares : tuple of int
        In units of 1/256: of a step at the next coarser level, the smallest of a step at any, and of a level's step in
        the first three passes.
    origin : int
        The first value.
    """

    shape: Shape
    limits: tuple[int, int]
    step: int
    shares: tuple[int, int, int]
    origin: int

    def to_bytes(self) -> bytes:
        """Write all but the shape."""
        low, high = self.limits
        numbers = [2 * low if low >= 0 else -2 * low - 1, high - low, self.step, self.origin - low]
        return b"".join(map(varint, numbers)) + bytes(share - 1 for share in self.shares)

    @classmethod
    def read(cls, reader: ByteReader, shape: Shape) -> _Header:
        """Read what `to_bytes` wrote; `ArchiveError` if it is out of range."""
        folded, span, step, origin = (reader.varint() for _ in range(4))
        low = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        ratio, least, first = (byte + 1 for byte in reader.take(3))
        if max(abs(low), abs(low + span)) >= LARGEST or not 0 < step < 2 * LARGEST or origin > span:
            raise ArchiveError(f"{_WHAT} has a range or a step that cannot be: it is damaged, restore it from a copy")
        return cls(shape, (low, low + span), step, (ratio, least, first), low + origin)

    def step_of(self, level: int, position: int) -> int:
        """Give the step of a pass."""
        ratio, least, first = self.shares
        share = 256
        for _ in range(level):
            share = max(share * ratio >> 8, least)
        if position < 3:
            share = share * first >> 8
        return max((self.step * share + 128) >> 8, 1)


def encode_lattice(
    values: Integers, step: int, *, distortion_weight: float = 0.0, filtered: bool = True
) -> tuple[bytes, Integers]:
    """Code integers.

    Parameters
    ----------
    values : int32, shape (slice, y, x)
        Below 2^28 in size.
    step : int
        Distance between the values that a prediction can be corrected to, at least 1; at coarser levels it may be
        smaller.
    distortion_weight : float
        What a bit may cost in squared error, in units of `step` squared; see `DISTORTION_WEIGHT`. 0 codes in bounded
        mode: all steps are equal and every value is off by at most ``step // 2``, so that 1 is lossless.
    filtered : bool
        Whether a filter may be used where it pays; not in bounded mode.

    Returns
    -------
    bitstream : bytes
        To be read by `decode_lattice`.
    decoded : int32, shape (slice, y, x)
        What it will give.

    Raises
    ------
    ValueError
        If there are no values, one is too large, or the step is not positive.
    """
    shape = _checked_shape(values.shape)
    low, high = int(values.min()), int(values.max())
    if max(-low, high) >= LARGEST or not 0 < step < 2 * LARGEST:
        raise ValueError(
            f"values must lie below 2^28 in size and the step be positive, got values from {low} to {high}, step {step}"
        )
    shares = _SHARES if distortion_weight else _BOUNDED_SHARES
    header = _Header(shape, (low, high), int(step), shares, int(values.flat[0]))
    if low == high:
        return header.to_bytes(), values.astype(np.int32)
    run = _Run(header, new_encoder(), distortion_weight, filtered=filtered)
    decoded = run.all_levels(values)
    return header.to_bytes() + finish(run.coder), decoded


def decode_lattice(bitstream: bytes, shape: tuple[int, ...]) -> Integers:
    """Read integers coded by `encode_lattice`.

    Parameters
    ----------
    bitstream : bytes
        All of it.
    shape : tuple of int
        Slices, rows, columns.

    Returns
    -------
    int32, shape (slice, y, x)
        As the encoder gave them.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    reader = ByteReader(bitstream, _WHAT)
    header = _Header.read(reader, _checked_shape(shape))
    rest = reader.rest()
    if header.limits[0] == header.limits[1]:
        if rest:
            raise ArchiveError(f"{_WHAT} goes on after a constant: it is damaged, restore it from a copy")
        return np.full(shape, header.origin, np.int32)
    run = _Run(header, new_decoder(rest))
    decoded = run.all_levels(None)
    check_end(run.coder)
    return decoded


def _checked_shape(shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"values must have the axes (slice, y, x) and at least one each, got shape {shape}")
    return shape[0], shape[1], shape[2]


class _Run:
    """One way through a block, of an encoder or a decoder."""

    def __init__(self, header: _Header, coder: BinaryCoder, weight: float = 0.0, *, filtered: bool = False) -> None:
        self.header, self.coder, self.weight, self.filtered = header, coder, weight, filtered
        self.mixer: Mixer = new_mixer()
        self.side = SideInformation()

    def all_levels(self, values: Integers | None) -> Integers:
        """Code all levels, those of an encoder from `values`; give the decoded ones."""
        grid: Grid | None = None
        for level in range(num_levels(self.header.shape) - 1, -1, -1):
            shape = lattice_shape(self.header.shape, level)
            check_length(self.coder)
            grid = new_grid(shape, grid, self.header.origin)
            wanted = None if values is None else values[:: 1 << level, :: 1 << level, :: 1 << level]
            for position in range(len(COSETS)):
                geometry = make_geometry(shape, level, position, _NUM_PAIRS)
                if geometry is not None:
                    self._one_pass(grid, geometry, wanted)
        if grid is None:
            return np.full(self.header.shape, self.header.origin, np.int32)
        return self._finish(grid, values)

    def _one_pass(self, grid: Grid, geometry: Geometry, wanted: Integers | None) -> None:
        mirror_edges(grid.values)
        mirror_edges(grid.sizes)
        flat = Grid(grid.values.reshape(-1), grid.sizes.reshape(-1), grid.signed.reshape(-1))
        original, model, kind = None, None, (0, 0)
        step = self.header.step_of(geometry.level, geometry.position)
        if wanted is not None:
            odd = COSETS[geometry.position]
            original = np.ascontiguousarray(wanted[odd[0] :: 2, odd[1] :: 2, odd[2] :: 2], np.int32).ravel()
            kind, model = _fit(flat, geometry, original, self.header.limits, step)
        self.coder = reserve(self.coder, _MOST_SIDE_DECISIONS)
        model = self.side.code(self.coder, geometry, model, kind)
        work = Pass(flat, geometry, model, new_quantiser(step, self.weight, self.header.limits))
        self.coder = code_corrections(self.coder, self.mixer, work, original)

    def _finish(self, grid: Grid, values: Integers | None) -> Integers:
        """Filter in rate-distortion mode, and take off the padding."""
        inside = (slice(PADDING, -PADDING),) * 3
        if self.header.shares == _BOUNDED_SHARES:
            return grid.values[inside].copy()
        mirror_edges(grid.values)
        mirror_edges(grid.sizes)
        model: FilterModel | None = None
        if values is not None and self.filtered:
            model = fit_filter(grid, values, self.weight * self.header.step**2)
        self.coder = reserve(self.coder, _MOST_SIDE_DECISIONS)
        return filter_grid(grid, code_filter(self.coder, model), self.header.limits)


def _fit(
    grid: Grid, geometry: Geometry, original: Integers, limits: tuple[int, int], step: int
) -> tuple[tuple[int, int], PassModel]:
    """Choose the kind of model and the precision of its weights by the number of points, and fit it."""
    kind = sum(len(original) >= least for least in _LEAST_POINTS) - 1
    coarseness = sum(len(original) < least for least in _FINE_POINTS)
    if kind == 0:
        return (0, 0), default_model(geometry)
    num_classes, num_pairs = MODEL_KINDS[kind]
    num_pairs = min(num_pairs, len(geometry.pairs))
    model = fit_model(grid, geometry, original, num_classes=num_classes, num_pairs=num_pairs, coarseness=coarseness)
    return (kind, coarseness), with_scales(grid, geometry, model, original, limits=limits, step=step)
