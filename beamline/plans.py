"""Plans for tomography scans: step by step, on the fly, interlaced, and at golden angles.

A scan is one run, in which the type of a frame is the name of its stream: ``dark``, ``flat`` and ``primary``. The start
document says under ``tomo`` how it was taken, which is all that the post-scan hook needs. Every plan returns the run's
uid, takes plain values and devices, and so runs in queueserver and blueapi as it stands.
"""

# mypy: disable-error-code="no-untyped-call, type-arg"
# queueserver and blueapi read the annotations as objects, and recognise the protocols when they stand bare; so no
# postponed annotations, and no parameters of generic types. bluesky's preprocessors have no types.

from collections.abc import Sequence
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator

from quietbeam.reconstruction.scan_patterns import golden_scan, interlaced_scan

from .plan_frames import Background, Devices, can_fly, even_turn, flight, prepare, turn_and_take, whole_scan

__all__ = ["tomo_fly_scan", "tomo_golden_scan", "tomo_interlaced_scan", "tomo_step_scan"]

STREAMS = {"projections": "primary", "flat": "flat", "dark": "dark"}


def tomo_step_scan(
    detector: Readable,
    rotation: Movable,
    sample_x: Movable | None = None,
    shutter: Movable | None = None,
    *,
    start: float = 0.0,
    stop: float = 180.0,
    num: int = 181,
    exposure: float | None = None,
    num_darks: int = 10,
    num_flats: int = 10,
    flats: Literal["before", "after", "both"] = "before",
    out_of_beam: float | None = None,
    open_value: bool | int | str = True,
    closed_value: bool | int | str = False,
    angle_unit: Literal["deg", "rad"] | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator:
    """Take projections at equal steps, the stage at rest for each.

    Parameters
    ----------
    detector : Readable
        Any detector that can be triggered and read.
    rotation : Movable
        Rotation stage, read with each projection.
    sample_x : Movable, optional
        Stage that takes the sample out of the beam for the flats.
    shutter : Movable, optional
        Closed for the darks and at the end.
    start, stop : float
        First angle, and the angle after the last step, which is not measured; units of the stage.
    num : int
        Number of projections.
    exposure : float, optional
        Seconds, for a detector that can be prepared; not given: as the detector is set.
    num_darks, num_flats : int
        Frames without beam, and without sample; 0 for none.
    flats : {"before", "after", "both"}
        When flats are taken.
    out_of_beam : float, optional
        Where `sample_x` goes for the flats, in its own units.
    open_value, closed_value : bool, int or str
        What the shutter is set to.
    angle_unit : {"deg", "rad"}, optional
        Unit of the stage, where it does not tell itself: what it says of the angles that it measured is surer.
    md : dict, optional
        More metadata; its keys win, those of its ``tomo`` too: ``{"tomo": {"pixel_size_um": 0.65}}``.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        Before the run is opened and anything moves, if darks, flats or the exposure asked for cannot be had of these
        devices, or the angles are all the same.
    ImportError
        Before anything moves, if ophyd-async is missing and the detector needs it.
    """
    _check_turn(start, stop)
    angles = start + (stop - start) * np.arange(_count(num)) / num
    devices = Devices(detector, rotation, sample_x, shutter, open_value, closed_value)
    background = Background(num_darks, num_flats, flats, out_of_beam)
    tomo = {"mode": "step", "start": start, "stop": stop, "num": num, "exposure": exposure}
    tomo |= _given(angle_unit=angle_unit)
    return (yield from _steps(devices, background, angles.tolist(), tomo, "tomo_step_scan", md))


def tomo_golden_scan(
    detector: Readable,
    rotation: Movable,
    sample_x: Movable | None = None,
    shutter: Movable | None = None,
    *,
    start: float = 0.0,
    turn: float = 180.0,
    num: int = 144,
    exposure: float | None = None,
    num_darks: int = 10,
    num_flats: int = 10,
    flats: Literal["before", "after", "both"] = "before",
    out_of_beam: float | None = None,
    open_value: bool | int | str = True,
    closed_value: bool | int | str = False,
    md: dict[str, Any] | None = None,
) -> MsgGenerator:
    """Take projections at golden angles within one turn: any run of consecutive ones covers it nearly evenly.

    Parameters
    ----------
    start, turn : float
        First angle, and the turn that is covered, in degrees.
    num : int
        Number of projections; 34, 55, 89, 144, ... are covered the most evenly.
    detector, rotation, sample_x, shutter, exposure, num_darks, num_flats, flats, out_of_beam, open_value, \
closed_value, md
        As of `tomo_step_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        As `tomo_step_scan`.
    """
    theta = golden_scan(_count(num), num, turn=np.deg2rad(turn)).theta
    angles = start + np.rad2deg(theta) % turn
    devices = Devices(detector, rotation, sample_x, shutter, open_value, closed_value)
    background = Background(num_darks, num_flats, flats, out_of_beam)
    tomo = {"mode": "golden", "start": start, "turn": turn, "num": num, "exposure": exposure, "angle_unit": "deg"}
    return (yield from _steps(devices, background, angles.tolist(), tomo, "tomo_golden_scan", md))


def tomo_fly_scan(
    detector: Readable,
    rotation: Movable,
    sample_x: Movable | None = None,
    shutter: Movable | None = None,
    *,
    start: float = 0.0,
    stop: float = 180.0,
    num: int = 1800,
    exposure: float = 0.01,
    deadtime: float = 0.0,
    num_darks: int = 10,
    num_flats: int = 10,
    flats: Literal["before", "after", "both"] = "before",
    out_of_beam: float | None = None,
    open_value: bool | int | str = True,
    closed_value: bool | int | str = False,
    angle_unit: Literal["deg", "rad"] | None = None,
    angle_key: str | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator:
    """Take projections while the stage turns evenly; the angles come from what is recorded, not from the plan.

    Parameters
    ----------
    detector : Readable
        An ophyd-async detector, which writes its frames by itself.
    rotation : Movable
        A stage that can be prepared with ophyd-async's `FlyMotorInfo`, and flies.
    start, stop : float
        Angles between which the stage turns evenly; units of the stage.
    num : int
        Number of projections.
    exposure, deadtime : float
        Seconds of a projection, and between two; together they set the speed.
    angle_key : str, optional
        Data key that holds the angles, where its name does not tell.
    sample_x, shutter, num_darks, num_flats, flats, out_of_beam, open_value, closed_value, angle_unit, md
        As of `tomo_step_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        As `tomo_step_scan`.
    TypeError
        If detector or stage cannot fly.
    ImportError
        If ophyd-async is missing.
    """
    devices = Devices(detector, rotation, sample_x, shutter, open_value, closed_value)
    background = Background(num_darks, num_flats, flats, out_of_beam)
    tomo = {"mode": "fly", "start": start, "stop": stop, "num": num, "exposure": exposure}
    tomo |= _given(angle_unit=angle_unit, angle_key=angle_key)
    metadata = _metadata(devices, background, "tomo_fly_scan", tomo, md)
    _check_turn(start, stop)
    turns = [(start, stop)]
    return (yield from _flights(devices, background, turns, num, (exposure, deadtime), metadata))


def tomo_interlaced_scan(
    detector: Readable,
    rotation: Movable,
    sample_x: Movable | None = None,
    shutter: Movable | None = None,
    *,
    start: float = 0.0,
    turn: float = 180.0,
    rotations: int = 4,
    num: int = 450,
    goes_on: bool = False,
    exposure: float = 0.01,
    deadtime: float = 0.0,
    num_darks: int = 10,
    num_flats: int = 10,
    flats: Literal["before", "after", "both"] = "before",
    out_of_beam: float | None = None,
    open_value: bool | int | str = True,
    closed_value: bool | int | str = False,
    angle_key: str | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator:
    """Take few projections in each of several turns, shifted so that together they fill one turn evenly.

    The shifts are fractions of a step in bit-reversed order: after 2, 4, 8, ... turns the angles are evenly spaced. All
    projections go to one stream.

    Parameters
    ----------
    start, turn : float
        First angle, and what one rotation covers, in degrees.
    rotations : int
        Number of turns, a power of two.
    num : int
        Projections in each turn.
    goes_on : bool
        Count the angles on from turn to turn, for a stage without end; else the stage goes back before each.
    detector, rotation, sample_x, shutter, exposure, deadtime, num_darks, num_flats, flats, out_of_beam, open_value, \
closed_value, angle_key, md
        As of `tomo_fly_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If `rotations` is no power of two, and as `tomo_fly_scan`.
    TypeError, ImportError
        As `tomo_fly_scan`.
    """
    begins = _beginnings(num, rotations, turn) - (0 if goes_on else turn * np.arange(rotations))
    offsets = (_beginnings(num, rotations, turn) - turn * np.arange(rotations)).tolist()
    turns = [(float(start + begin), float(start + begin + turn)) for begin in begins]
    devices = Devices(detector, rotation, sample_x, shutter, open_value, closed_value)
    background = Background(num_darks, num_flats, flats, out_of_beam)
    tomo = {"mode": "interlaced", "start": start, "turn": turn, "num": num, "exposure": exposure}
    tomo |= {"angle_unit": "deg", "rotations": rotations, "offsets": offsets} | _given(angle_key=angle_key)
    metadata = _metadata(devices, background, "tomo_interlaced_scan", tomo, md)
    return (yield from _flights(devices, background, turns, num, (exposure, deadtime), metadata))


def _beginnings(num: int, rotations: int, turn: float) -> Any:
    """Angle at which each rotation begins, counted on from rotation to rotation; float64, shape (rotation,)."""
    theta = interlaced_scan(_count(num), rotations, turn=np.deg2rad(turn)).theta
    return np.rad2deg(theta.reshape(rotations, num)[:, 0])


def _count(num: int) -> int:
    if num < 1:
        raise ValueError(f"num must be 1 or more, got {num}")
    return num


def _check_turn(start: float, stop: float) -> None:
    if start == stop:
        raise ValueError(f"start and stop must differ for the sample to turn, got {start} for both")


def _steps(
    devices: Devices,
    background: Background,
    angles: Sequence[float],
    tomo: dict[str, Any],
    plan_name: str,
    md: dict[str, Any] | None,
) -> MsgGenerator:
    exposure = tomo["exposure"]
    fields = _hinted(devices.rotation)
    metadata = _metadata(devices, background, plan_name, tomo | {"angle_key": fields[0]}, md, dimension=fields)

    def projections() -> MsgGenerator:
        yield from prepare(devices.detector, exposure)
        for angle in angles:
            yield from bps.checkpoint()
            yield from bps.mv(devices.rotation, angle)
            yield from bps.trigger_and_read([devices.detector, devices.rotation], name="primary")

    def staged() -> MsgGenerator:
        yield from bpp.stage_wrapper(projections(), [devices.detector, devices.rotation])

    return (yield from whole_scan(devices, background, staged, exposure=exposure, metadata=metadata))


def _flights(
    devices: Devices,
    background: Background,
    turns: Sequence[tuple[float, float]],
    num: int,
    times: tuple[float, float],
    metadata: dict[str, Any],
) -> MsgGenerator:
    """All turns in one stage cycle, which makes one file."""
    _check_flight(devices, _count(num), times)
    detector, rotation = devices.detector, devices.rotation

    def projections() -> MsgGenerator:
        for i, (begin, end) in enumerate(turns):
            yield from bps.prepare(rotation, even_turn(begin, end, num * sum(times)), group="flight")
            yield from bps.prepare(detector, flight(num, *times), group="flight")
            yield from bps.wait(group="flight")
            if i == 0:
                yield from bps.declare_stream(detector, name="primary", collect=True)
            yield from turn_and_take(rotation, detector, "primary")

    def staged() -> MsgGenerator:
        yield from bpp.stage_wrapper(projections(), [detector])

    return (yield from whole_scan(devices, background, staged, exposure=times[0], metadata=metadata))


def _check_flight(devices: Devices, num: int, times: tuple[float, float]) -> None:
    flight(num, times[0])  # says at once if ophyd-async is missing
    for device in (devices.detector, devices.rotation):
        if not can_fly(device):
            raise TypeError(f"{device.name} cannot be prepared and kicked off, which a scan on the fly needs")
    if times[0] <= 0 or times[1] < 0:
        raise ValueError(f"exposure must be positive and deadtime not negative, got {times[0]} and {times[1]} seconds")


def _hinted(device: Any) -> list[str]:
    """Give the data keys that a device hints at as its own, else its name."""
    fields = getattr(device, "hints", {}).get("fields")
    return list(fields or [device.name])


def _given(**told: str | None) -> dict[str, str]:
    return {name: value for name, value in told.items() if value is not None}


def _metadata(
    devices: Devices,
    background: Background,
    plan_name: str,
    tomo: dict[str, Any],
    md: dict[str, Any] | None,
    *,
    dimension: Sequence[str] = ("time",),
) -> dict[str, Any]:
    """Metadata of the run; what the caller gives wins, under ``tomo`` key by key."""
    names = {"detector": devices.detector.name, "rotation": devices.rotation.name}
    frames = {
        "num_projections": tomo["num"] * tomo.get("rotations", 1),
        "num_darks": background.num_darks,
        "num_flats": background.num_flats,
        "flats": background.flats,
    }
    given = md or {}
    return {
        "plan_name": plan_name,
        "detectors": [devices.detector.name],
        "motors": [devices.rotation.name],
        "hints": {"dimensions": [[list(dimension), "primary"]]},
        **given,
        "tomo": {**names, "streams": STREAMS, **frames, **tomo, **given.get("tomo", {})},
    }
