"""The account of a series: one row for each scan, for programs, for spreadsheets and for people.

``index.json`` in the output folder of a series::

    {"format": "quietbeam-series-1",
     "written": "2026-11-22T04:42:39Z",
     "scans": [{...}, ...]}        the fields of `quietbeam.beamline.series.scan_row.ScanRow`, in the order of names

``index.csv`` and ``index.html`` show the same. All three are replaced as wholes, now and then while a series runs, and
at its end. What they hold of a scan that is done stands in that scan's own folder too: an index that was lost is made
anew from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from filelock import FileLock, Timeout

from quietbeam.beamline.atomic import write_atomically
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.workspace import MANIFEST
from quietbeam.reconstruction.errors import ArchiveError, LockedError, ReductionError

from .find_scans import FoundScan
from .found_runs import RUN_FILE
from .pool import Failure
from .scan_row import ScanRow, row_of_result
from .standing import Standing, failure_signature, settings_key, standing_of

__all__ = ["FORMAT", "INDEX", "PAGE", "TABLE", "Ledger", "locked_series", "read_index"]

FORMAT = "quietbeam-series-1"
INDEX, TABLE, PAGE = "index.json", "index.csv", "index.html"
LOCK = ".index.lock"
SECONDS_BETWEEN = 2.0
"""At least so long after the files were written, they are left as they are."""
SHARE = 0.05
"""Of the time that writing the files may take."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class Ledger:
    """The rows of a series, kept on disk.

    Parameters
    ----------
    output : Path
        Folder of the series.
    asked : ReductionSettings, optional
        Settings of the series. A scan that was refused is tried again when they are others; those of the single scan
        may also change by what other scans gave.
    retry_failed, overwrite : bool
        Try again what failed, whatever the reason; `overwrite`, since it may have been an earlier result in the way.
    now : callable
        The clock, seconds of the epoch.

    Attributes
    ----------
    rows : dict of str to ScanRow
        By name. Those of earlier commands are among them.
    refused : dict of str to str
        Scans of which there is a result of other settings, which stays; with what to do.

    Raises
    ------
    ReductionError
        If there is an index that cannot be read.
    """

    def __init__(
        self,
        output: Path,
        asked: ReductionSettings | None = None,
        *,
        retry_failed: bool = False,
        overwrite: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.output, self.asked = output, asked or ReductionSettings()
        self.rows = read_index(output)
        self.refused: dict[str, str] = {}
        self._found: dict[str, FoundScan] = {}
        self._settings: dict[str, ReductionSettings] = {}
        self.overwrite, self._again, self._now = overwrite, retry_failed or overwrite, now
        self._guard = threading.RLock()
        self._timer: threading.Timer | None = None
        self._changed, self._next_write = False, 0.0

    @property
    def names(self) -> dict[str, str]:
        """Source to name, of all scans that were ever met."""
        return {row.source: row.name for row in self.rows.values()}

    def standing(self, found: FoundScan, settings: ReductionSettings) -> Standing:
        """Tell how a scan stands, by a cheap look; nothing is noted.

        Parameters
        ----------
        found : FoundScan
            The scan.
        settings : ReductionSettings
            Of this very scan.

        Returns
        -------
        Standing
            Whether it is to be done, and why.
        """
        row = self.rows.get(found.name)
        folder = self.output / found.name
        return standing_of(
            found, folder, settings, row, asked=self.asked, retry_failed=self._again, overwrite=self.overwrite
        )

    def needs_work(self, found: FoundScan, settings: ReductionSettings) -> bool:
        """Tell whether a scan is to be done; the row of one that has a result is brought up to date.

        Parameters
        ----------
        found, settings
            See `standing`.

        Returns
        -------
        bool
            False if it is done, has a result of other settings, or failed before and nothing has changed.
        """
        standing, row = self.standing(found, settings), self.rows.get(found.name)
        if standing.what == "refused":
            self.refused[found.name] = standing.why
        if standing.what in ("done", "refused") and (row is None or row.state != "done" or row.source != found.source):
            self._put(self._row_of_result(found.name, found.source))
        return standing.what == "to do"

    def waiting(self, found: FoundScan) -> None:
        """Note that a scan is to be done."""
        self._found[found.name] = found
        self._put(ScanRow(found.name, found.source))

    def begin(self, found: FoundScan, settings: ReductionSettings) -> None:
        """Note that a scan is being worked on, with these settings of its own."""
        self._found[found.name], self._settings[found.name] = found, settings
        self._put(ScanRow(found.name, found.source, "running", started=self._now()))

    def progress(self, name: str, stage: str, done: int, total: int) -> None:
        """Note how many slices of a stage of a scan are done."""
        self._put(dataclasses.replace(self.rows[name], stage=stage, stage_done=done, stage_total=total))

    def done(self, name: str) -> None:
        """Note that the result of a scan is whole; the row is read from it."""
        row = self.rows[name]
        self._put(self._row_of_result(name, row.source, started=row.started, finished=self._now()))

    def failed(self, name: str, failure: Failure) -> None:
        """Note that a scan was given up, and with what settings and files; a result of other settings stays."""
        if failure.kind == "refused" and self._keeps_other_result(name):
            return
        row = self.rows[name].failed(failure, self._now())
        if name in self._found and not row.may_pass:
            signature = tuple(failure_signature(self._found[name], self.output / name, self.asked))
            row = dataclasses.replace(row, settings_key=settings_key(self.asked), signature=signature)
        self._put(row)

    def _keeps_other_result(self, name: str) -> bool:
        """Tell whether a scan, begun with settings that were not known before, has a result of others in its place."""
        if name in self._settings and self.standing(self._found[name], self._settings[name]).what == "refused":
            self.needs_work(self._found[name], self._settings[name])
        return name in self.refused

    def refuse(self, found: FoundScan) -> None:
        """Note a scan that was named, and of which there is nothing to open; it is looked for again each time."""
        row = ScanRow(found.name, found.source, started=self._now())
        self._put(row.failed(Failure(found.problem, 3, "refused", may_pass=True), self._now()))

    def flush(self) -> None:
        """Write the files now, if anything has changed."""
        with self._guard:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            if self._changed:
                began = time.monotonic()
                write_index(self.output, self.rows, self._now())
                self._changed = False
                self._next_write = time.monotonic() + max(SECONDS_BETWEEN, (time.monotonic() - began) / SHARE)

    def __enter__(self) -> Ledger:
        """Give the ledger; all is written when the block ends. Nobody else is at work, so that no scan is running."""
        self._stop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what has changed; a scan that was stopped is to be done."""
        self._stop_all()
        self.flush()

    def _stop_all(self) -> None:
        for row in list(self.rows.values()):
            if row.state == "running":
                self._put(dataclasses.replace(row, state="waiting", stage=""))

    def _row_of_result(
        self, name: str, source: str, *, started: float | None = None, finished: float | None = None
    ) -> ScanRow:
        try:
            return row_of_result(self.output / name, name, source, started=started, finished=finished)
        except (ArchiveError, OSError) as error:
            row = ScanRow(name, source, started=started)
            return row.failed(Failure(str(error), ArchiveError.exit_code, "refused", may_pass=True), self._now())

    def _put(self, row: ScanRow) -> None:
        """Take a row over, and write it at once or a little later, with others."""
        with self._guard:
            if self.rows.get(row.name) == row:
                return
            self.rows[row.name], self._changed = row, True
            if self._timer is None:
                left = self._next_write - time.monotonic()
                self._timer = threading.Timer(max(left, 0), self._flush_or_wait)
                self._timer.daemon = True
                self._timer.start()

    def _flush_or_wait(self) -> None:
        """Write; a disk that is full for now keeps no scan from being done, and the end of the block writes again."""
        with contextlib.suppress(OSError):
            self.flush()


@contextmanager
def locked_series(output: Path) -> Iterator[None]:
    """Keep other commands out of the index of a series while the block runs; the lock ends with the process.

    Raises
    ------
    LockedError
        If another command is at work there.
    ReductionError
        If a file is in the way of the folder.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ReductionError(f"{output}: a file is in the way of the output folder; choose another -o") from None
    lock = FileLock(output / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"{output}: another command is at work on this series; wait for it, or choose another -o"
        ) from None
    try:
        yield
    finally:
        lock.release()


def read_index(output: Path) -> dict[str, ScanRow]:
    """Read the rows of a series; where there is no index, from the results that are there.

    Parameters
    ----------
    output : Path
        Folder of the series, which need not be there.

    Returns
    -------
    dict of str to ScanRow
        By name.

    Raises
    ------
    ReductionError
        If there is an index that is none of this format.
    """
    path = output / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT}, got {content['format']!r}")
        rows = ScanRow.list_from_json(content["scans"])
    except FileNotFoundError:
        return _rows_of_results(output)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReductionError(
            f"{path}: cannot be read as the index of a series ({error}); move it away, and it is made anew from the "
            "results beside it"
        ) from error
    return {row.name: row for row in rows}


def _rows_of_results(output: Path) -> dict[str, ScanRow]:
    rows = {}
    for manifest in sorted(output.glob(f"*/{MANIFEST}")):
        try:
            row = row_of_result(manifest.parent, manifest.parent.name, _source_of(manifest))
        except (ArchiveError, OSError, ValueError, KeyError, TypeError):
            continue  # it is told of when its scan is met
        rows[row.name] = row
    return rows


def _source_of(manifest: Path) -> str:
    """Tell what the scan of a result is known by: a run by its reference, which lies beside the manifest."""
    path = Path(json.loads(manifest.read_text())["input"]["path"])
    if path != (manifest.parent / RUN_FILE).resolve():
        return str(path)
    return f"run {json.loads(path.read_text(encoding='utf-8'))['start']['uid']}"


def write_index(output: Path, rows: Mapping[str, ScanRow], now: float) -> None:
    """Write the index of a series, the table and the page, each whole or not at all.

    Parameters
    ----------
    output : Path
        Folder of the series.
    rows : mapping of str to ScanRow
        By name.
    now : float
        Seconds of the epoch.
    """
    from .index_page import render_index
    from .index_table import render_table
    from .thumbnails import thumbnails_of

    ordered = [rows[name] for name in sorted(rows)]
    written = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = {"format": FORMAT, "written": written, "scans": [row.to_json() for row in ordered]}
    # one row a line: large enough to be read by people, and small enough for a thousand scans
    write_atomically(output / INDEX, _as_lines(content).encode("utf-8", "backslashreplace"))
    write_atomically(output / TABLE, render_table(ordered).encode("utf-8", "backslashreplace"))
    page = render_index(
        ordered, title=output.resolve().name, written=written, thumbnails=thumbnails_of(output, ordered)
    )
    write_atomically(output / PAGE, page.encode())


def _as_lines(content: Mapping[str, object]) -> str:
    """Write JSON with a line for each scan."""
    head = json.dumps({key: value for key, value in content.items() if key != "scans"})
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in content["scans"])  # type: ignore[attr-defined]
    return f'{head[:-1]}, "scans": [\n{rows}\n]}}\n'
