from __future__ import annotations

import json
import shutil

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
import tifffile
from bluesky.utils import RunEngineInterrupted

from quietbeam.beamline.axis_search import find_axis
from quietbeam.beamline.hook_rules import Rules
from quietbeam.beamline.plans import tomo_step_scan
from quietbeam.beamline.runs.local_files import local_file
from quietbeam.beamline.runs.reference import with_dark_flat, write_reference
from quietbeam.beamline.scan import ScanSettings, open_scan, scan_identity
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.sections import split_angles

from .bluesky_runs import ANGLES, DATASET, FLAT, angles_in, bench, check, codes, decisions, step_scan, take
from .end_station import ANGLE, OFFSET
from .jobs import small_settings


@pytest.fixture
def made(tmp_path):
    with bench(tmp_path) as made:
        yield made


class TestFrames:
    def test_one_file_for_all(self, made):
        scan = made.open(made.run(step_scan(made, [made.detector()], ANGLES, flats_after=2)))
        check_flats = scan.flats(slice(0, 1))[:, 0, 0]
        np.testing.assert_array_equal(check_flats, [FLAT] * 5)
        np.testing.assert_array_equal(angles_in(scan), ANGLES)
        assert len(scan.sources) == 2
        np.testing.assert_array_equal(scan.positions, np.arange(6, 18))
        np.testing.assert_array_equal(scan.flat_positions, [3, 4, 5, 18, 19])
        assert decisions(scan)["flats"] == "5 frames taken at 2 times"

    @pytest.mark.parametrize("classic", [False, True])
    @pytest.mark.parametrize("own_dimension", [False, True])
    @pytest.mark.parametrize("per_event", [1, 3, 40])
    def test_dimensions(self, made, classic, own_dimension, per_event):
        det = made.detector(classic=classic, own_dimension=own_dimension, per_event=per_event)
        encoder = made.numbers("encoder", key="encoder-angle", per_event=per_event, own_dimension=own_dimension)
        scan = made.open(made.run(step_scan(made, [det, encoder], ANGLES, read_rotation=False)))
        check(scan, np.repeat(ANGLES, per_event), 3 * per_event)

    @pytest.mark.parametrize("classic", [False, True])
    @pytest.mark.parametrize("per_event", [1, 3])
    def test_many_files(self, made, classic, per_event):
        """Frames and angles change their files at different events."""
        det = made.detector(classic=classic, events_per_file=5, per_event=per_event)
        encoder = made.numbers("encoder", key="encoder-angle", events_per_file=4, per_event=per_event)
        scan = made.open(made.run(step_scan(made, [det, encoder], ANGLES, read_rotation=False)))
        check(scan, np.repeat(ANGLES, per_event), 3 * per_event)
        assert (len(det.files), len(encoder.files)) == (4, 5)
        part = scan.projections(slice(1, 3), slice(3, 9))
        np.testing.assert_array_equal(part, scan.projections(slice(1, 3))[3:9])

    def test_tiff_series(self, made, tmp_path):
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        for stream in reference["streams"]:
            resource = stream["resources"][0]
            folder = tmp_path / "tiffs"
            folder.mkdir(exist_ok=True)
            with h5py.File(local_file(resource["uri"])) as file:
                for number, frame in enumerate(file[DATASET]):
                    tifffile.imwrite(folder / f"scan_{number:06d}.tiff", frame)
            resource |= {"uri": f"file://localhost{folder}/", "mimetype": "multipart/related;type=image/tiff"}
            resource["parameters"] = {"template": "scan_{:06d}.tiff"}
        check(made.open(reference))
        reference["streams"][0]["resources"][0]["parameters"] = {"template": "%s%s_%6.6d.tiff", "filename": "scan"}
        check(made.open(reference))
        (tmp_path / "tiffs" / "scan_000004.tiff").unlink()
        with pytest.raises(ScanError, match=r"scan_000004.tiff is not there; .* should hold 3 TIFF files"):
            made.open(reference)

    def test_unknown_kind(self, made):
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        reference["streams"][-1]["resources"][0]["mimetype"] = "multipart/related;type=image/jpeg"
        with pytest.raises(ScanError, match="image/jpeg cannot be read; expected HDF5"):
            made.open(reference)

    def test_ophyd_async_detector(self, station, tmp_path, record):
        """Its descriptors of flats and projections name the file of the darks as their source."""
        reference = record(station, full_scan(station, ANGLES))
        assert '"source"' not in json.dumps(reference["streams"])
        scan = open_reference(tmp_path, reference)
        np.testing.assert_allclose(np.rad2deg(scan.theta), ANGLES)
        assert scan.flats(slice(None)).mean() > 10 * scan.darks(slice(None)).mean()
        assert scan.num_flats == scan.num_darks == 3
        assert decisions(scan)["angles of the run"].startswith("detector-rotation_angle (")

    def test_paused_run(self, station, tmp_path, record):
        """After a pause the run goes back to a checkpoint: frames 3 and 4 of the file are those taken in vain."""
        reference = record(station, full_scan(station, ANGLES, pause_after=4), resume=True)
        scan = open_reference(tmp_path, reference)
        np.testing.assert_allclose(np.rad2deg(scan.theta), ANGLES)
        with h5py.File(scan.projection_frames.sources[0]) as file:
            assert len(file[DATASET]) == len(ANGLES) + 2
            stored = np.delete(file[DATASET], [3, 4], axis=0)
            np.testing.assert_array_equal(np.delete(file[ANGLE], [3, 4]), ANGLES)
        np.testing.assert_array_equal(scan.projections(slice(None)), stored)

    @pytest.mark.parametrize("classic", [False, True])
    def test_paused_run_with_columns(self, made, classic):
        det = made.detector(classic=classic, events_per_file=9)
        with pytest.raises(RunEngineInterrupted):
            made.run(step_scan(made, [det], ANGLES, pause_after=7))
        made.RE.resume()
        scan = made.open(made.reference())
        check(scan)
        np.testing.assert_array_equal(scan.positions, [*range(6, 12), *range(14, 20)])

    def test_reference_with_repeated_numbers(self, made):
        """One that somebody else wrote may still hold the frames taken in vain: the last of each number counts."""
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        resource = reference["streams"][-1]["resources"][0]
        resource |= {"ranges": [[6, 18, 1], [7, 9, 4]], "positions": [6, 18]}
        np.testing.assert_array_equal(angles_in(made.open(reference)), [0, 15, 30, 15, 30, *ANGLES[5:]])
        del resource["positions"]
        scan = made.open(reference)
        np.testing.assert_array_equal(angles_in(scan), [0, 15, 30, 15, 30, *ANGLES[5:]])
        assert scan.positions is scan.flat_positions is None

    def test_several_detectors(self, made):
        reference = made.run(step_scan(made, [made.detector("left"), made.detector("right")], ANGLES))
        with pytest.raises(
            ScanError, match=r"expected one detector with projections, got left, right; .*scan.detector"
        ):
            made.open(reference)
        with pytest.raises(ScanError, match="named 'centre', got left, right"):
            made.open(reference, detector="centre")
        assert made.open(reference, detector="right").sources[1].name == "right 0.h5"
        reference["start"]["tomo"] = {"detector": "left"}
        assert made.open(reference).sources[1].name == "left 0.h5"

    def test_detectors_with_different_numbers_of_frames(self, made):
        """A detector for looking on takes one frame: the one that the plan names counts, for the queue too."""
        md = {"tomo": {"detector": "right", "num": len(ANGLES)}}
        reference = made.run(step_scan(made, [made.detector("left"), made.detector("right")], ANGLES, md=md))
        left = next(entry for entry in reference["streams"][-1]["resources"] if entry["data_key"] == "left")
        left |= {"ranges": [[6, 7, 1]], "positions": [6]}
        scan = made.open(reference)
        check(scan)
        assert codes(scan) == []
        assert "of 12 projections" not in Rules().submission(reference).name

    def test_numbers_with_a_gap(self, made):
        """Frames 5 and 6 are not in the file: the angles of the others are those of the same event."""
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        reference["streams"][-1]["resources"][0] |= {"ranges": [[6, 10, 1], [12, 18, 7]], "positions": [6, 12]}
        scan = made.open(reference)
        check(scan, np.delete(ANGLES, [4, 5]))
        np.testing.assert_array_equal(scan.positions, [*range(6, 10), *range(12, 18)])

    def test_links_lead_nowhere_else(self, made, tmp_path):
        det = made.detector()
        reference = made.run(step_scan(made, [det], ANGLES))
        away = tmp_path / "elsewhere" / "det.h5"
        away.parent.mkdir()
        shutil.move(det.files[0], away)
        with h5py.File(det.files[0], "w") as file:
            file[DATASET] = h5py.ExternalLink(str(away), DATASET)
        with pytest.raises(ScanError, match="outside of the allowed folders"):
            made.open(reference)
        check(made.open(reference, allowed_link_roots=(away.parent,)))


def full_scan(station, angles, pause_after=None):
    """Step scan of the simulated end station, staged anew for each kind of frame."""
    det, once = station.detector, []

    def frames(stream):
        for _ in range(3):
            yield from bps.trigger_and_read([det], name=stream)

    def projections():
        for number, angle in enumerate(angles):
            if number % 3 == 0:
                yield from bps.checkpoint()
            yield from bps.mv(station.rotation, float(angle))
            yield from bps.trigger_and_read([det, station.rotation], name="primary")
            if number == pause_after and not once:
                once.append(number)
                yield from bps.pause()

    @bpp.run_decorator(md={"motors": ["rotation"]})
    def inner():
        yield from bps.mv(station.shutter.open, False)
        yield from bpp.stage_wrapper(frames("dark"), [det])
        yield from bps.mv(station.shutter.open, True, station.x, 50.0)
        yield from bpp.stage_wrapper(frames("flat"), [det])
        yield from bps.mv(station.x, 0.0)
        yield from bpp.stage_wrapper(projections(), [det])

    return (yield from inner())


@pytest.fixture
def record():
    from quietbeam.beamline.runs.collector import RunCollector

    def run(station, plan, resume=False):
        collector = RunCollector()
        token = station.RE.subscribe(lambda name, document: collector(name, document) and None)
        if resume:
            with pytest.raises(RunEngineInterrupted):
                station.RE(plan)
            station.RE.resume()
        else:
            station.RE(plan)
        station.RE.unsubscribe(token)
        return json.loads(json.dumps(collector.reference))

    return run


def open_reference(folder, reference, **settings):
    write_reference(reference, folder / "run.json")
    return open_scan(folder / "run.json", ScanSettings(**({"wait_seconds": 0.0} | settings)))


class TestDarksAndFlats:
    def test_after_the_projections(self, made):
        """One file, that begins with the projections."""
        det = made.detector()

        @bpp.stage_decorator([det])
        @bpp.run_decorator(md={"motors": ["rotation"]})
        def plan():
            for angle in ANGLES:
                yield from bps.mv(made.rotation, float(angle))
                yield from bps.trigger_and_read([det, made.rotation], name="primary")
            yield from take(made.beam, [det], "flat", "flat", 3)
            yield from take(made.beam, [det], "dark", "dark", 3)

        scan = made.open(made.run(plan()))
        check(scan)
        np.testing.assert_array_equal(scan.positions, np.arange(12))
        np.testing.assert_array_equal(scan.flat_positions, np.arange(12, 15))

    def test_after_the_projections_by_our_plan(self, station, tmp_path, record):
        """A file for each kind."""
        settings = {"num": 12, "exposure": 0.001, "num_darks": 2, "num_flats": 3, "out_of_beam": 20.0}
        moved = (station.detector, station.rotation, station.x, station.shutter)
        scan = open_reference(tmp_path, record(station, tomo_step_scan(*moved, flats="after", **settings)))
        np.testing.assert_allclose(np.rad2deg(scan.theta), ANGLES)
        assert abs(scan.darks(slice(None)).mean() - OFFSET) < 1
        assert scan.projections(slice(None)).mean() < scan.flats(slice(None)).mean()
        np.testing.assert_array_equal(scan.positions, np.arange(12))
        np.testing.assert_array_equal(scan.flat_positions, [12, 13, 14])

    @pytest.fixture
    def two_runs(self, made):
        det = made.detector()

        @bpp.stage_decorator([det])
        @bpp.run_decorator(md={"plan_name": "tomo_dark_flat"})
        def background():
            yield from take(made.beam, [det], "dark", "dark", 3)
            yield from take(made.beam, [det], "flat", "flat", 3)

        other = made.run(background())
        md = {"current_dark_flat_scan_uid": other["start"]["uid"]}
        return made.run(step_scan(made, [det], ANGLES, num=0, md=md)), other

    def test_in_the_reference(self, made, two_runs):
        scan = made.open(with_dark_flat(*two_runs))
        check(scan)
        assert decisions(scan)["flats of another run"] == two_runs[1]["start"]["uid"]
        assert scan.positions is scan.flat_positions is None

    def test_own_ones_come_first(self, made, two_runs):
        scan = made.open(with_dark_flat(made.run(step_scan(made, [made.detector()], ANGLES, num=2)), two_runs[1]))
        check(scan, num=2)
        assert "flats of another run" not in decisions(scan)

    def test_named_by_the_user(self, made, two_runs, tmp_path):
        write_reference(two_runs[1], tmp_path / "background.json")
        scan = made.open(two_runs[0], dark_flat_run=tmp_path / "background.json")
        check(scan)
        assert tmp_path / "background.json" in scan.sources

    def test_missing(self, made, two_runs):
        uid = two_runs[1]["start"]["uid"]
        with pytest.raises(
            ScanError, match=rf"holds no flats and no darks; .*names run {uid} for darks .*dark_flat_run=FILE"
        ):
            made.open(two_runs[0])

    def test_both_in_one_file_of_documents(self, made, two_runs, tmp_path):
        """Documents of both runs, those of the projections first."""
        documents = []
        made.RE.subscribe(lambda name, document: documents.append(json.dumps({"name": name, "doc": document})))
        det = made.detector()
        other = made.run(bpp.stage_wrapper(bpp.run_wrapper(take(made.beam, [det], "flat", "flat", 3)), [det]))
        md = {"tomo": {"dark_flat_uid": other["start"]["uid"]}}
        made.run(step_scan(made, [det], ANGLES, num=0, md=md))
        path = tmp_path / "runs.jsonl"
        path.write_text("\n".join(documents) + "\n")
        scan = open_scan(path, ScanSettings(wait_seconds=0, no_darks=True))
        np.testing.assert_array_equal(scan.flats(slice(0, 1))[:, 0, 0], [FLAT] * 3)


class TestUnfinishedRuns:
    def test_without_stop(self, made):
        """The last documents were lost: the frames behind the last range are counted in the file."""
        encoder = made.numbers("panda", key="panda-angle")
        reference = made.run(step_scan(made, [made.detector(), encoder], ANGLES, num=3, read_rotation=False))
        reference["stop"] = None
        for resource in reference["streams"][-1]["resources"]:
            first, _, seq_num = resource["ranges"][0]
            resource["ranges"] = [[first, first + 4, seq_num]]
        scan = made.open(reference)
        check(scan)
        assert codes(scan) == ["run-without-stop"]
        reference["start"]["tomo"] = {"num": 10}
        check(made.open(reference), ANGLES[:10])

    def test_ended_early(self, made):
        reference = made.run(step_scan(made, [made.detector()], ANGLES, md={"num_projections": 20}))
        reference["stop"] |= {"exit_status": "abort", "reason": "lunch"}
        scan = made.open(reference)
        check(scan)
        assert codes(scan) == ["run-not-finished", "frames-missing"]
        assert scan.caveats[0].message == "the run ended with abort (lunch)"
        assert scan.caveats[1].message.startswith("20 projections were planned, 12 were taken")

    def test_without_projections(self, made):
        det = made.detector()
        reference = made.run(bpp.stage_wrapper(bpp.run_wrapper(take(made.beam, [det], "flat", "flat", 3)), [det]))
        with pytest.raises(ScanError, match="no stream of projections has frames; its streams are flat"):
            made.open(reference)


class TestIdentity:
    def test_written_again(self, made):
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        first = scan_identity(made.open(reference))
        stat = (made.folder / "run.json").stat()
        shuffled = dict(reversed(reference.items()))
        assert scan_identity(made.open(shuffled)) == first
        assert (made.folder / "run.json").stat().st_mtime_ns == stat.st_mtime_ns
        reference["streams"][-1]["resources"][0]["ranges"][0][1] -= 1
        assert scan_identity(made.open(reference))["sha256"] != first["sha256"]


def test_turning_on_and_on(station, tmp_path, record):
    """Four interlaced half turns, 0 to 720 degrees: the axis is found, and sections take turns by direction."""
    shifts = np.array([0, 0.5, 0.25, 0.75])[:, None]
    angles = (180 * np.arange(4)[:, None] + (np.arange(16) + shifts) * 180 / 16).reshape(-1)
    scan = open_reference(tmp_path, record(station, full_scan(station, angles)))
    np.testing.assert_allclose(np.rad2deg(scan.theta), angles)
    axis = find_axis(scan, small_settings())
    assert axis.column == pytest.approx((scan.num_columns - 1) / 2, abs=0.3)
    sections = split_angles(scan.theta, 4)
    # Each section has every fourth direction, from each of the half turns as many.
    for section in sections:
        directions = np.sort(np.rad2deg(scan.theta[section]) % 180)
        np.testing.assert_allclose(np.diff(directions), 180 / 16)


def test_metadata(made):
    tomo = {"pixel_size_um": 1.5, "distance_mm": 40, "rotation_axis_px": 1023.5}
    md = {"tomo": tomo, "energy": 25000.0, "sample_name": "bone", "beamline_id": "27-ID"}
    scan = made.open(made.run(step_scan(made, [made.detector()], ANGLES, md=md)))
    assert (scan.name, scan.instrument) == ("bone", "27-ID")
    assert (scan.pixel_size, scan.distance, scan.energy) == pytest.approx((1.5e-6, 0.04, 25.0))
    assert decisions(scan)["rotation axis of the plan"] == "1023.5"
