from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from quietbeam.compress.binary_coder import check_end, code_bit, code_raw, finish, new_decoder, new_encoder, reserve
from quietbeam.reconstruction.errors import ArchiveError

decisions = st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 1)), max_size=400)


def encode(pairs: list[tuple[int, int]]) -> bytes:
    coder = reserve(new_encoder(), len(pairs))
    for probability, bit in pairs:
        code_bit(coder, probability, bit)
    return finish(coder)


@settings(max_examples=100, deadline=None)
@given(decisions)
def test_decisions_come_back_and_all_bytes_are_read(pairs: list[tuple[int, int]]) -> None:
    decoder = new_decoder(encode(pairs))
    assert [code_bit(decoder, probability, 0) for probability, _ in pairs] == [bit for _, bit in pairs]
    check_end(decoder)


def test_the_least_likely_decisions_fit_into_the_room_reserved() -> None:
    pairs = [(1, 1), (65535, 0)] * 200
    bitstream = encode(pairs)
    assert len(bitstream) <= 2 * len(pairs) + 6
    decoder = new_decoder(bitstream)
    assert [code_bit(decoder, probability, 0) for probability, _ in pairs] == [bit for _, bit in pairs]


def test_raw_bits_come_back_the_highest_first() -> None:
    coder = reserve(new_encoder(), 64)
    assert [code_raw(coder, 13, 4711), code_raw(coder, 0, 5), code_raw(coder, 3, 0b11110)] == [4711, 0, 0b110]
    bitstream = finish(coder)
    assert bitstream[0] == 255 - (4711 >> 5)  # a 1 takes the lower part of the interval
    decoder = new_decoder(bitstream)
    assert [code_raw(decoder, 13, 0), code_raw(decoder, 0, 0), code_raw(decoder, 3, 0)] == [4711, 0, 0b110]


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0"])
def test_a_bitstream_of_another_length_is_noticed(change) -> None:  # type: ignore[no-untyped-def]
    decoder = new_decoder(change(encode([(32768, 1)] * 100)))
    for _ in range(100):
        code_bit(decoder, 32768, 0)
    with pytest.raises(ArchiveError, match="expected 15 and a53c"):
        check_end(decoder)
