"""What a command would do with each scan of a series, told before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quietbeam.beamline.settings import ReductionSettings

from .find_scans import FoundScan
from .ledger import Ledger
from .policy import SeriesPolicy
from .standing import Standing

__all__ = ["PlannedScan", "plan_series"]


@dataclass(frozen=True)
class PlannedScan:
    """A scan, its settings (those of the series where its own are not known yet), and how it stands."""

    found: FoundScan
    settings: ReductionSettings
    standing: Standing


def plan_series(found: Sequence[FoundScan], ledger: Ledger, settings: ReductionSettings) -> list[PlannedScan]:
    """Tell how each scan stands; nothing is written.

    Parameters
    ----------
    found : sequence of FoundScan
        The scans, in their order.
    ledger : Ledger
        What is known of them.
    settings : ReductionSettings
        Of the series.

    Returns
    -------
    list of PlannedScan
        In the same order.
    """
    policy = SeriesPolicy(ledger.output, settings, [one.name for one in found], keep=False)
    planned: dict[str, PlannedScan] = {}
    while len(planned) < len(found):
        before = len(planned)
        for index, one in enumerate(found):
            own = None if one.name in planned else policy.settings_for(index, one.name)
            if own is not None:
                planned[one.name] = PlannedScan(one, own, ledger.standing(one, own))
                _tell(policy, planned[one.name], ledger)
        if len(planned) == before:
            break
    waits = Standing("to do", "waits for the scan that serves the others")
    return [planned.get(one.name) or PlannedScan(one, settings, waits) for one in found]


def _tell(policy: SeriesPolicy, planned: PlannedScan, ledger: Ledger) -> None:
    """Tell the policy how the scan stands, on which the settings of others may depend."""
    name = planned.found.name
    if planned.standing.what == "done":
        policy.finished(name, ledger.output / name)
    elif planned.standing.what in ("failed before", "refused"):
        policy.failed(name)
