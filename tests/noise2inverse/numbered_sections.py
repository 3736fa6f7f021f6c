"""Sections whose values and reads tell where they come from."""

import numpy as np


class Recorded:
    """Sections that keep what is read of them."""

    def __init__(self, sections):
        self.sections, self.shape = sections, sections.shape
        self.keys, self.num_bytes = [], 0

    def __getitem__(self, key):
        part = np.asarray(self.sections[key])
        self.keys.append(key)
        self.num_bytes += part.nbytes
        return part


def numbered(num_slices=7, num_sections=4, num_channels=1, size=8):
    """Sections whose value tells channel (ten thousands), slice (hundreds) and section (units)."""
    channel, number, index = np.meshgrid(
        np.arange(num_channels), np.arange(num_sections), np.arange(num_slices), indexing="ij"
    )
    values = (10000 * channel + number + 100 * index).transpose(2, 1, 0)
    return np.broadcast_to(values[..., None, None], (*values.shape, size, size)).astype(np.float32)


def equal_shares(num_sections):
    return np.full(num_sections, 1 / num_sections, np.float32)
