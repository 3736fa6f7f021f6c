"""What a job may ask for that no person submitted: nothing that opens a path of its choice.

The hook, the watchers and the catch-up take profile and settings out of a run's metadata, which whoever writes a plan,
a document or an entry of a catalogue chooses. The worker runs as another user, who may read more. A person who submits
a run has not read its metadata: they are checked where the submission is made, and the person's own settings are not.

`source` is what the submitter said: whoever may write to the queue or a spool can claim to be a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .profiles import is_path
from .request import Submission

__all__ = ["TRUSTED_SOURCES", "refusal", "refused_settings"]

TRUSTED_SOURCES = frozenset({"console"})
"""Who may ask for all: a person."""
_STAGES = frozenset(
    {
        *("normalize", "outliers", "phase", "stripes", "rotation_axis", "sections", "reconstruction"),
        *("pairs", "network", "training", "inference", "codec", "archive"),
    }
)
_NAMES = frozenset(
    {
        *("scan.no_darks", "scan.angle_lines", "scan.angle_unit", "scan.normalised", "scan.instrument"),
        *("scan.channel", "scan.entry", "scan.detector"),
        *("compute.threads", "compute.chunk_slices", "compute.tile_size"),
    }
)
_PATHS = frozenset({"codec.trained", "archive.decoders"})
"""Settings of these stages that name files."""
_EQUAL_STEPS = re.compile(r"[-+0-9.eE]+:[-+0-9.eE]+")
"""What ``scan.angles`` is where it does not name a file."""


def refusal(submission: Submission) -> str | None:
    """Tell why a job is not done as it was submitted.

    Parameters
    ----------
    submission : Submission
        The job; its `source` is what its submitter said.

    Returns
    -------
    str or None
        The reason, and what to do; None if there is none.
    """
    if submission.source in TRUSTED_SOURCES:
        return None
    asked = f"submitted by {submission.source or 'nobody'}, not by a person:"
    advice = "into the worker's folder of profiles, and name that with quietbeam submit --profile"
    if is_path(submission.profile):
        return (
            f"{asked} only the name of a profile is taken, got the path {submission.profile!r}; put the file {advice}"
        )
    if names := refused_settings(submission.settings):
        return f"{asked} {', '.join(names)} might open any file, and is not taken; put it in a profile {advice}"
    return None


def refused_settings(settings: Mapping[str, object]) -> list[str]:
    """Name the settings that only a person may ask for.

    Parameters
    ----------
    settings : mapping
        ``STAGE.NAME`` -> value.

    Returns
    -------
    list of str
        Names, in the order of `settings`.
    """
    return [name for name, value in settings.items() if not _is_harmless(name, value)]


def _is_harmless(name: str, value: object) -> bool:
    stage, _, rest = name.partition(".")
    if not rest and isinstance(value, Mapping):
        return all(_is_harmless(f"{stage}.{key}", inner) for key, inner in value.items())
    if name in _NAMES or (stage in _STAGES and name not in _PATHS):
        return True
    return name == "scan.angles" and isinstance(value, str) and _EQUAL_STEPS.fullmatch(value) is not None
