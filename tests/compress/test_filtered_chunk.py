from __future__ import annotations

import hdf5plugin
import numpy as np
import pytest

from quietbeam.compress.filtered_chunk import filter_chunk, unfilter_chunk
from quietbeam.reconstruction.errors import ArchiveError

LOSSY = hdf5plugin.SZ3(absolute=0.1)
VALUES = np.random.default_rng(0).random((4, 20, 30), np.float32)


def test_what_comes_back_went_through_the_filter() -> None:
    decoded = unfilter_chunk(filter_chunk(VALUES, LOSSY), VALUES.shape, np.float32, LOSSY)
    assert 0 < np.abs(decoded - VALUES).max() <= 0.1


def test_only_the_chunk_counts() -> None:
    assert len(filter_chunk(np.zeros((4, 20, 30), np.float32), {"compression": "gzip"})) < 100


def test_a_chunk_that_the_filter_leaves_alone_comes_back() -> None:
    # LZF refuses what it cannot make smaller; HDF5 then stores the values and says so in the mask.
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 9), np.uint8)
    chunk = filter_chunk(noise, {"compression": "lzf"})
    assert chunk[0] == 1
    np.testing.assert_array_equal(unfilter_chunk(chunk, noise.shape, np.uint8, {"compression": "lzf"}), noise)


def test_what_no_filter_can_read_raises() -> None:
    with pytest.raises(OSError, match="filter"):
        unfilter_chunk(b"\0damaged", VALUES.shape, np.float32, {"compression": "gzip"})
    with pytest.raises(ArchiveError, match="is empty"):
        unfilter_chunk(b"", VALUES.shape, np.float32, LOSSY)
