"""What the training of a scan begins with, chosen once for each job, and what it leaves for later scans."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import ReductionError

from .atomic import file_sha256, write_atomically
from .job import Job
from .journal import stage_key
from .network_registry import NetworkRegistry, NetworkSize, named_sha256, read_network
from .scan import Scan
from .settings import ReductionSettings
from .workspace import START

__all__ = ["Start", "add_to_registry", "check_start", "choose_start", "registry_of"]

NO_HELP = "denoising-does-not-help"
"""Caveat under which a network is no start for others."""


class Start(NamedTuple):
    """What training begins with.

    Attributes
    ----------
    model : MSD or None
        A trained network; None begins with random weights.
    origin : dict or None
        ``sha256`` of its file, and ``name`` and ``scan`` (hash) of what it learned from.
    """

    model: MSD | None
    origin: dict[str, Any] | None

    @property
    def sha256(self) -> str | None:
        """What the training depends on."""
        return self.origin["sha256"] if self.origin else None


def check_start(settings: ReductionSettings) -> None:
    """Refuse a start that cannot be used, before anything is computed.

    Parameters
    ----------
    settings : ReductionSettings
        All settings.

    Raises
    ------
    ReductionError
        If the network named is no network or of another size, or the registry is no folder.
    """
    registry, network = settings.warm_start.registry, settings.warm_start.network
    if network is not None:
        named_sha256(settings.warm_start)  # tells at once what cannot be read
        read_network(network, _size(settings))
    if registry is not None and registry.exists() and not registry.is_dir():
        raise ReductionError(f"{registry}: expected a folder, got a file: set warm_start.registry to a folder")


def registry_of(scan: Scan, settings: ReductionSettings) -> NetworkRegistry | None:
    """Find the networks whose weights this scan's training can begin with.

    Parameters
    ----------
    scan : Scan
        Its instrument and pixel size count.
    settings : ReductionSettings
        All settings; those count that change what the network's input and target are.

    Returns
    -------
    NetworkRegistry or None
        None if no registry is set.
    """
    root = settings.warm_start.registry
    if root is None:
        return None
    size, pairs = _size(settings), settings.pairs
    key = {
        "channels": [size.in_channels, size.out_channels],
        "network": settings.network.model_dump(mode="json"),
        "context": {"slices": pairs.context_slices, "steps": pairs.context_steps},
        "sections": settings.sections.model_dump(mode="json") | {"pairing": settings.pairs.strategy},
        "filter": settings.reconstruction.filter,
        "delta_beta": settings.phase.delta_beta,
        "pixel_size": None if scan.pixel_size is None else f"{scan.pixel_size:.3g} m",
    }
    return NetworkRegistry(root, scan.instrument or "unknown", key)


def choose_start(job: Job) -> Start:
    """Choose what training begins with; a job that is taken up again begins with the same, whatever came meanwhile.

    Parameters
    ----------
    job : Job
        The choice and the network's bytes are kept in its scratch folder.

    Returns
    -------
    Start
        The network named, or the newest of the registry, or nothing.

    Raises
    ------
    ReductionError
        If the network named was changed since the job began.
    """
    network, registry = job.settings.warm_start.network, registry_of(job.scan, job.settings)
    if network is not None:
        source, choose = job.keys.named_start, partial(_named, job, network)
    elif registry is not None:
        source, choose = str(registry.folder.resolve()), partial(_newest, job, registry)
    else:
        return Start(None, None)
    record = job.workspace.record("start", stage_key("start", job.keys.scan, source))
    copy, chosen = job.workspace.scratch / START, record.load()
    if chosen is None or not _is_kept(copy, chosen["origin"]):
        chosen = record.store(choose(copy))
    job.doubt(Caveat(*caveat) for caveat in chosen["caveats"])
    job.decide("start", *chosen["decision"])
    origin = chosen["origin"]
    return Start(read_network(copy, _size(job.settings)) if origin else None, origin)


def add_to_registry(job: Job, model: MSD, provenance: dict[str, Any]) -> None:
    """Leave a trained network for later scans, if there is a registry and the network denoises.

    Parameters
    ----------
    job : Job
        What cannot be written is told as a caveat.
    model : MSD
        The network.
    provenance : dict
        As in the network file of the result, with ``scan``.
    """
    registry = registry_of(job.scan, job.settings)
    if registry is None:
        return
    path = registry.path(job.scan.name, job.identity["sha256"])
    if NO_HELP in {caveat.code for caveat in job.caveats}:
        job.decide("registry", "network not added", f"a start for nobody: {NO_HELP}")
        return
    said = {"name": job.scan.name, "trained": datetime.now(UTC).isoformat(timespec="microseconds")}
    try:
        registry.store(path, network_bytes(model, provenance | said))
    except OSError as error:
        job.doubt([Caveat("registry-not-written", f"{path}: the network was not added ({error.strerror})")])
    else:
        job.decide("registry", f"network added as {path.name}", f"a start for later scans, in {registry.folder}")


def _size(settings: ReductionSettings) -> NetworkSize:
    """Size of the network of a scan: one channel with its context."""
    pairs = settings.pairs
    return NetworkSize((2 * pairs.context_slices + 1) * (2 * pairs.context_steps + 1), 1, settings.network)


def _is_kept(copy: Path, origin: dict[str, Any] | None) -> bool:
    return origin is None or (copy.is_file() and file_sha256(copy) == origin["sha256"])


def _named(job: Job, path: Path, copy: Path) -> dict[str, Any]:
    if named_sha256(job.settings.warm_start) != job.keys.named_start:
        raise ReductionError(f"{path}: changed while the scan was reduced; run the command again")
    origin = _copy(path.read_bytes(), path.name, copy)
    return _choice(origin, f"network of {origin['name']}", "warm_start.network")


def _newest(job: Job, registry: NetworkRegistry, copy: Path) -> dict[str, Any]:
    found, caveats = registry.newest(_size(job.settings), but_not_of=job.keys.scan)
    if found is None:
        why = f"no network of another scan with these settings is in {registry.folder}"
        return _choice(None, "random weights", why, caveats)
    day = found.provenance["trained"][:10]
    origin = _copy(found.content, found.path.name, copy)
    return _choice(origin, f"network of {origin['name']}", f"same instrument and settings, trained {day}", caveats)


def _choice(
    origin: dict[str, Any] | None, value: str, reason: str, caveats: list[Caveat] | None = None
) -> dict[str, Any]:
    return {"origin": origin, "decision": [value, reason], "caveats": caveats or []}


def _copy(content: bytes, name: str, copy: Path) -> dict[str, Any]:
    """Copy a network file, and tell what it is."""
    write_atomically(copy, content)
    _, said = load_network(copy)
    name = f"scan {said['name']}" if said.get("name") else name
    return {"sha256": file_sha256(copy), "name": name, "scan": said.get("scan")}
