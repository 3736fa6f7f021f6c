"""The stage from the denoised slices and the codec to the payloads of the archive."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from quietbeam.compress.archive import EncodedChunk, encode_chunk
from quietbeam.compress.codec import Codec
from quietbeam.compress.packed_codec import read_packed, unpack_codec

from .codec_fitting import OWN, FittedCodec
from .codec_reuse import decoder_share
from .denoised_slices import DenoisedSlices
from .job import Job
from .journal import Record
from .payload_pieces import PayloadPieces, write_payload
from .volume_pieces import VolumePieces

__all__ = ["EncodeTask", "encode_scan"]


@dataclass(frozen=True)
class EncodeTask:
    """Encode some slices of a denoised volume.

    Attributes
    ----------
    key : str
        Of what is encoded: volume, codec, largest error, settings.
    volume : VolumePieces
        The denoised slices.
    codec : str
        Name of the codec.
    packed : Path or None
        File of the codec; None for the one that needs none.
    max_error : float
        In the volume's unit.
    keep_latents : {"smaller", "always"}
        See `encode_chunk`.
    decoder_share : float
        Size of the stored decoder over the number of voxels, bytes.
    folder : Path
        For the payloads.
    num_threads : int
        Threads.
    """

    key: str
    volume: VolumePieces
    codec: str
    packed: Path | None
    max_error: float
    keep_latents: Literal["smaller", "always"]
    decoder_share: float
    folder: Path
    num_threads: int

    def __call__(self, chunk: slice) -> Record:
        """Encode slices; tell the ``sha256`` of the payload, and what `EncodedChunk` tells of it."""
        began = time.monotonic()
        torch.set_num_threads(self.num_threads)
        encoded = encode_chunk(
            _codec(self.codec, self.packed, self.key),
            self.volume[chunk],
            self.max_error,
            keep_latents=self.keep_latents,
            state_bytes_per_voxel=self.decoder_share,
        )
        sha256 = write_payload(self.folder, chunk, encoded.payload)
        return {"sha256": sha256, **_cost(encoded), "seconds": time.monotonic() - began}


@lru_cache(maxsize=1)
def _codec(name: str, packed: Path | None, key: str) -> Codec | None:
    """Read the codec once for the chunks of a process; `key` tells those of two jobs apart."""
    return unpack_codec(name, read_packed(packed), where=str(packed)) if packed else None


def _cost(encoded: EncodedChunk) -> dict[str, Any]:
    numbers = dataclasses.asdict(encoded)
    del numbers["payload"]
    return numbers


def encode_scan(
    job: Job, denoised: DenoisedSlices, fitted: FittedCodec, max_error: float, *, num_threads: int
) -> PayloadPieces:
    """Encode the denoised slices of a scan.

    Parameters
    ----------
    job : Job
        Settings and scratch folder.
    denoised : DenoisedSlices
        What is encoded.
    fitted : FittedCodec
        From `fit_codec`.
    max_error : float
        In the volume's unit.
    num_threads : int
        Threads of the codec.

    Returns
    -------
    PayloadPieces
        On disk.
    """
    archive = job.settings.archive
    journal = job.workspace.journal("encode", job.keys.payloads(fitted.state, denoised.key, max_error))
    shape = denoised.volume.shape
    task = EncodeTask(
        key=journal.key,
        volume=denoised.volume,
        codec=archive.codec,
        packed=fitted.file,
        max_error=max_error,
        keep_latents=archive.keep_latents,
        decoder_share=decoder_share(archive, fitted.state, shape),
        folder=job.workspace.pieces("payloads", journal),
        num_threads=num_threads,
    )
    records = job.do_pieces("encode", journal, task, total=shape[0], size=archive.chunk_slices)
    if archive.codec != OWN:
        paid = sum(record["num_latent_bytes"] > 0 for record in records)
        why = f"archive.keep_latents: {archive.keep_latents}; elsewhere the residual coder alone is smaller"
        job.decide("latents", f"in {paid} of {len(records)} chunks", why)
    return PayloadPieces(task.folder, records)
