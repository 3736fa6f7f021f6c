"""Whether a scan of a series is still to be done: told by a look at names, sizes and times of its files.

Nothing is hashed, and a scan that is one file is not opened, so that a thousand scans take seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quietbeam.beamline.earlier_result import missing_decoder
from quietbeam.beamline.journal import stage_key
from quietbeam.beamline.manifest import read_manifest, what_is_missing
from quietbeam.beamline.scan import file_signature, open_scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.stage_keys import StageKeys
from quietbeam.beamline.workspace import MANIFEST
from quietbeam.reconstruction.errors import ArchiveError, QuietbeamError

from .find_scans import FoundScan, is_there
from .found_runs import stored_run
from .scan_row import ScanRow

__all__ = ["OTHER_SETTINGS", "Standing", "What", "failure_signature", "settings_key", "standing_of"]


OTHER_SETTINGS = "holds a result of other settings; say --overwrite, or choose another -o"
"""Why a scan is refused."""
What = Literal["to do", "done", "failed before", "refused"]
"""How a scan may stand."""


class Standing(NamedTuple):
    """How a scan stands before a command, and why.

    ``to do``: never done, or changed since; ``done``: with these settings, and all files are there; ``failed before``:
    for a reason that lies in the scan or its settings, and nothing has changed; ``refused``: there is a result of other
    settings, which stays.
    """

    what: What
    why: str = ""


def standing_of(
    found: FoundScan,
    output: Path,
    settings: ReductionSettings,
    row: ScanRow | None,
    *,
    asked: ReductionSettings,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Standing:
    """Tell whether a scan is still to be done.

    Parameters
    ----------
    found : FoundScan
        The scan.
    output : Path
        Folder of its results.
    settings : ReductionSettings
        Of this very scan.
    row : ScanRow, optional
        What is known of it.
    asked : ReductionSettings
        Of the series.
    retry_failed : bool
        Try again what failed, whatever the reason.
    overwrite : bool
        Replace a result of other settings.

    Returns
    -------
    Standing
        Of the scan.
    """
    why = _why_not_done(found, output, settings)
    if not why:
        return Standing("done")
    if why == OTHER_SETTINGS and not overwrite:
        return Standing("refused", why)
    if row is None or row.state != "failed":
        return Standing("to do", why)
    if retry_failed:
        return Standing("to do", f"failed before, to be tried again ({row.failure}: {row.reason})")
    if row.may_pass:
        return Standing("to do", f"failed before, for what may have passed ({row.failure}: {row.reason})")
    if row.settings_key != settings_key(asked):
        return Standing("to do", "failed before, with other settings")
    if json.dumps(row.signature) != json.dumps(failure_signature(found, output, asked)):
        return Standing("to do", "failed before, and its files have changed")
    return Standing("failed before", row.reason)


def _why_not_done(found: FoundScan, output: Path, settings: ReductionSettings) -> str:
    """Tell why a scan is not done; empty if it is."""
    if not is_there(output / MANIFEST):
        return "no result yet"
    try:
        manifest = read_manifest(output / MANIFEST)
    except ArchiveError as error:
        return str(error)
    identity = manifest["input"].get("identity")
    if not isinstance(identity, dict) or not isinstance(identity.get("sha256"), str):
        return "the manifest does not tell what was reduced"
    try:
        if manifest["key"] != StageKeys.of(identity["sha256"], settings).result:
            return OTHER_SETTINGS
        if not stored_run(found) or not _is_unchanged(found, manifest, settings):
            return "the files of the scan have changed"
    except (QuietbeamError, OSError) as error:
        return str(error)
    return what_is_missing(output, manifest["files"]) or missing_decoder(output, settings)


def _is_unchanged(found: FoundScan, manifest: dict[str, Any], settings: ReductionSettings) -> bool:
    """Compare names, sizes and times of all files that the result was made of.

    A file that reads the same leads to the same other files, if the settings name no others. Of a folder, files may
    have come to it.
    """
    then = manifest["input"]["identity"].get("signature")
    if not isinstance(then, list) or not then:
        return False
    same_choices = (manifest["settings"].get("scan") or {}) == settings.scan.model_dump(mode="json")
    same_place = manifest["input"].get("path") == str(found.path.resolve())
    if not (same_choices and same_place and found.path.is_file()):
        at_once = settings.scan.model_copy(update={"wait_seconds": 0.0})
        return file_signature(open_scan(found.path, at_once)) == then
    return [_stat(Path(entry[0])) for entry in then] == then


def _stat(path: Path) -> list[str | int]:
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def settings_key(settings: ReductionSettings) -> str:
    """Hash all settings but those of where and with how much is computed."""
    return stage_key("asked", settings.model_dump(mode="json", exclude={"compute"}))


def failure_signature(found: FoundScan, output: Path, settings: ReductionSettings) -> list[Any]:
    """Give what may change so that a scan that was refused is not refused any more: its files, and its output folder.

    Parameters
    ----------
    found : FoundScan
        The scan.
    output : Path
        Folder of its results.
    settings : ReductionSettings
        Of the series; those of the scan's files count.

    Returns
    -------
    list
        What JSON can hold. Of a scan that cannot be opened, name, size and time of change of its file and of the folder
        that this lies in, since a file that it leads to may have been missing.
    """
    manifest = output / MANIFEST
    result = manifest.stat().st_mtime_ns if is_there(manifest) else None
    at_once = settings.scan.model_copy(update={"wait_seconds": 0.0})
    try:
        sources: list[Any] = file_signature(open_scan(found.path, at_once))
    except (QuietbeamError, OSError, ValueError):
        # The folder of a run's reference is that of its results, which changes with every try.
        places = (found.path,) if found.run else (found.path, found.path.parent)
        sources = [_stat(path) if is_there(path) else [str(path)] for path in places]
    return [result, sources]
