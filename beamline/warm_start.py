"""What the training of a scan begins with, chosen once for each job, and what it leaves for later scans."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.msd import MSD
from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import NetworkFileError, ReductionError
from quietbeam.reconstruction.phase import phase_optics

from .atomic import file_sha256, write_atomically
from .job import Job
from .journal import stage_key
from .network_registry import NOT_READ, Found, NetworkRegistry, NetworkSize, named_sha256, read_network
from .scan import Scan, scan_identity
from .settings import ReductionSettings
from .workspace import START

__all__ = [
    "Start",
    "add_to_registry",
    "check_start",
    "choose_start",
    "conditions_of",
    "foresee_start",
    "newest_for",
    "registry_of",
]

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
        If the network named is no network or of another size, or the registry is no folder that can be listed.
    """
    registry, network = settings.warm_start.registry, settings.warm_start.network
    if network is not None:
        named_sha256(settings.warm_start)  # tells at once what cannot be read
        _read_named(network, settings)
    if registry is not None:
        _check_folder(registry)


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
    return NetworkRegistry(root, scan.instrument or "unknown", conditions_of(scan, settings)) if root else None


def conditions_of(scan: Scan, settings: ReductionSettings) -> dict[str, Any]:
    """Tell under which conditions a network learns, as far as weights are exchanged under the same ones only.

    Parameters
    ----------
    scan : Scan
        Its pixel size and what its phase is retrieved with count.
    settings : ReductionSettings
        All settings; those count that change what the network's input and target are.

    Returns
    -------
    dict
        What JSON can hold.
    """
    size, pairs = _size(settings), settings.pairs
    return {
        "channels": [size.in_channels, size.out_channels],
        "network": settings.network.model_dump(mode="json"),
        "context": {"slices": pairs.context_slices, "steps": pairs.context_steps},
        "sections": settings.sections.model_dump(mode="json") | {"pairing": settings.pairs.strategy},
        "filter": settings.reconstruction.filter,
        "phase": _phase_key(scan, settings),
        "pixel_size": None if scan.pixel_size is None else f"{scan.pixel_size:.3g} m",
    }


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
        source, choose = os.path.realpath(registry.folder), partial(_newest, job, registry)
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


def foresee_start(scan: Scan, settings: ReductionSettings) -> tuple[Decision, list[Caveat]]:
    """Tell what training would begin with if it began now; see `newest_for`.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings, which `check_start` accepts.

    Returns
    -------
    Decision
        ``start``.
    list of Caveat
        What would be left out.
    """
    network, registry = settings.warm_start.network, registry_of(scan, settings)
    if network is not None:
        _, said = load_network(network)
        return Decision("start", *_tell_named(network, _name_of(said, network.name))), []
    if registry is None:
        return Decision("start", "random weights", "neither warm_start.registry nor warm_start.network is set"), []
    found, caveats = newest_for(scan, registry, settings)
    return Decision("start", *_tell_newest(registry, found, caveats)), caveats


def newest_for(scan: Scan, registry: NetworkRegistry, settings: ReductionSettings) -> tuple[Found | None, list[Caveat]]:
    """Find the network that this scan would take over now.

    The scan is read, to tell its own networks by its hash, only if the newest network is of a scan of this name.

    Parameters
    ----------
    scan : Scan
        The measurement.
    registry : NetworkRegistry
        From `registry_of`.
    settings : ReductionSettings
        All settings.

    Returns
    -------
    Found or None
        None if there is none.
    list of Caveat
        What was left out.
    """
    found, caveats = registry.newest(_size(settings), but_not_of="")
    if found is not None and found.provenance.get("name") == scan.name:
        return registry.newest(_size(settings), but_not_of=scan_identity(scan)["sha256"])
    return found, caveats


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
        why = "it does not denoise the slices held out, see the warning: no other scan should begin with it"
        job.decide("registry", "network not added", why)
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


def _phase_key(scan: Scan, settings: ReductionSettings) -> dict[str, Any] | None:
    """Tell what the phase filter does to the images; what a scan measures anew each time to three digits."""
    optics = phase_optics(settings.phase, energy=scan.energy, distance=scan.distance, pixel_size=scan.pixel_size)
    if optics is None:
        return None
    measured = {
        "energy": f"{optics.energy:.3g} keV",
        "distance": f"{optics.distance:.3g} m",
        "pixel_size": f"{optics.pixel_size:.3g} m",
    }
    return settings.phase.model_dump(mode="json") | measured


def _check_folder(registry: Path) -> None:
    """Refuse a registry that is there and cannot be listed."""
    try:
        next(registry.iterdir(), None)
    except FileNotFoundError:
        pass  # made when the first network is added
    except NotADirectoryError:
        raise ReductionError(
            f"{registry}: expected a folder, got a file: set warm_start.registry to a folder"
        ) from None
    except OSError as error:
        raise ReductionError(
            f"{registry}: the folder of networks cannot be listed ({error.strerror}): set warm_start.registry to one "
            "that can, or leave it out"
        ) from error


def _read_named(path: Path, settings: ReductionSettings) -> MSD:
    try:
        return read_network(path, _size(settings))
    except NetworkFileError as error:
        raise NetworkFileError(
            f"{error}; warm_start.network takes a network.safetensors of quietbeam: convert that of another program "
            "with `quietbeam convert-network`"
        ) from error


def _is_kept(copy: Path, origin: dict[str, Any] | None) -> bool:
    return origin is None or (copy.is_file() and file_sha256(copy) == origin["sha256"])


def _named(job: Job, path: Path, copy: Path) -> dict[str, Any]:
    if named_sha256(job.settings.warm_start) != job.keys.named_start:
        raise ReductionError(f"{path}: changed while the scan was reduced; run the command again")
    origin = _copy(path.read_bytes(), path.name, copy)
    return _choice(origin, *_tell_named(path, origin["name"]))


def _newest(job: Job, registry: NetworkRegistry, copy: Path) -> dict[str, Any]:
    found, caveats = registry.newest(_size(job.settings), but_not_of=job.keys.scan)
    origin = _copy(found.content, found.path.name, copy) if found else None
    return _choice(origin, *_tell_newest(registry, found, caveats), caveats)


def _choice(
    origin: dict[str, Any] | None, value: str, reason: str, caveats: list[Caveat] | None = None
) -> dict[str, Any]:
    return {"origin": origin, "decision": [value, reason], "caveats": caveats or []}


def _copy(content: bytes, name: str, copy: Path) -> dict[str, Any]:
    """Copy a network file, and tell what it is."""
    write_atomically(copy, content)
    _, said = load_network(copy)
    return {"sha256": file_sha256(copy), "name": _name_of(said, name), "scan": said.get("scan")}


def _name_of(said: dict[str, Any], file_name: str) -> str:
    return f"scan {said['name']}" if said.get("name") else file_name


def _tell_named(path: Path, name: str) -> tuple[str, str]:
    """Say what is named to begin with, and its file."""
    return _with_file(name, path.name), "warm_start.network"


def _tell_newest(registry: NetworkRegistry, found: Found | None, caveats: list[Caveat]) -> tuple[str, str]:
    """Say what was found in a registry, and its file."""
    if found is not None:
        value = _with_file(_name_of(found.provenance, found.path.name), found.path.name)
        return value, f"same instrument and settings, trained {found.provenance['trained'][:10]}"
    if NOT_READ in {caveat.code for caveat in caveats}:
        return "random weights", f"{registry.folder} cannot be read"
    return "random weights", f"no network of another scan with these settings is in {registry.folder}"


def _with_file(name: str, file_name: str) -> str:
    return f"network {name}" if name == file_name else f"network of {name}, {file_name}"
