"""What the tomography plans share: frames of one type, darks and flats, and what is put back in the end.

The type of a frame is the name of its stream. The detector is staged anew for each type, so that each has a file and a
stream resource of its own: ophyd-async goes on in one file within one stage cycle.
"""

# mypy: disable-error-code="no-untyped-call, type-arg"
# bluesky's preprocessors have no types, and its protocols are known to mean devices of any value.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Locatable, Preparable
from bluesky.utils import Msg, MsgGenerator

__all__ = [
    "Background",
    "Devices",
    "When",
    "can_fly",
    "check_exposure",
    "even_turn",
    "flight",
    "prepare",
    "take_frames",
    "turn_and_take",
    "whole_scan",
]

When = Literal["before", "after", "both"]


@dataclass(frozen=True)
class Devices:
    """The devices of a tomography scan.

    Attributes
    ----------
    detector : Readable
        Takes the frames: an ophyd-async detector, or, for step scans, any that can be triggered and read.
    rotation : Movable
        Turns the sample.
    sample_x : Movable or None
        Moves the sample out of the beam, for flats.
    shutter : Movable or None
        Opens at `open_value` and closes at `closed_value`; darks need one.
    open_value, closed_value : bool, int or str
        What the shutter is set to.
    """

    detector: Any
    rotation: Any
    sample_x: Any = None
    shutter: Any = None
    open_value: bool | int | str = True
    closed_value: bool | int | str = False


@dataclass(frozen=True)
class Background:
    """How many darks and flats are taken, and when.

    Attributes
    ----------
    num_darks, num_flats : int
        Frames without beam, and with beam but without sample, each time.
    flats : {"before", "after", "both"}
        When the flats are taken; darks are taken once, with the first flats.
    out_of_beam : float or None
        Position of `sample_x` at which the beam passes beside the sample, in its units.
    """

    num_darks: int
    num_flats: int
    flats: When
    out_of_beam: float | None

    def check(self, devices: Devices) -> None:
        """Refuse before anything moves what could not be taken.

        Raises
        ------
        ValueError
            If a number is negative, or there are darks without a shutter, or flats without a stage or its position out
            of the beam.
        """
        if self.flats not in ("before", "after", "both"):
            raise ValueError(f"flats must be 'before', 'after' or 'both', got {self.flats!r}")
        if self.num_darks < 0 or self.num_flats < 0:
            raise ValueError(f"num_darks and num_flats must be 0 or more, got {self.num_darks} and {self.num_flats}")
        if self.num_darks and devices.shutter is None:
            raise ValueError(f"{self.num_darks} darks need a shutter: give one, or num_darks=0")
        if self.num_flats and (devices.sample_x is None or self.out_of_beam is None):
            raise ValueError(f"{self.num_flats} flats need sample_x and out_of_beam: give both, or num_flats=0")


def can_fly(device: object) -> bool:
    """Whether a device is prepared, kicked off and then works by itself, as detectors and stages of ophyd-async do."""
    return isinstance(device, Flyable) and isinstance(device, Preparable)


def whole_scan(
    devices: Devices,
    background: Background,
    projections: Callable[[], MsgGenerator],
    *,
    exposure: float | None,
    metadata: dict[str, Any],
) -> MsgGenerator:
    """Make one run of darks, flats and projections.

    In the end, after a failure too, the shutter is closed, whatever it was before, and `sample_x` and the velocity of
    the rotation are set back to what they were, each even if another of these fails. The rotation stays where the last
    projection left it, and the detector keeps its settings.

    Parameters
    ----------
    devices, background
        What is used, and which darks and flats are taken.
    projections : callable
        The plan that takes the projections, with the shutter open and the sample in the beam.
    exposure : float or None
        Seconds of a dark or flat; None leaves the detector as it is set.
    metadata : dict
        Of the run.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        Before anything moves, if darks, flats or the exposure cannot be had of these devices.
    ImportError
        Before anything moves, if ophyd-async is missing and the detector needs it.
    """
    background.check(devices)
    check_exposure(devices.detector, exposure)
    home = yield from _position(devices.sample_x)
    speed = yield from _position(getattr(devices.rotation, "velocity", None))

    def run() -> MsgGenerator:
        first = background.flats != "after"
        if first:
            yield from _darks(devices, background, exposure)
            yield from _flats(devices, background, exposure, home)
        yield from _set_shutter(devices, open_=True)
        yield from projections()
        if background.flats != "before":
            yield from _flats(devices, background, exposure, home)
        if not first:
            yield from _darks(devices, background, exposure)

    def leave() -> MsgGenerator:
        yield from bpp.finalize_wrapper(_set_shutter(devices, open_=False), put_back)

    def put_back() -> MsgGenerator:
        velocity = getattr(devices.rotation, "velocity", None)
        yield from bpp.finalize_wrapper(_restore(devices.sample_x, home), lambda: _restore(velocity, speed))

    return (yield from bpp.finalize_wrapper(bpp.run_wrapper(run(), md=metadata), leave))


def _position(device: Any) -> MsgGenerator:
    """Where a device was sent; read back, where that is all it tells; None in a dry run."""
    if isinstance(device, Locatable):
        location = yield Msg("locate", device)
        return None if location is None else location["setpoint"]
    return None if device is None else (yield from bps.rd(device, default_value=None))


def _restore(device: Any, position: Any) -> MsgGenerator:
    if device is not None and position is not None:
        yield from bps.mv(device, position)


def _set_shutter(devices: Devices, *, open_: bool) -> MsgGenerator:
    if devices.shutter is not None:
        yield from bps.mv(devices.shutter, devices.open_value if open_ else devices.closed_value)


def _darks(devices: Devices, background: Background, exposure: float | None) -> MsgGenerator:
    if background.num_darks:
        yield from _set_shutter(devices, open_=False)
        yield from take_frames(devices.detector, background.num_darks, "dark", exposure)


def _flats(devices: Devices, background: Background, exposure: float | None, home: Any) -> MsgGenerator:
    if background.num_flats:
        yield from _set_shutter(devices, open_=True)
        yield from bps.mv(devices.sample_x, background.out_of_beam)
        yield from take_frames(devices.detector, background.num_flats, "flat", exposure)
        yield from _restore(devices.sample_x, home)


def take_frames(detector: Any, num: int, stream: str, exposure: float | None) -> MsgGenerator:
    """Take frames with nothing moving, into a stream of their own.

    Parameters
    ----------
    detector : Readable
        The detector, staged for these frames alone.
    num : int
        Number of frames.
    stream : str
        Name of the stream.
    exposure : float or None
        Seconds; None leaves the detector as it is set.
    """

    def streamed() -> MsgGenerator:
        yield from bps.prepare(detector, flight(num, exposure), wait=True)
        yield from bps.declare_stream(detector, name=stream, collect=True)
        yield from _collect([], detector, stream)

    def triggered() -> MsgGenerator:
        for _ in range(num):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([detector], name=stream)

    # Nothing moves: after a pause the frames are waited for, not taken again.
    frames = bpp.rewindable_wrapper(streamed(), False) if can_fly(detector) else triggered()
    yield from bpp.stage_wrapper(frames, [detector])


def turn_and_take(rotation: Any, detector: Any, stream: str) -> MsgGenerator:
    """Kick off the rotation, then the detector, and collect until both have come to their end.

    One after the other: a detector that starts along with a stage takes its first frames while that gathers speed.
    A pause ends the run from here on: half a turn cannot be resumed.
    """
    yield from bps.clear_checkpoint()
    yield from bps.kickoff(rotation, wait=True)
    yield from _collect([rotation], detector, stream)


def _collect(turning: list[Any], detector: Any, stream: str) -> MsgGenerator:
    yield from bps.kickoff(detector, wait=True)
    yield from bps.collect_while_completing([*turning, detector], [detector], flush_period=0.5, stream_name=stream)


def prepare(detector: Any, exposure: float | None) -> MsgGenerator:
    """Set the exposure of a detector's single frames, where one is given."""
    if exposure is not None:
        yield from bps.prepare(detector, flight(1, exposure), wait=True)


def check_exposure(detector: Any, exposure: float | None) -> None:
    """Refuse an exposure that a detector could not be given.

    Raises
    ------
    ValueError
        If the detector is of a kind whose exposure is set on the device itself, or the exposure is not positive.
    ImportError
        If ophyd-async is missing or older than these plans need.
    """
    if exposure is not None and not exposure > 0:  # NaN too
        raise ValueError(f"exposure must be positive, got {exposure} seconds")
    if can_fly(detector):
        flight(1, exposure)
    elif exposure is not None:
        raise ValueError(f"set the exposure on {detector.name} itself and give exposure=None, got {exposure}")


def flight(num: int, exposure: float | None, deadtime: float = 0.0) -> Any:
    """Make the `TriggerInfo` of so many frames on the detector's own clock.

    Raises
    ------
    ImportError
        If ophyd-async is missing or older than these plans need.
    """
    return _ophyd_async("TriggerInfo")(number_of_events=num, livetime=exposure or 0.0, deadtime=deadtime)


def even_turn(start: float, stop: float, seconds: float) -> Any:
    """Make the `FlyMotorInfo` of an even turn from `start` to `stop`.

    Raises
    ------
    ImportError
        If ophyd-async is missing or older than these plans need.
    """
    return _ophyd_async("FlyMotorInfo")(start_position=start, end_position=stop, time_for_move=seconds)


def _ophyd_async(name: str) -> Any:
    try:
        import ophyd_async.core

        return getattr(ophyd_async.core, name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"detectors and stages that fly are prepared with {name} of ophyd-async >= 0.21, which this environment "
            "lacks: pip install 'ophyd-async>=0.21', or take a step scan with devices of another kind"
        ) from error
