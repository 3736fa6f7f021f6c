"""Flats and darks: those that the user gives, and whether they can be right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.bad_frames import Verdict, describe_bad_frames, judge_darks, judge_flats
from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.normalize import BRIGHT, flat_groups, unlit_rows
from quietbeam.reconstruction.outliers import mask_unmeasured

from .hdf5_contents import Hdf5Contents
from .recording import ChosenFrames, FrameStack, Recording, ScanSettings
from .tiff_series import find_tiff_frames, is_tiff

__all__ = ["brightest_row", "check_calibration", "given_frames"]

# Largest counts of detectors of 8, 10, 12, 14 and 16 bits; some files store them as floating point.
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# Open-beam frames whose medians differ by more than this belong to different exposures or a closed shutter.
_UNEVEN = 1.5
# Flats fall in two levels that differ by this share, and by this many standard deviations of those on one level.
_TWO_LEVELS, _APART = 0.02, 6.0
_LEAST_ON_A_LEVEL = 3
_NUM_NAMED = 5


def given_frames(path: Path | None, kind: str) -> FrameStack | None:
    """Find the flats or darks that the user names.

    Parameters
    ----------
    path : Path or None
        TIFF file, folder of TIFF files, or ``file.h5:/inner/path``; without an inner path the file must hold one
        dataset of three dimensions.
    kind : {'flats', 'darks'}
        For messages.

    Returns
    -------
    FrameStack or None
        None if none were given.

    Raises
    ------
    ScanError
        If there are no such frames.
    """
    if path is None:
        return None
    file, colon, inner = str(path).partition(":/")
    found = path if path.exists() else Path(file)
    if not found.exists():
        raise ScanError(f"--{kind} {path}: there is no such file; give a TIFF file, a folder of them, or file.h5:/path")
    if found.is_dir() or is_tiff(found):
        return find_tiff_frames(found)
    contents = Hdf5Contents.of(found, ScanSettings())
    return contents.frames(f"/{inner}" if colon else _only_frames(contents, kind))


def _only_frames(contents: Hdf5Contents, kind: str) -> str:
    names = [name for name in contents.names if len(contents.shape(name) or ()) == 3]
    if len(names) != 1:
        listed = ", ".join(names[:6]) or "none"
        raise ScanError(f"--{kind} {contents.path}: say which frames with {contents.path}:/inner/path; it has {listed}")
    return names[0]


def check_calibration(path: Path, recording: Recording, settings: ScanSettings) -> Recording:
    """Check that flats and darks are there, fit the projections, and differ; leave out those that cannot be used.

    The first, middle and last row of each are read; if none of them is lit, the brightest row instead.

    Parameters
    ----------
    path : Path
        The scan, for messages.
    recording : Recording
        With the flats and darks to use.
    settings : ScanSettings
        What the user told about them.

    Returns
    -------
    Recording
        Without the bad frames, with decisions and caveats added.

    Raises
    ------
    ScanError
        If one is missing or has another shape, if none can be used, or if the flats are not brighter than the darks.
    """
    flats, darks, caveats = recording.flats, recording.darks, []
    missing = [name for name, stack in (("flats", flats), ("darks", darks)) if stack is None]
    if settings.no_darks and missing == ["darks"]:
        missing = []
        caveats.append(Caveat("no-darks", f"{path} has no darks; they are taken to be zero, as told"))
    if missing or flats is None:
        raise ScanError(_missing(path, missing, recording.hint))
    for kind, stack in (("flats", flats), ("darks", darks)):
        if stack is not None:
            _check_shape(path, recording.projections, stack, kind)
    probe = _probe(path, flats, darks)
    recording, bad = _leave_out_bad(path, recording, probe)
    caveats += [*bad, *_check_flats(probe, recording)]
    return replace(
        recording,
        decisions=(*recording.decisions, *_decide(recording, settings)),
        caveats=(*recording.caveats, *caveats),
    )


def _leave_out_bad(path: Path, recording: Recording, probe: _Probe) -> tuple[Recording, list[Caveat]]:
    caveats: list[Caveat] = []
    judged = {
        "flats": (probe.flats, describe_bad_frames("flats", probe.flats)),
        "darks": (probe.darks, describe_bad_frames("darks", probe.darks)),
    }
    for kind, (verdict, told) in judged.items():
        if verdict.bad.all():
            raise ScanError(f"{path}: {told[0].message}, so that none is left; give others with --{kind}")
        caveats += told
    good, positions = np.flatnonzero(~probe.flats.bad), recording.flat_positions
    return (
        replace(
            recording,
            flats=_choose(recording.flats, good),
            darks=_choose(recording.darks, np.flatnonzero(~probe.darks.bad)),
            flat_positions=None if positions is None else positions[good],
        ),
        caveats,
    )


def _choose(stack: FrameStack | None, good: NDArray[np.intp]) -> FrameStack | None:
    return stack if stack is None or len(good) == stack.shape[0] else ChosenFrames(stack, good)


def _missing(path: Path, missing: list[str], hint: str) -> str:
    options = " and ".join(f"--{name}" for name in missing)
    return (
        f"{path} holds no {' and no '.join(missing)}; give them with {options}, or say --normalised if these are line "
        f"integrals already, --set scan.normalised=transmission if only the logarithm is missing{hint}"
    )


def _check_shape(path: Path, projections: FrameStack, frames: FrameStack, kind: str) -> None:
    if frames.shape[1:] != projections.shape[1:]:
        raise ScanError(
            f"{path}: the {kind} ({frames.sources[0].name}) have (row, column) {frames.shape[1:]}, but the projections "
            f"{projections.shape[1:]}; give {kind} of the same camera settings with --{kind}"
        )


class _Probe(NamedTuple):
    """Some rows of flats and darks, what they show, and whether the beam reached them."""

    light: NDArray[np.float32]
    dark: NDArray[np.float32]
    flats: Verdict
    darks: Verdict
    lit: bool


def _probe(path: Path, flats: FrameStack, darks: FrameStack | None) -> _Probe:
    """Judge by the first, middle and last row, or by the brightest one where slits let no light to these."""
    num_rows = flats.shape[1]
    probe = _judge(flats, darks, sorted({0, num_rows // 2, num_rows - 1}))
    if not probe.lit:
        probe = _judge(flats, darks, [brightest_row(flats, darks)])
    finite = [frames[np.isfinite(frames)] for frames in (probe.light, probe.dark)]
    if not probe.lit and all(counts.size for counts in finite):
        light, dark = (float(np.quantile(counts, BRIGHT)) for counts in finite)
        raise ScanError(
            f"{path}: the flats (brightest tenth from {light:g}) are no brighter than the darks ({dark:g}); were they "
            "swapped, or the shutter closed? Give the right ones with --flats and --darks"
        )
    return probe


def _judge(flats: FrameStack, darks: FrameStack | None, rows: list[int]) -> _Probe:
    light = _read_rows(flats, rows)
    dark = np.zeros_like(light[:1]) if darks is None else _read_rows(darks, rows)
    verdicts = judge_flats(light, dark), judge_darks(light, dark)
    good_light, good_dark = light[~verdicts[0].bad], dark[~verdicts[1].bad]
    lit = len(good_light) > 0 and len(good_dark) > 0 and not unlit_rows(good_light, good_dark).all()
    return _Probe(light, dark, *verdicts, lit)


def brightest_row(flats: FrameStack, darks: FrameStack | None) -> int:
    """Find the row that sees the most of the beam, in the `BRIGHT` quantile over its columns.

    Parameters
    ----------
    flats, darks : FrameStack
        The first, middle and last flat and the first dark are read.

    Returns
    -------
    int
        Its number.
    """
    num_flats = flats.shape[0]
    frames = np.unique([0, num_flats // 2, num_flats - 1])
    light = np.nan_to_num(mask_unmeasured(flats.read(frames, slice(None)))).max(axis=0)
    if darks is not None:
        light -= np.nan_to_num(mask_unmeasured(darks.read(np.array([0]), slice(None))[0]))
    return int(np.quantile(light, BRIGHT, axis=1).argmax())


def _read_rows(frames: FrameStack, rows: list[int]) -> NDArray[np.float32]:
    """Read some rows of all frames: float32, shape (frame, row, column)."""
    numbers = np.arange(frames.shape[0])
    return mask_unmeasured(np.concatenate([frames.read(numbers, slice(row, row + 1)) for row in rows], axis=1))


def _check_flats(probe: _Probe, recording: Recording) -> list[Caveat]:
    numbers, flats = np.flatnonzero(~probe.flats.bad), recording.flats
    light = probe.light[numbers]
    whole = flats is not None and flats.dtype.kind in "ui"
    full = (float(np.iinfo(flats.dtype).max),) if flats is not None and whole else _FULL_SCALES
    if light.min() == light.max() and float(light.max()) in full:
        message = (
            f"every flat pixel looked at is {light.max():g}, the detector's full scale: corrected data will be wrong"
        )
        return [Caveat("saturated-flats", message)]
    if light.min() == light.max():
        message = f"every flat pixel looked at is {light.max():g}: is this a measurement, or a stand-in for one?"
        return [Caveat("constant-flats", message)]
    medians = np.nanmedian(light, axis=(1, 2))
    if recording.flat_positions is None or recording.positions is None:
        return _check_levels(medians) or _check_even(medians, numbers)
    groups = flat_groups(recording.flat_positions, recording.positions)
    return [caveat for group in groups for caveat in _check_even(medians[group], numbers[group])][:1]


def _check_even(medians: NDArray[np.float32], numbers: NDArray[np.intp]) -> list[Caveat]:
    """Doubt flats taken one after the other that differ, and name those unlike the others."""
    if medians.max() <= _UNEVEN * medians.min():
        return []
    seen = f"the flats' medians go from {medians.min():g} to {medians.max():g}"
    middle = np.median(medians)
    odd = (medians > _UNEVEN**0.5 * middle) | (medians < middle / _UNEVEN**0.5)
    if 3 * odd.sum() > odd.size:
        return [Caveat("uneven-flats", f"{seen}: did the beam change between them?")]
    named = [f"{number} ({median:g})" for number, median in zip(numbers[odd], medians[odd], strict=True)]
    more = ", ..." if len(named) > _NUM_NAMED else ""
    which = f"{'frame' if len(named) == 1 else 'frames'} {', '.join(named[:_NUM_NAMED])}{more}"
    what_to_do = "try --set normalize.average=median or give other flats with --flats"
    return [Caveat("uneven-flats", f"{seen}, {which} unlike the others ({middle:g}): {what_to_do}")]


def _check_levels(medians: NDArray[np.float32]) -> list[Caveat]:
    """Doubt flats that were, it seems, taken at two times, if these are not known."""
    for first in range(_LEAST_ON_A_LEVEL, len(medians) - _LEAST_ON_A_LEVEL + 1):
        parts = medians[:first], medians[first:]
        before, after = (float(part.mean()) for part in parts)
        step = abs(after - before)
        spread = max(float(part.std(ddof=1)) for part in parts)
        if step > _TWO_LEVELS * max(before, after) and step > _APART * spread:
            message = (
                f"the first {first} flats have {before:.5g} counts, the other {len(medians) - first} {after:.5g}, and "
                "the scan does not tell when they were taken: all are averaged for all projections; give those of one "
                "time with --flats, or a scan that tells the times, such as NXtomo"
            )
            return [Caveat("flat-times-unknown", message)]
    return []


def _decide(recording: Recording, settings: ScanSettings) -> tuple[Decision, ...]:
    given = {"flats": settings.flats, "darks": settings.darks}
    stacks = {"flats": recording.flats, "darks": recording.darks}
    times = {"flats": _times(recording)}
    return tuple(
        Decision(
            kind,
            f"{stack.shape[0]} frames{times.get(kind, '')}" if stack else "zero",
            f"--{kind} {given[kind]}" if given[kind] else "of the scan itself",
        )
        for kind, stack in stacks.items()
    )


def _times(recording: Recording) -> str:
    if recording.flat_positions is None or recording.positions is None:
        return ""
    number = len(flat_groups(recording.flat_positions, recording.positions))
    return f" taken at {number} times" if number > 1 else ""
