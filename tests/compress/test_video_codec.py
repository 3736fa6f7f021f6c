from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.codec import codec
from quietbeam.compress.video_codec import HevcCodec
from quietbeam.reconstruction.errors import ArchiveError
from quietbeam.reconstruction.quality import psnr

from .volumes import foam

pytest.importorskip("av")

VOLUME = foam((20, 72, 90), num_voids=40)
FINEST = 54.0
"""dB; a step of qp 0 is about 10 of 4095, which alone would be 62 dB."""


def at(qp: int, volume: np.ndarray = VOLUME) -> tuple[int, float]:
    fitted = codec("hevc").fit(volume, codec("hevc").settings_type(qp=qp))
    bitstream = fitted.encode(volume)
    return len(bitstream), psnr(volume, fitted.decode(bitstream, volume.shape))


def test_bits_and_quality_grow_as_the_step_shrinks() -> None:
    sizes, qualities = zip(*map(at, (40, 28, 16, 0)), strict=True)
    assert list(sizes) == sorted(set(sizes))
    assert list(qualities) == sorted(set(qualities))
    assert qualities[-1] > FINEST


def test_slices_are_predicted_from_their_neighbours() -> None:
    repeated = np.repeat(VOLUME[:1], 20, axis=0)
    assert at(20, repeated)[0] < 2 * at(20, VOLUME[:1])[0]


def test_frames_come_back_in_the_order_of_the_slices() -> None:
    ramp = np.zeros((20, 64, 64), np.float32) + np.arange(20, dtype=np.float32)[:, None, None]
    fitted = codec("hevc").fit(ramp)
    decoded = fitted.decode(fitted.encode(ramp), ramp.shape)
    np.testing.assert_allclose(decoded.mean((1, 2)), np.arange(20), atol=0.1)


def test_the_bitstream_has_no_remarks_of_the_encoder() -> None:
    assert b"x265" not in codec("hevc").fit(VOLUME).encode(VOLUME)


@pytest.mark.parametrize("shape", [(19, 72, 90), (21, 72, 90), (20, 72, 98)])
def test_another_number_or_size_of_frames_raises(shape: tuple[int, int, int]) -> None:
    fitted = HevcCodec.fit(VOLUME)
    body = fitted.encode(VOLUME)[4:]
    with pytest.raises(ArchiveError, match="frames"):
        fitted._expand(body, shape)
