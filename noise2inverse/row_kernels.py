"""Innermost loops of the dilated convolutions on the CPU, written with vectors of the processor.

Both loops work on rows of a flat array of float32. A row of a dilated 3 x 3 convolution reads three rows of its source,
a dilation apart, each at three places, a dilation apart. What limits such loops is loading, not multiplying: a vector
that begins anywhere costs more to load than to multiply. So each vector that is loaded is used for several outputs: for
`num_planes` target planes, or for `num_rows` rows of one plane that are a dilation apart and share their sources. With
3 planes or 3 rows the 9 taps of each stay in registers.

The order of additions is fixed by the arguments: results do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "add_1_plane", "add_2_planes", "add_3_planes", "add_3_rows", "correlate_1_plane"]
__all__ += ["correlate_2_planes", "correlate_3_planes", "correlate_3_rows"]

LANES = 16
"""Numbers of a vector: 64 bytes, a line of the cache."""

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_SHORT, _LONG = ir.IntType(32), ir.IntType(64)


def _number(value: int) -> Any:
    return ir.Constant(_LONG, value)


class _Code:
    """Emits vector code; an address is an array of the caller and terms that add up to a position in it."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context, self.builder = context, builder
        self.arguments = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def add(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def times(self, value: Any, factor: int) -> Any:
        return self.builder.mul(value, _number(factor))

    def value(self, array: Any, *terms: Any) -> Any:
        return self.builder.load(self.builder.gep(array, [self.add(*terms)]))

    def load(self, array: Any, *terms: Any) -> Any:
        return self.builder.load(self._vector(array, terms), align=4)

    def store(self, vector: Any, array: Any, *terms: Any) -> None:
        self.builder.store(vector, self._vector(array, terms), align=4)

    def _vector(self, array: Any, terms: Iterable[Any]) -> Any:
        first = self.builder.gep(array, [self.add(*terms)])
        return self.builder.bitcast(first, _VECTOR.as_pointer())

    def to_all_lanes(self, value: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_SHORT, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_SHORT, LANES), [0] * LANES))

    def multiply_add(self, total: Any, first: Any, second: Any) -> Any:
        product = self.builder.fmul(first, second, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))

    def sum_of_lanes(self, vector: Any) -> Any:
        half = LANES // 2
        while half:  # add the upper half to the lower, until one is left
            undefined, kind = ir.Constant(vector.type, ir.Undefined), ir.VectorType(_SHORT, half)
            lower, upper = (ir.Constant(kind, list(range(start, start + half))) for start in (0, half))
            parts = (self.builder.shuffle_vector(vector, undefined, lanes) for lanes in (lower, upper))
            vector, half = self.builder.fadd(*parts), half // 2
        return self.builder.extract_element(vector, ir.Constant(_SHORT, 0))

    def rows(self, table: Any, first: Any, count: Any, num_rows: int) -> Any:
        """Loop over entries of a table: `num_rows` positions of target rows, `num_rows + 2` of source rows."""
        return _Rows(self, table, first, count, num_rows)


class _Rows:
    def __init__(self, code: _Code, table: Any, first: Any, count: Any, num_rows: int) -> None:
        self.code, self.table, self.first, self.num_rows = code, table, first, num_rows
        self.loop = cgutils.for_range(code.builder, count)

    def __enter__(self) -> tuple[list[Any], list[Any]]:
        entry = self.code.times(self.code.add(self.first, self.loop.__enter__().index), 2 * self.num_rows + 2)
        ends = [self.code.value(self.table, entry, _number(i)) for i in range(2 * self.num_rows + 2)]
        return ends[: self.num_rows], ends[self.num_rows :]

    def __exit__(self, *error: object) -> None:
        self.loop.__exit__(*error)  # type: ignore[arg-type]


def _place(builder: Any) -> Any:
    """Make room for a vector of zeros; the compiler will keep it in a register."""
    place = cgutils.alloca_once(builder, _VECTOR)  # type: ignore[no-untyped-call]
    builder.store(ir.Constant(_VECTOR, None), place)
    return place


def _taps(num_rows: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Each vector to be loaded: source row, column of the tap, and for which target rows it is which tap."""
    return [
        (source, kx, [(row, 3 * (source - row) + kx) for row in range(num_rows) if 0 <= source - row < 3])
        for source in range(num_rows + 2)
        for kx in range(3)
    ]


def _add_kernel(num_planes: int, num_rows: int) -> Callable[..., None]:
    @intrinsic
    def add_convolution(
        context: Any,
        targets: Any,
        target_at: Any,
        tap_at: Any,
        first: Any,
        sources: Any,
        source_at: Any,
        taps: Any,
        tap: Any,
        table: Any,
        first_row: Any,
        count: Any,
        start: Any,
        num_vectors: Any,
        dilation: Any,
    ) -> Any:
        """Add the convolution of one source plane to `num_planes` planes, row by row.

        ``targets[target_at[first + m] + row + start + x] += taps[tap_at[first + m] + tap + 3 ky + kx]
        * sources[source_at + source row + start + x + (kx - 1) dilation]``, x in ``[0, 16 num_vectors)``, summed over
        taps.
        """

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            code = _Code(context, builder, signature, arguments)
            targets, target_at, tap_at, first, sources, source_at, taps, tap, table, *numbers = code.arguments
            first_row, count, start, num_vectors, dilation = numbers
            planes = range(num_planes)
            base = [code.value(target_at, first, _number(m)) for m in planes]
            weights = []
            for m in planes:
                at = code.add(code.value(tap_at, first, _number(m)), tap)
                weights.append([code.to_all_lanes(code.value(taps, at, _number(t))) for t in range(9)])
            with code.rows(table, first_row, count, num_rows) as (rows, source_rows):
                to = [[code.add(base[m], row, start) for row in rows] for m in planes]
                source = [code.add(source_at, row, start) for row in source_rows]
                with cgutils.for_range(builder, num_vectors) as vector:
                    x = code.times(vector.index, LANES)
                    total = [[code.load(targets, at, x) for at in line] for line in to]
                    for row, kx, uses in _taps(num_rows):
                        value = code.load(sources, source[row], x, code.times(dilation, kx - 1))
                        for m in planes:
                            for r, t in uses:
                                total[m][r] = code.multiply_add(total[m][r], weights[m][t], value)
                    for m in planes:
                        for r in range(num_rows):
                            code.store(total[m][r], targets, to[m][r], x)
            return context.get_dummy_value()

        i = types.int64
        arrays = (targets, target_at, tap_at, i, sources, i, taps, i, table)
        return types.void(*arrays, i, i, i, i, i), build

    return add_convolution


def _correlate_kernel(num_planes: int, num_rows: int) -> Callable[..., None]:
    @intrinsic
    def add_correlation(
        context: Any,
        taps: Any,
        tap_at: Any,
        first: Any,
        tap: Any,
        targets: Any,
        target_at: Any,
        sources: Any,
        source_at: Any,
        table: Any,
        first_row: Any,
        count: Any,
        num_vectors: Any,
        dilation: Any,
    ) -> Any:
        """Correlate one source plane with `num_planes` planes: the derivative of `add_convolution` by its taps.

        ``taps[tap_at[first + m] + tap + 3 ky + kx] += targets[target_at[first + m] + row + x]
        * sources[source_at + source row + x + (kx - 1) dilation]``, summed over rows and x in ``[0, 16 num_vectors)``.
        """

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            code = _Code(context, builder, signature, arguments)
            taps, tap_at, first, tap, targets, target_at, sources, source_at, table, *numbers = code.arguments
            first_row, count, num_vectors, dilation = numbers
            planes = range(num_planes)
            sums = [[_place(builder) for _ in range(9)] for _ in planes]
            base = [code.value(target_at, first, _number(m)) for m in planes]
            with code.rows(table, first_row, count, num_rows) as (rows, source_rows):
                at = [[code.add(base[m], row) for row in rows] for m in planes]
                source = [code.add(source_at, row) for row in source_rows]
                with cgutils.for_range(builder, num_vectors) as vector:
                    x = code.times(vector.index, LANES)
                    factors = [[code.load(targets, place, x) for place in line] for line in at]
                    for row, kx, uses in _taps(num_rows):
                        value = code.load(sources, source[row], x, code.times(dilation, kx - 1))
                        for m in planes:
                            for r, t in uses:
                                total = code.multiply_add(builder.load(sums[m][t]), factors[m][r], value)
                                builder.store(total, sums[m][t])
            for m in planes:
                for t in range(9):
                    to = builder.gep(taps, [code.add(code.value(tap_at, first, _number(m)), tap, _number(t))])
                    builder.store(builder.fadd(builder.load(to), code.sum_of_lanes(builder.load(sums[m][t]))), to)
            return context.get_dummy_value()

        i = types.int64
        return types.void(taps, tap_at, i, i, targets, target_at, sources, i, table, i, i, i, i), build

    return add_correlation


add_1_plane, add_2_planes, add_3_planes = (_add_kernel(num_planes, 1) for num_planes in (1, 2, 3))
add_3_rows = _add_kernel(1, 3)
correlate_1_plane, correlate_2_planes, correlate_3_planes = (_correlate_kernel(m, 1) for m in (1, 2, 3))
correlate_3_rows = _correlate_kernel(1, 3)
