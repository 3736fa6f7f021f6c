from __future__ import annotations

import asyncio

import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest

from quietbeam.reconstruction.errors import ScanError

from .bluesky_runs import ANGLES, DATASET, ROUNDING, angles_in, bench, check, codes, decisions, step_scan, take

TIMES = "/entry/instrument/NDAttributes/NDArrayTimeStamp"


@pytest.fixture
def made(tmp_path):
    with bench(tmp_path) as made:
        yield made


class TestAngles:
    def test_numbers_in_another_file(self, made):
        """The encoder's own numbers come before what the stage says in the events."""
        encoder = made.numbers("panda", key="panda-Angle", dataset="/Angle", units="deg")
        scan = made.open(made.run(step_scan(made, [made.detector(), encoder], ANGLES)))
        check(scan)
        assert decisions(scan)["angles of the run"] == "panda-Angle (panda 0.h5:/Angle)"
        assert scan.sources[-1].name == "panda 0.h5"

    def test_named_by_its_dataset_only(self, made):
        encoder = made.numbers("panda", key="panda-1", dataset="/Angle")
        check(made.open(made.run(step_scan(made, [made.detector(), encoder], ANGLES, read_rotation=False))))

    def test_told_key_comes_first(self, made):
        encoder = made.numbers("panda", key="panda-Angle")
        md = {"tomo": {"angle_key": "rotation"}}
        scan = made.open(made.run(step_scan(made, [made.detector(), encoder], ANGLES, md=md)))
        assert decisions(scan)["angles of the run"] == "rotation of the events"
        reference = made.reference()
        reference["start"]["tomo"]["angle_key"] = "roation"
        scan = made.open(reference)
        assert codes(scan) == ["angles-passed-over"]
        assert "the plan says that roation holds the angles" in scan.caveats[0].message

    def test_numbers_of_the_detector_come_first(self, made):
        """What the detector stored with its frames is surer than what another device stored."""
        encoders = [made.numbers(name, key=f"{name}-angle") for name in ("before", "beside")]
        reference = made.run(step_scan(made, [made.detector(), *encoders], ANGLES))
        for stream in reference["streams"]:
            stream["data_keys"]["beside-angle"]["object_name"] = "det"
        assert decisions(made.open(reference))["angles of the run"].startswith("beside-angle (")

    def test_constant_numbers_are_passed_over(self, made):
        dead = made.numbers("encoder", key="encoder-angle", value=zero)
        scan = made.open(made.run(step_scan(made, [made.detector(), dead], ANGLES)))
        check(scan)
        assert codes(scan) == ["angles-passed-over"]
        assert "encoder-angle" in scan.caveats[0].message
        assert "is 0 throughout" in scan.caveats[0].message

    @pytest.mark.parametrize(("unit", "taken"), [("rad", "radian"), ("degrees", "degree")])
    def test_told_unit(self, made, unit, taken):
        """Angles that could be either: 0 to 3.14 of something, which the plan names, as the stage does not."""
        angles = np.linspace(0, 3.0, 12)
        reference = made.run(step_scan(made, [made.detector()], angles, md={"tomo": {"angle_unit": unit}}))
        del reference["streams"][-1]["data_keys"]["rotation"]["units"]
        scan = made.open(reference)
        assert decisions(scan)["angles"].startswith(taken)
        assert "angle-unit-contradicted" not in codes(scan)

    def test_unit_of_the_stage_comes_before_that_of_the_plan(self, made):
        angles = np.linspace(0, 3.0, 12)
        tomo = {"angle_unit": "deg", "start": 0.0, "stop": 180.0}
        reference = made.run(step_scan(made, [made.detector()], angles, md={"tomo": tomo}))
        reference["streams"][-1]["data_keys"]["rotation"]["units"] = "rad"
        scan = made.open(reference)
        np.testing.assert_allclose(scan.theta, angles)
        assert codes(scan) == ["angle-unit-contradicted"]
        assert "in radians by its own description, but the plan says degrees" in scan.caveats[0].message
        assert scan.caveats[0].message.endswith("--set scan.angle_unit=degree")
        del reference["streams"][-1]["columns"]["rotation"]
        np.testing.assert_allclose(np.rad2deg(made.open(reference).theta), ANGLES)

    def test_numbers_missing_at_the_end(self, made):
        encoder = made.numbers("panda", key="panda-angle")
        reference = made.run(step_scan(made, [made.detector(), encoder], ANGLES, read_rotation=False))
        with h5py.File(encoder.files[0], "a") as file:
            file[DATASET].resize(len(file[DATASET]) - 2, axis=0)
        scan = made.open(reference)
        check(scan, ANGLES[:-2])
        assert codes(scan) == ["angles-cut", "missing-wedge"]
        assert f"{len(ANGLES)} frames, but panda-angle" in scan.caveats[0].message
        assert len(scan.positions) == len(ANGLES) - 2

    @pytest.mark.parametrize("epoch", [0.0, 631152000.0])
    def test_monitored_stage(self, made, epoch):
        """One event holds all projections; their times are in the file, on one of the two clocks."""
        reference = made.run(monitored(made, epoch))
        scan = made.open(reference)
        # Half a microsecond, to which a clock counts, of 15 degrees in some milliseconds.
        np.testing.assert_allclose(np.rad2deg(scan.theta), ANGLES, atol=0.01)
        np.testing.assert_array_equal(angles_in(scan), ANGLES)
        assert decisions(scan)["angles of the run"] == f"rotation as monitored, interpolated at {TIMES}"
        monitor = next(stream for stream in reference["streams"] if stream["name"] == "rotation_monitor")
        monitor["times"] = [when - 0.001 for when in monitor["times"][:-1]] + [monitor["times"][-1] + 0.001]
        assert 0 < np.rad2deg(made.open(reference).theta[5]) - ANGLES[5] < 15.0

    def test_frames_after_the_monitor(self, made):
        """Of frames outside of the time that was monitored nobody knows the angle."""
        reference = made.run(monitored(made, 0.0))
        monitor = next(stream for stream in reference["streams"] if stream["name"] == "rotation_monitor")
        for column in (monitor["times"], monitor["seq_nums"], monitor["columns"]["rotation"]):
            del column[-2:]
        scan = made.open(reference)
        np.testing.assert_array_equal(angles_in(scan), ANGLES[:-2])
        assert "angles-cut" in codes(scan)

    def test_monitored_stage_without_times_of_frames(self, made):
        with pytest.raises(ScanError, match="holds no angles; give them with --angles"):
            made.open(made.run(monitored(made, None)))

    def test_planned_angles_come_last(self, made):
        tomo = {"start": 0.0, "stop": 180.0, "num": 14}
        reference = made.run(step_scan(made, [made.detector()], ANGLES, read_rotation=False, md={"tomo": tomo}))
        scan = made.open(reference)
        np.testing.assert_allclose(np.rad2deg(scan.theta), np.arange(12) * 180 / 14)
        assert set(codes(scan)) == {"angles-from-metadata", "frames-missing", "missing-wedge"}
        assert decisions(scan)["angles of the run"] == "the start document"
        reference["start"]["tomo"] |= {"num": 12, "endpoint": True}
        np.testing.assert_allclose(np.rad2deg(made.open(reference).theta), np.linspace(0, 180, 12))

    def test_planned_angles_where_frames_were_lost(self, made):
        """Frames 5 and 6 never came: those behind keep the angles that were planned for them."""
        planned = np.arange(14) * 180 / 14
        taken, md = np.delete(planned, [4, 5]), {"tomo": {"start": 0.0, "stop": 180.0, "num": 14}}
        reference = made.run(step_scan(made, [made.detector()], taken, read_rotation=False, md=md))
        resource = reference["streams"][-1]["resources"][0]
        resource |= {"ranges": [[6, 10, 1], [10, 18, 7]], "positions": [6, 12]}
        scan = made.open(reference)
        np.testing.assert_allclose(np.rad2deg(scan.theta), taken)
        np.testing.assert_allclose(angles_in(scan), taken, atol=ROUNDING)
        del reference["start"]["tomo"]["num"]
        np.testing.assert_allclose(np.rad2deg(made.open(reference).theta), taken)

    def test_planned_angles_of_numbers_that_begin_elsewhere(self, made):
        """Where `seq_num` goes on from darks and flats, it does not tell the place in the plan."""
        md = {"tomo": {"start": 0.0, "stop": 180.0, "num": 12}}
        reference = made.run(step_scan(made, [made.detector()], ANGLES, read_rotation=False, md=md))
        reference["streams"][-1]["resources"][0]["ranges"] = [[6, 18, 7]]
        check(made.open(reference))

    def test_planned_angles_of_many_turns_are_not_used(self, made):
        tomo = {"start": 0.0, "stop": 180.0, "num": 12, "mode": "interlaced", "rotations": 4}
        reference = made.run(step_scan(made, [made.detector()], ANGLES, read_rotation=False, md={"tomo": tomo}))
        with pytest.raises(ScanError, match="holds no angles"):
            made.open(reference)
        np.testing.assert_allclose(np.rad2deg(made.open(reference, angles="0:360").theta), np.arange(12) * 30)


async def zero():
    return 0.0


def monitored(made, epoch):
    """A run whose projections are one event: the stage is moved while the detector takes them, and is monitored."""
    times = []

    async def timed():
        if made.beam.shown == "projection" and times:
            await asyncio.sleep(0.005)
            await made.rotation.set(await made.rotation.get_value() + 15.0)
        times.append((await made.rotation.read())["rotation"]["timestamp"] - (epoch or 0.0))
        return await made.beam.frame()

    def write_times(file):
        if epoch is not None and TIMES not in file:
            file[TIMES] = np.array(times)
        times.clear()

    det = made.detector(per_event=12, events_per_file=1, classic=True, extra=write_times)
    det.value = timed

    @bpp.stage_decorator([det])
    @bpp.monitor_during_decorator([made.rotation])
    @bpp.run_decorator(md={"motors": ["rotation"]})
    def inner():
        yield from take(made.beam, [det], "dark", "dark", 1)
        yield from take(made.beam, [det], "flat", "flat", 1)
        yield from take(made.beam, [det], "projection", "primary", 1)

    return inner()
