"""The network in the result of a scan: its file, what that says of its origin, and its place in the registry."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD

from .atomic import write_atomically
from .held_out import HeldOut
from .job import Job
from .network_fit import agreements
from .network_reuse import described_conditions, is_applied
from .stage_keys import NOT_COMPUTED_FROM
from .warm_start import Start, add_to_registry
from .workspace import NETWORK, START

__all__ = ["write_network"]


def write_network(job: Job, model: MSD, start: Start, *, column: float, epochs: int, held_out: HeldOut) -> None:
    """Write the network's file; one that this scan trained goes into the registry too, if there is one.

    Parameters
    ----------
    job : Job
        The scan.
    model : MSD
        The network as it was applied.
    start : Start
        What it began with, or what was taken over.
    column : float
        Rotation axis, pixels.
    epochs : int
        How long it was trained on this scan.
    held_out : HeldOut
        Slices with its answers.
    """
    told = {side: one.told for side, one in zip(("before", "after"), agreements(held_out), strict=True)}
    here = {"scan": job.identity["sha256"], "name": job.scan.name, "held_out": told}
    version = {"version": importlib.metadata.version("quietbeam")}
    applied = is_applied(job.settings, start)
    if applied:
        _, said = load_network(job.workspace.scratch / START)
        provenance = said | {"applied": {"from": start.origin, "to": here} | version}
    else:
        provenance = here | _training(job, start, column, epochs) | version
    write_atomically(job.workspace.output / NETWORK, network_bytes(model, provenance))
    if not applied:
        add_to_registry(job, model, provenance)


def _training(job: Job, start: Start, column: float, epochs: int) -> dict[str, Any]:
    settings = job.settings
    return {
        "conditions": described_conditions(job.scan, settings),
        "axis": column,
        "sections": settings.sections.model_dump(mode="json"),
        "pairs": settings.pairs.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=NOT_COMPUTED_FROM["training"]),
        "start": start.origin,
        "epochs": epochs,
    }
