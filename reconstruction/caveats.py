"""What the user must know about a result: decisions taken and doubts kept, as plain values.

Functions on arrays cannot print; they return these, and the shells print them, store them with the output and show
them in the report.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Caveat", "Decision"]


class Caveat(NamedTuple):
    """A doubt about the data or the result.

    Attributes
    ----------
    code : str
        Stable name in kebab case, for example ``saturated-flats``.
    message : str
        One sentence: what was seen, where, and what it may mean.
    """

    code: str
    message: str


class Decision(NamedTuple):
    """A scientific choice that was made for the user.

    Attributes
    ----------
    name : str
        What was decided, for example ``rotation axis``.
    value : str
        The value taken, with its unit.
    reason : str
        Where it comes from.
    """

    name: str
    value: str
    reason: str
