"""Archives in a Tiled server: slices are decoded as they are asked for, nothing is stored twice.

The server's configuration names the adapter::

    trees:
      - path: /
        tree: catalog
        args:
          adapters_by_mimetype:
            application/x-quietbeam-archive: quietbeam.beamline.publishing.tiled_adapter:ArchiveAdapter
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.utils import path_from_uri

from quietbeam.compress.archive import Archive, ArchiveHeader, open_archive
from quietbeam.reconstruction.errors import ArchiveError

from .settings import ARCHIVE_MIMETYPE

__all__ = ["ArchiveAdapter", "archive_source"]

KEPT_ARCHIVES = 4
"""Archives that stay open between requests."""
KEPT_BYTES = 64 * 2**20
"""What each of them keeps of decoded chunks; its last chunk is kept in any case."""
_UNREADABLE = 422
"""Status of a request that damage stands in the way of; a client does not try again, as it would with 5xx."""
_ALL = NDSlice(...)


class ArchiveAdapter(Adapter[ArrayStructure]):  # type: ignore[misc]  # tiled tells no types
    """An archive as an array of shape (slice, y, x).

    Parameters
    ----------
    archive : Archive
        Open.
    structure : ArrayStructure, optional
        As registered; by default one block for each slice.
    metadata : dict, optional
        To be shown beside what the archive says of itself.
    specs : list of Spec, optional
        Of the node.
    """

    structure_family = StructureFamily.array

    def __init__(
        self,
        archive: Archive,
        structure: ArrayStructure | None = None,
        *,
        metadata: dict[str, Any] | None = None,
        specs: list[Spec] | None = None,
    ) -> None:
        self._archive = archive
        shown = {**(metadata or {}), **_describe(archive.header)}
        super().__init__(structure or _structure(archive.header), metadata=shown, specs=specs)

    @classmethod
    def from_catalog(cls, data_source: DataSource[ArrayStructure], node: Any, /, **parameters: Any) -> ArchiveAdapter:
        """Serve an archive that a catalogue has registered."""
        (asset,) = data_source.assets
        with _damage_told():
            archive = _open(path_from_uri(asset.data_uri))
        if (structure := data_source.structure) is not None and tuple(structure.shape) != archive.shape:
            raise HTTPException(_UNREADABLE, f"registered with the shape {structure.shape}, holds {archive.shape}")
        return cls(archive, structure, metadata=copy.deepcopy(node.metadata_), specs=node.specs)

    @classmethod
    def from_uris(cls, *data_uris: str, **parameters: Any) -> ArchiveAdapter:
        """Serve an archive by its ``file://`` URI."""
        (uri,) = data_uris
        return cls(_open(path_from_uri(uri)))

    def read(self, slice: NDSlice = _ALL) -> NDArray[Any]:
        """Decode a part of the volume: only the chunks that hold such slices.

        Parameters
        ----------
        slice : NDSlice
            As numpy has it.

        Returns
        -------
        dtype of the archive
            The part.
        """
        with _damage_told():
            return np.asarray(self._archive[tuple(slice) if slice else ...])

    def read_block(self, block: NDBlock, slice: NDSlice = _ALL) -> NDArray[Any]:
        """Decode a block of the structure, and give a part of it.

        Parameters
        ----------
        block : NDBlock
            Number of the block along each axis.
        slice : NDSlice
            Part of the block.

        Returns
        -------
        dtype of the archive
            The part.
        """
        with _damage_told():
            part = self._archive[tuple(block.slice_from_chunks(self._structure.chunks))]
        return np.asarray(part[tuple(slice)] if slice else part)


def archive_source(path: Path, uri: str | None = None) -> DataSource[ArrayStructure]:
    """Describe an archive for registering it: ``client.new("array", [archive_source(path)], key=NAME)``.

    Parameters
    ----------
    path : Path
        The archive, as seen here.
    uri : str, optional
        The archive as the server sees it, where that differs.

    Returns
    -------
    DataSource
        Of an array with one block for each slice.
    """
    with open_archive(path, cache_bytes=0) as archive:
        structure = _structure(archive.header)
    uri = uri or f"file://localhost{path.resolve()}"  # nothing quoted: Tiled takes the path as it stands
    asset = Asset(data_uri=uri, is_directory=False, parameter="data_uris", num=0)
    return DataSource(
        structure_family=StructureFamily.array,
        structure=structure,
        mimetype=ARCHIVE_MIMETYPE,
        parameters={},
        management=Management.external,
        assets=[asset],
    )


def _structure(header: ArchiveHeader) -> ArrayStructure:
    slices, rows, columns = header.shape
    return ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(np.dtype(header.dtype)),
        shape=header.shape,
        chunks=((1,) * slices, (rows,), (columns,)),
        dims=("slice", "y", "x"),
    )


def _describe(header: ArchiveHeader) -> dict[str, Any]:
    return {"archive": header.model_dump(mode="json", exclude={"metadata"}) | header.metadata}


def _open(path: Path) -> Archive:
    stat = Path(path).stat()
    return _open_version(Path(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=KEPT_ARCHIVES)
def _open_version(path: Path, mtime_ns: int, num_bytes: int) -> Archive:
    """Keep archives open: the slices of a chunk are asked for one after the other, and it shall be decoded once."""
    return open_archive(path, cache_bytes=KEPT_BYTES)


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (ArchiveError, FileNotFoundError) as error:
        raise HTTPException(_UNREADABLE, str(error)) from error
