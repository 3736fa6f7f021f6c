"""A network that is there already, applied to a scan as it is: when, which one, and what may speak against it."""

from __future__ import annotations

from typing import Any

from quietbeam.noise2inverse.checkpoint import load_network
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.noise2inverse.training import network_for
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import ReductionError

from .job import Job
from .scan import Scan
from .settings import ReductionSettings
from .warm_start import Start, conditions_of, newest_for, registry_of
from .workspace import METRICS, PREVIEW, START

__all__ = [
    "apply_network",
    "check_reuse",
    "described_conditions",
    "doubts_of",
    "is_applied",
]

TRAIN_INSTEAD = "leave training.epochs out to train one"


def is_applied(settings: ReductionSettings, start: Start) -> bool:
    """Tell whether the network of a scan is taken over as it is, and nothing is trained.

    Parameters
    ----------
    settings : ReductionSettings
        All settings.
    start : Start
        What training would begin with.

    Returns
    -------
    bool
        False if one is trained, from whatever start.
    """
    taken = settings.training.reuse == "registry" and start.model is not None
    return settings.training.epochs == 0 or taken


def check_reuse(scan: Scan, settings: ReductionSettings) -> None:
    """Refuse to apply a network where there is none, before anything is computed.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings, which `quietbeam.beamline.warm_start.check_start` accepts.

    Raises
    ------
    ReductionError
        Naming what to set.
    """
    training, given = settings.training, settings.warm_start
    if given.network is not None:
        return
    if given.registry is None:
        _refuse_without_source(settings)
        return
    registry = registry_of(scan, settings)
    if training.epochs == 0 and registry and newest_for(scan, registry, settings)[0] is None:
        raise ReductionError(
            f"{scan.path}: training.epochs=0 applies a network that is there already, and none of another scan with "
            f"these settings is in {registry.folder}: {TRAIN_INSTEAD}"
        )


def apply_network(job: Job, pairs: Pairs, start: Start) -> MSD:
    """Give the network taken over as it is applied to this scan.

    It is the same function of the volume's values as on its own scan: noise of one strength stays noise, whatever the
    sample. Where the unit of the values is another one, or not known, its mean and deviation are those of this scan.

    Parameters
    ----------
    job : Job
        Its scratch folder holds a copy of the network.
    pairs : Pairs
        Of the scan.
    start : Start
        From `quietbeam.beamline.warm_start.choose_start`.

    Returns
    -------
    MSD
        On the CPU, ready to be applied.

    Raises
    ------
    ReductionError
        If there is none any more, or the sections hold what is not finite.
    """
    if start.model is None:
        raise ReductionError(f"{job.scan.path}: the network to apply has gone from the registry: {TRAIN_INSTEAD}")
    _, said = load_network(job.workspace.scratch / START)
    named = job.settings.warm_start.network is not None  # those of a registry lie under their conditions
    job.doubt(doubts_of(said, job) if named else [])
    as_it_is = not named or _has_unit_of(job.scan, said)
    scaled = "" if as_it_is else ", with mean and deviation of this scan: the unit of the values it learned may differ"
    job.decide("training", "none", f"the network is applied as it is{scaled}")
    for name in (METRICS, PREVIEW):  # of an earlier training into this folder
        (job.workspace.output / name).unlink(missing_ok=True)
    try:
        model = network_for(pairs, job.settings.network, start=start.model).eval()
    except ValueError as error:
        raise ReductionError(f"{job.scan.path}: {error}") from error
    if as_it_is:
        model.load_state_dict(start.model.state_dict())
    return model


def doubts_of(said: dict[str, Any], job: Job) -> list[Caveat]:
    """Tell what differs between the conditions under which a network learned and those of this scan.

    Parameters
    ----------
    said : dict
        Provenance of the network.
    job : Job
        Of the scan that it is applied to.

    Returns
    -------
    list of Caveat
        ``network-of-this-scan``, ``network-of-unknown-conditions`` and ``network-of-other-conditions``, or none.
    """
    found = []
    if said.get("scan") == job.identity["sha256"]:
        text = "the network was trained on this very scan: what is held out now may have been trained on"
        found.append(Caveat("network-of-this-scan", text))
    known = said.get("conditions")
    if not isinstance(known, dict):
        text = "the network's file does not tell on what it was trained: whether it suits this scan is not known"
        return [*found, Caveat("network-of-unknown-conditions", text)]
    here = described_conditions(job.scan, job.settings)
    differing = [f"{name}: {known[name]!r} there, {here[name]!r} here" for name in here if _differs(name, known, here)]
    if differing:
        text = f"the network was trained under other conditions: {'; '.join(differing)}"
        found.append(Caveat("network-of-other-conditions", text))
    return found


def described_conditions(scan: Scan, settings: ReductionSettings) -> dict[str, Any]:
    """Tell under which conditions a network of this scan learns, as it is written into its file.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.

    Returns
    -------
    dict
        See `quietbeam.beamline.warm_start.conditions_of`; with ``instrument``.
    """
    return {"instrument": scan.instrument, **conditions_of(scan, settings)}


def _has_unit_of(scan: Scan, said: dict[str, Any]) -> bool:
    """Tell whether a network learned values in the unit of this scan: 1/m, or 1/pixel without a pixel size."""
    known = said.get("conditions")
    return isinstance(known, dict) and (known.get("pixel_size") is None) == (scan.pixel_size is None)


def _differs(name: str, known: dict[str, Any], here: dict[str, Any]) -> bool:
    return name in known and known[name] != here[name]


def _refuse_without_source(settings: ReductionSettings) -> None:
    if settings.training.epochs == 0:
        raise ReductionError(
            "training.epochs=0 applies a network that is there already, and none is given: set "
            f"warm_start.network=FILE or warm_start.registry=FOLDER, or {TRAIN_INSTEAD}"
        )
    if settings.training.reuse == "registry":
        raise ReductionError(
            "training.reuse=registry applies the newest network of a folder, and none is given: set "
            "warm_start.registry=FOLDER, or training.reuse=per-scan"
        )
