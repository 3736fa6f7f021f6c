"""A small picture of the whole volume that any HDF5 viewer shows: block means, in an NXdata group of the archive.

All reductions are made while the chunks stream by and kept deflated; in the end the finest is stored that is small
enough. Values are rounded to a step that is a power of two and not above ``2 max_error``, so that a preview is as exact
as the volume and yet deflates well.

References
----------
.. [1] NeXus International Advisory Committee, NXdata base class definition,
   https://manual.nexusformat.org/classes/base_classes/NXdata.html.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .block_means import BlockMeans, Plane, reduced_shape
from .header import ArchiveHeader

__all__ = ["FACTORS", "Preview", "PreviewMaker", "inflate_preview", "pixel_size_of", "read_preview", "write_preview"]

FACTORS = (2, 4, 8, 16, 32)
"""Block sizes that a preview may have."""
MOST_BYTES = 64 * 2**20
"""A reduction that takes more, deflated, is too large for a quick look, and is not kept in memory."""

_SHARE = 0.01
_MOST_CHARACTERS = 400
_AXES = ("slice", "y", "x")


class Preview(NamedTuple):
    """A volume reduced by block means.

    Attributes
    ----------
    factor : int
        Voxels along each side of a block.
    planes : tuple of bytes
        Each plane as HDF5 stores it: byte planes of its float32 values, deflated.
    """

    factor: int
    planes: tuple[bytes, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all planes."""
        return sum(map(len, self.planes))

    @property
    def sha256(self) -> str:
        """Hash of all planes, one after the other."""
        return hashlib.sha256(b"".join(self.planes)).hexdigest()


class PreviewMaker:
    """Makes the preview of a volume whose chunks come one after the other.

    Parameters
    ----------
    header : ArchiveHeader
        Shape, type and largest error.
    """

    def __init__(self, header: ArchiveHeader) -> None:
        smallest = 0.5 if header.dtype != "float32" else float(np.finfo(np.float32).tiny)
        self._step = 2.0 ** math.floor(math.log2(2 * min(max(header.max_error, smallest), 1e38)))
        self._planes: list[list[bytes] | None] = [[] for _ in FACTORS]
        self._means = BlockMeans(header.shape, len(FACTORS), self._take)

    def add(self, slices: NDArray[np.generic]) -> None:
        """Take the next decoded slices, shape (slice, y, x)."""
        self._means.add(slices)

    def finish(self, num_coded_bytes: int) -> Preview:
        """Choose the finest reduction that takes at most a hundredth of the coded chunks, else the coarsest."""
        self._means.finish()
        made = [Preview(factor, tuple(planes)) for factor, planes in zip(FACTORS, self._planes, strict=True) if planes]
        return next((preview for preview in made if preview.num_bytes <= _SHARE * num_coded_bytes), made[-1])

    def _take(self, level: int, means: Plane) -> None:
        planes = self._planes[level]
        if planes is None:
            return
        planes.append(_deflated(np.rint(means / self._step) * self._step))
        if FACTORS[level] != FACTORS[-1] and sum(map(len, planes)) > MOST_BYTES:
            self._planes[level] = None


def write_preview(file: h5py.File, preview: Preview, header: ArchiveHeader) -> None:
    """Store a preview with what viewers need to show it.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    preview : Preview
        From `PreviewMaker`.
    header : ArchiveHeader
        Shape and metadata: `pixel_size` (metres) gives the axes their unit, `name` the title, `unit` that of the data.
    """
    group = file.create_group("preview")
    texts = {"NX_class": "NXdata", "signal": "data", "title": _title(preview, header)}
    for name, text in texts.items():
        _put_text(group, name, text)
    group.attrs["axes"] = np.array(_AXES, "S")
    shape = reduced_shape(header.shape, preview.factor)
    options = {"chunks": (1, *shape[1:]), "shuffle": True, "compression": "gzip", "track_times": False}
    data = group.create_dataset("data", shape, "<f4", **options)
    if isinstance(unit := header.metadata.get("unit"), str):
        _put_text(data, "units", unit)
    for number, plane in enumerate(preview.planes):
        data.id.write_direct_chunk((number, 0, 0), plane)
    size = pixel_size_of(header)
    step, offset = preview.factor * (size or 1.0), (preview.factor - 1) / 2 * (size or 1.0)
    for name, length in zip(_AXES, shape, strict=True):
        axis = group.create_dataset(name, data=(offset + step * np.arange(length)).astype("<f8"), track_times=False)
        _put_text(axis, "units", "m" if size else "pixel")
        axis.attrs["offset"], axis.attrs["step"] = offset, step


def read_preview(file: h5py.File, header: ArchiveHeader, factor: int, num_bytes: int) -> Preview:
    """Read a preview as it is stored; nothing is inflated.

    Parameters
    ----------
    file : h5py.File
        The archive.
    header : ArchiveHeader
        Shape of the volume.
    factor : int
        From the index.
    num_bytes : int
        Most bytes that all planes may have: the size of the file.

    Returns
    -------
    Preview
        To be checked against the index.

    Raises
    ------
    ArchiveError
        If the data set is not as `write_preview` makes it.
    """
    name, shape = "preview/data", reduced_shape(header.shape, factor)
    if not all(isinstance(file.get(path, getlink=True), h5py.HardLink) for path in ("preview", name)):
        raise ArchiveError(f"{name} is missing or a link, expected a data set")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.dtype != np.dtype("<f4") or data.shape != shape:
        raise ArchiveError(f"{name} is no float32 of shape {shape}")
    if data.chunks != (1, *shape[1:]) or data.id.get_create_plist().get_nfilters() != 2:
        raise ArchiveError(f"{name} is not stored plane by plane, shuffled and deflated")
    return Preview(factor, _stored_planes(data, num_bytes))


def inflate_preview(preview: Preview, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Give the values of a preview.

    Parameters
    ----------
    preview : Preview
        Checked against the index.
    shape : tuple of int
        Shape of the volume.

    Returns
    -------
    float32, shape (slice / factor, y / factor, x / factor), each rounded up
        Block means in the volume's units.

    Raises
    ------
    ArchiveError
        If a plane cannot be inflated to its size.
    """
    values = np.empty(reduced_shape(shape, preview.factor), np.float32)
    for plane, stored in zip(values, preview.planes, strict=True):
        plane[:] = _inflated(stored, plane.shape)
    return values


def _put_text(owner: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
    """Add an attribute, UTF-8 of fixed length; the text of a user may be longer than an attribute."""
    content = text[:_MOST_CHARACTERS].encode() or b" "
    kind = h5py.string_dtype("utf-8", len(content))
    owner.attrs.create(name, np.array(content, kind), (), kind)


def _stored_planes(data: h5py.Dataset, num_bytes: int) -> tuple[bytes, ...]:
    """Read HDF5 chunks as they are; several that name one place could be more than the file."""
    planes = []
    for number in range(data.shape[0]):
        found = data.id.get_chunk_info_by_coord((number, 0, 0))
        if found.byte_offset is None or found.filter_mask or found.size > num_bytes:
            raise ArchiveError(f"preview/data: plane {number} is missing, not deflated or larger than the file")
        num_bytes -= found.size
        planes.append(bytes(data.id.read_direct_chunk((number, 0, 0))[1]))
    return tuple(planes)


def _deflated(means: Plane) -> bytes:
    with np.errstate(over="ignore"):
        values = means.astype("<f4")
    return zlib.compress(values.view(np.uint8).reshape(-1, 4).T.tobytes(), 6)


def _inflated(stored: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    num_bytes = 4 * math.prod(shape)
    try:
        planes = zlib.decompressobj().decompress(stored, num_bytes + 1)
    except zlib.error as error:
        raise ArchiveError(f"the preview cannot be inflated ({error}): it is damaged") from error
    if len(planes) != num_bytes:
        raise ArchiveError(f"a plane of the preview inflates to another size than {num_bytes} bytes: it is damaged")
    values = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(4, -1).T)
    return values.view("<f4").reshape(shape).astype(np.float32)


def _title(preview: Preview, header: ArchiveHeader) -> str:
    slices, rows, columns = header.shape
    name = header.metadata.get("name")
    what = f"{name[:100]}: " if isinstance(name, str) and name else ""
    return f"{what}means over {preview.factor} voxels along each axis of {slices} x {rows} x {columns} voxels"


def pixel_size_of(header: ArchiveHeader) -> float | None:
    """Take the pixel size, metres, where the metadata has one."""
    size = header.metadata.get("pixel_size")
    return float(size) if isinstance(size, int | float) and not isinstance(size, bool) and size > 0 else None
