"""Which settings each scan of a series gets, where one scan's network or codec serves the others.

The first scan is done as it would be alone, and the others wait for it. Which one was first is kept in
``OUT/series.json``, with the order in which scans came, so that the same command gives the same settings again: after
it was stopped, and when scans were added.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.beamline.atomic import file_sha256, write_atomically
from quietbeam.beamline.codec_reuse import codec_settings_for_followers, decoders_of_series
from quietbeam.beamline.journal import stage_key
from quietbeam.beamline.network_registry import WarmStartSettings
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.stage_keys import NOT_COMPUTED_FROM
from quietbeam.beamline.workspace import NETWORK
from quietbeam.reconstruction.errors import ReductionError

__all__ = ["SERIES", "SeriesPolicy", "shares"]

SERIES = "series.json"
"""File in the output folder of a series that tells which scan was first."""
FORMAT = "quietbeam-first-1"
"""What that file says it is."""


class _First(NamedTuple):
    """The scan whose results serve the others: its name, the hash of the settings, that of its network's file."""

    name: str
    settings: str
    network: str


class _Kept(NamedTuple):
    """What ``series.json`` holds: the scans in the order in which they came, and the first that was done."""

    order: tuple[str, ...]
    first: _First | None


class SeriesPolicy:
    """Settings of the scans of one series.

    The one who runs the series asks for each scan's settings, and tells `finished` or `failed` of each scan, also of
    those that need nothing because an earlier command did them, or could not.

    Parameters
    ----------
    output : Path
        Output folder of the series; each scan has the folder of its name in it.
    settings : ReductionSettings
        As the user gave them.
    names : sequence of str
        Scans of this command, in order.
    keep : bool
        Whether the order and the first scan are written down; False to look only.

    Raises
    ------
    ReductionError
        If ``series.json`` is there and cannot be read.
    """

    def __init__(self, output: Path, settings: ReductionSettings, names: Sequence[str], *, keep: bool = True) -> None:
        self.output, self.settings, self.keep = output, decoders_of_series(settings, output), keep
        exclude = {"compute": True, **NOT_COMPUTED_FROM}
        self._key = stage_key("series", settings.model_dump(mode="json", exclude=exclude))
        self._names, self._failed = set(names), set[str]()
        self._kept = _read(output / SERIES)
        self._first = self._kept.first
        self._order = tuple(dict.fromkeys((*self._kept.order, *names)))
        self._rank = {name: rank for rank, name in enumerate(self._order)}
        self._served = self._first is not None and self._first.name not in self._names and self._is_there(self._first)

    def settings_for(self, index: int, name: str) -> ReductionSettings | None:
        """Give the settings of a scan.

        Parameters
        ----------
        index : int
            Its place in this command, which may change; what counts is its place in the series.
        name : str
            Of the scan.

        Returns
        -------
        ReductionSettings or None
            None if it has to wait until another scan is done.
        """
        if not shares(self.settings):
            return self.settings
        if not self._served:
            return self.settings if name == self._candidate() else None
        return self.settings if name == self._leader else self._follower(name)

    def finished(self, name: str, output: Path) -> None:
        """Take note that a scan is done, now or by an earlier command.

        Parameters
        ----------
        name : str
            Of the scan.
        output : Path
            Its output folder.
        """
        if not shares(self.settings):
            return
        if not self._served and name == self._candidate():
            self._first, self._served = _First(name, self._key, file_sha256(output / NETWORK)), True
        if self._served:
            self._write()

    def failed(self, name: str) -> None:
        """Take note that a scan could not be done, now or before; if it was to be the first, the next one is."""
        self._failed.add(name)
        if not self._served and self._first is not None and self._first.name == name:
            self._served = self._is_there(self._first)  # what it left before still serves

    @property
    def _leader(self) -> str | None:
        return self._first.name if self._first else None

    def _candidate(self) -> str | None:
        """Name the scan that is first, or is to be if it can be done."""
        open_names = self._names - self._failed
        if self._leader in open_names:
            return self._leader
        return next((name for name in self._order if name in open_names), None)

    def _follower(self, name: str) -> ReductionSettings:
        first = self.output.absolute() / str(self._leader)
        settings, given = codec_settings_for_followers(self.settings, first), self.settings.training
        if given.reuse == "per-scan":
            return settings
        changes: dict[str, Any] = {"compare": given.compare or self._is_sampled(name)}
        if given.reuse == "registry":
            return settings.model_copy(update={"training": given.model_copy(update=changes)})
        changes |= {"epochs": 0, "compare_epochs": given.compare_epochs or given.epochs or None}
        start = WarmStartSettings(network=first / NETWORK)
        return settings.model_copy(update={"training": given.model_copy(update=changes), "warm_start": start})

    def _is_sampled(self, name: str) -> bool:
        """Tell whether a scan is one of those that are compared, by its place among all that ever followed."""
        every = self.settings.training.compare_every
        place = self._rank[name] - (self._rank[name] > self._rank[str(self._leader)])
        return every is not None and place % every == 0

    def _is_there(self, first: _First) -> bool:
        """Tell whether what the first scan left is there as it was, and was made with these settings."""
        path = self.output / first.name / NETWORK
        return first.settings == self._key and path.is_file() and file_sha256(path) == first.network

    def _write(self) -> None:
        now = _Kept(self._order, self._first)
        if not self.keep or now == self._kept or self._first is None:
            return
        content = {"format": FORMAT, "first": self._first._asdict(), "order": self._order}
        write_atomically(self.output / SERIES, json.dumps(content, indent=1).encode() + b"\n")
        self._kept = now


def shares(settings: ReductionSettings) -> bool:
    """Tell whether a series with these settings waits for its first scan.

    Parameters
    ----------
    settings : ReductionSettings
        As the user gave them.

    Returns
    -------
    bool
        False if each scan is done as it would be alone.
    """
    return "first" in (settings.training.reuse, settings.codec.reuse) or settings.training.reuse == "registry"


def _read(path: Path) -> _Kept:
    """Read the order of the scans, and the first one if there is one."""
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT}, got {content['format']!r}")
        return _Kept(tuple(map(str, content["order"])), _First(**content["first"]))
    except FileNotFoundError:
        return _Kept((), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReductionError(
            f"{path}: cannot be read ({error}): remove it to have the first scan chosen anew, or choose another -o"
        ) from error
