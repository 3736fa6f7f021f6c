"""The part of the report that says how well a network fits that was taken over from another scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .network_fit import LOST, NetworkFit
from .report import FitSection

__all__ = ["fit_section"]

COLUMNS = ("Squared distance", "Over that before", "Resolution, pixels", "Contrast")
_NOT_KNOWN = "\N{EN DASH}"


def fit_section(fit: NetworkFit) -> FitSection:
    """Put what was measured into sentences and a table.

    Parameters
    ----------
    fit : NetworkFit
        What was measured.

    Returns
    -------
    FitSection
        For `quietbeam.beamline.report.render_report`.
    """
    before, rows = fit.before.told, [("before denoising", _values(fit.before.told, None))]
    rows.append(("denoised by the network taken over", _values(fit.taken_over.told, before)))
    if fit.own:
        rows.append(("denoised by a network of the scan's own", _values(fit.own.told, before)))
    if fit.elsewhere:
        there = fit.elsewhere
        rows.append(("of the scan it learned from, before", _values(there["before"], None)))
        rows.append(("of the scan it learned from, denoised by it", _values(there["after"], there["before"])))
    return FitSection(list(_sentences(fit)), COLUMNS, rows)


def _sentences(fit: NetworkFit) -> Iterator[str]:
    name = fit.origin.get("name", "an unknown scan")
    yield f"The network was taken over from {name} and applied as it is: it was not trained on any slice of this scan."
    yield from _compared(fit) if fit.own else _not_compared(fit)


def _compared(fit: NetworkFit) -> Iterator[str]:
    epochs = len(fit.history)
    if fit.lost is None:
        yield f"A network that this scan trained for {epochs} epochs to compare with does not denoise it."
    elif fit.is_worse:
        loss = f"{_percent(fit.lost)} (± {_percent(fit.uncertainty)})"
        yield f"It loses {loss} of what a network gains that this scan trained for {epochs} epochs."
    else:
        less = f"{_percent(abs(fit.lost))} (± {_percent(fit.uncertainty)}) {'less' if fit.lost > 0 else 'more'}"
        yield (
            f"It fits: it gains {less} than a network that this scan trained for {epochs} epochs; two such networks "
            f"differ by up to {_percent(LOST)}."
        )


def _not_compared(fit: NetworkFit) -> Iterator[str]:
    here = fit.taken_over.distance / fit.before.distance if fit.before.distance else 1.0
    told = f"It brings the squared distance to a section it does not see to {here:.3g} times that before"
    there = fit.elsewhere and _ratio(fit.elsewhere["after"], fit.elsewhere["before"])
    yield f"{told}; on the scan it learned from, to {there:.3g} times." if there else f"{told}."
    yield "With training.compare=true it is held against a network that this scan trains itself."


def _values(told: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[str, ...]:
    ratio = _ratio(told, before) if before else None
    resolution = told["resolution"]
    return (
        _number(told["distance"], ".4g"),
        _number(ratio, ".3g"),
        "every detail" if resolution is None else _number(resolution, ".3g"),
        _number(told["contrast"], ".2f"),
    )


def _ratio(told: Mapping[str, Any], before: Mapping[str, Any]) -> float | None:
    """Give the squared distance over that before; None where the file of a network tells no numbers."""
    above, below = told["distance"], before["distance"]
    known = isinstance(above, (int, float)) and isinstance(below, (int, float)) and below > 0
    return above / below if known else None


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else _NOT_KNOWN


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
