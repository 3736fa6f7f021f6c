"""HEVC: a chunk as a video of 12-bit grey frames, each slice predicted from its neighbours.

The encoder is x265, preset medium, tuned for the signal-to-noise ratio, with a constant quantisation parameter and one
thread; the bitstream is an Annex B byte stream without the encoder's own remarks.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from quietbeam.reconstruction.errors import ArchiveError

from .classical import ClassicalCodec, optional_library
from .codec import register

__all__ = ["HevcCodec", "HevcSettings"]

_BITS = 12
_SMALLEST_SIDE = 64
_MULTIPLE = 8
_PIXELS = "gray12le"


class HevcSettings(BaseModel, frozen=True, extra="forbid"):
    """How HEVC quantises."""

    qp: int = Field(20, ge=0, le=51, description="quantisation parameter; 6 more double the step")


@register("hevc")
class HevcCodec(ClassicalCodec):
    """The codec ``hevc``: see the module. The range of the volume becomes 0 to 4095."""

    settings_type: ClassVar[type[BaseModel]] = HevcSettings
    library = "av"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        integers = self.value_range.to_integers(chunk, self.value_range.step(_BITS), _BITS)
        frames = np.pad(integers, [(0, 0), *((0, _padded(side) - side) for side in chunk.shape[1:])], mode="edge")
        encoder = _encoder(frames.shape[1:], self.settings.qp)
        packets = [packet for number, frame in enumerate(frames) for packet in encoder.encode(_to_frame(frame, number))]
        return b"".join(bytes(packet) for packet in [*packets, *encoder.encode(None)])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        num_slices, num_rows, num_columns = shape
        integers = np.empty(shape, np.uint16)
        number = 0
        for frame in _decode_frames(body):
            if number == num_slices or (frame.height, frame.width) != (_padded(num_rows), _padded(num_columns)):
                raise ArchiveError(f"a chunk of codec hevc has more frames than shape {shape}, or of another size")
            integers[number] = _to_plane(frame)[:num_rows, :num_columns]
            number += 1
        if number < num_slices:
            raise ArchiveError(f"a chunk of codec hevc has {number} frames, expected {num_slices}: it is cut short")
        return self.value_range.to_values(integers, self.value_range.step(_BITS))


def _encoder(sides: tuple[int, ...], qp: int) -> Any:
    encoder = optional_library("av").CodecContext.create("libx265", "w")
    encoder.height, encoder.width = sides
    encoder.pix_fmt, encoder.thread_count = _PIXELS, 1
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    parameters = f"log-level=none:pools=none:frame-threads=1:wpp=0:info=0:qp={qp}"
    encoder.options = {"preset": "medium", "tune": "psnr", "x265-params": parameters}
    return encoder


def _decode_frames(body: bytes) -> Any:
    """Give the frames one by one, in the order of the slices."""
    decoder = optional_library("av").CodecContext.create("hevc", "r")
    decoder.thread_count = 1
    for packet in (*decoder.parse(body), *decoder.parse(b""), None):
        try:
            yield from decoder.decode(packet)
        except optional_library("av").FFmpegError as error:
            raise ArchiveError(f"a chunk of codec hevc cannot be decoded ({error}): it is damaged") from error


def _to_frame(plane: NDArray[np.uint16], number: int) -> Any:
    frame = optional_library("av").VideoFrame(plane.shape[1], plane.shape[0], _PIXELS)
    _pixels(frame)[:, : plane.shape[1]] = plane
    frame.pts = number
    return frame


def _to_plane(frame: Any) -> NDArray[np.uint16]:
    if frame.format.name != _PIXELS:
        raise ArchiveError(f"a chunk of codec hevc must have pixels {_PIXELS}, got {frame.format.name}: it is damaged")
    return _pixels(frame)[:, : frame.width]


def _pixels(frame: Any) -> NDArray[np.uint16]:
    """View a frame's memory as rows of 16-bit integers; the rows may be longer than the frame is wide."""
    return np.asarray(memoryview(frame.planes[0])).view("<u2").reshape(frame.height, -1)


def _padded(side: int) -> int:
    """Enlarge a side to what every encoder takes: multiples of 8, at least one largest block."""
    return max(_SMALLEST_SIDE, -(-side // _MULTIPLE) * _MULTIPLE)
