import h5py
import numpy as np
import pytest
from rich.console import Console

from quietbeam.beamline.axis_search import describe_search, find_axis, parse_columns, search_axis
from quietbeam.beamline.geometry import choose_geometry
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.settings import SettingsError
from quietbeam.reconstruction.errors import ScanError

from .jobs import answer, command, run, small_scan, small_settings

AXIS = 23.5 + 3.3
"""Column of the small scan's axis: the middle, and the simulation's offset."""
AXIS_TOLERANCE = 0.5
"""Pixels."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


def text_of(search):
    console = Console(width=120, markup=False, highlight=False)
    with console.capture() as capture:
        for part in describe_search(search):
            console.print(part)
    return capture.get()


def test_the_axis_is_found_and_swept_about(scan):
    search = search_axis(scan, small_settings())
    assert search.axis.column == pytest.approx(AXIS, abs=AXIS_TOLERANCE)
    assert search.axis == find_axis(open_scan(scan), small_settings())
    assert search.sweep.columns[10] == round(search.axis.column, 2)
    np.testing.assert_allclose(search.sweep.columns[[0, -1]] - search.sweep.columns[10], [-5, 5])
    assert search.sweep.slices.shape == (21, 48, 48)
    assert search.row == 8


@pytest.mark.parametrize("asked", [None, False, True])
def test_the_sweep_is_as_wide_as_the_reduction(asked, tmp_path):
    path = small_scan(tmp_path / "half.h5", half_acquisition=True, angle_range=360, axis_offset=-7, num_angles=96)
    settings = small_settings(reconstruction__half_acquisition=asked)
    search = search_axis(path, settings)
    axis = search.axis
    assert axis.sees_beyond
    assert axis.column == pytest.approx(16.5, abs=AXIS_TOLERANCE)
    wide = [
        choose_geometry(search.scan, float(column), settings, sees_beyond=axis.sees_beyond).slice_size
        for column in search.sweep.columns
    ]
    assert search.sweep.slices.shape[1] == min(wide)
    assert (min(wide) > 48) is (asked is not False)


def test_an_empty_row_is_swept_as_it_is_reduced(tmp_path):
    """Its own line integrals do not tell that the sample is wider than the near side."""
    path = small_scan(tmp_path / "half.h5", half_acquisition=True, angle_range=360, axis_offset=-6.5, num_angles=96)
    with h5py.File(path, "r+") as file:
        file["exchange/data"][:, 2] = file["exchange/data_white"][:, 2].mean(axis=0)
    search = search_axis(path, small_settings(), row=2)
    assert search.axis.sees_beyond
    assert search.sweep.slices.shape[1] > 48
    elsewhere = search_axis(path, small_settings(), row=2, columns=np.array([18.0]))
    assert elsewhere.sweep.slices.shape[1] == 48


def test_a_sweep_ends_at_the_detector(scan):
    search = search_axis(scan, small_settings(rotation_axis__column=45))
    assert search.sweep.columns[[0, -1]].tolist() == [40, 47]


def test_row_and_columns_can_be_chosen(scan):
    search = search_axis(scan, small_settings(), row=3, columns=np.array([20.0, 25.0]))
    assert (search.row, search.sweep.columns.tolist()) == (3, [20, 25])
    with pytest.raises(ScanError, match=r"scan.h5: the row to sweep must lie in \[0, 16\), got 16"):
        search_axis(scan, small_settings(), row=16)
    with pytest.raises(ScanError, match=r"columns to sweep must lie in \[0, 47\], got 40 to 48"):
        search_axis(scan, small_settings(), columns=np.array([40.0, 48.0]))


def test_all_answers_are_told(scan):
    search = search_axis(scan, small_settings(rotation_axis__column=20))
    text = text_of(search)
    for name, (column, score) in search.axis.candidates.items():
        assert f"{name} " in text
        assert f"{column:.2f}" in text
        assert f"{score:.3f}" in text
    assert "given" in text
    assert "--set rotation_axis.column=20.00" in text
    assert "warning [axis-methods-disagree]: " in text


def test_a_sharpest_slice_elsewhere_is_not_offered(scan):
    search = search_axis(scan, small_settings(), columns=np.arange(AXIS - 5, AXIS + 6, 0.5))
    far = search._replace(axis=search.axis._replace(column=search.sweep.best + 4.6, spread=0.3))
    assert "(sharpest slice)" in text_of(search)
    assert "(sharpest slice)" not in text_of(far)
    assert "the sharpest slice disagrees by 4.6 px" in text_of(far)


def test_phase_retrieval_does_not_move_the_axis(scan):
    phase = small_settings(phase__delta_beta=200, phase__energy=20, phase__distance=0.1)
    assert find_axis(open_scan(scan, phase.scan), phase) == find_axis(open_scan(scan), small_settings())


def test_a_sharpest_slice_at_the_end_is_none(scan):
    search = search_axis(scan, small_settings(), columns=np.arange(AXIS + 1, AXIS + 6))
    text = text_of(search)
    assert "not within" in text
    assert "(sharpest slice)" not in text


@pytest.mark.parametrize(
    ("text", "columns"),
    [("290:292:0.5", [290, 290.5, 291, 291.5]), ("0:1:.25", [0, 0.25, 0.5, 0.75]), ("7:8:3", [7])],
)
def test_columns_are_read(text, columns):
    assert parse_columns(text).tolist() == columns


def test_no_step_is_lost_to_rounding():
    assert parse_columns("10.1:10.7:0.1").tolist() == [10.1, 10.2, 10.3, 10.4, 10.5, 10.6]


@pytest.mark.parametrize("text", ["", "5", "5:6", "6:5:1", "5:6:0", "5:6:0.0001", "a:b:c", "-1:5:1", "5:6:1:1"])
def test_columns_that_are_no_range_are_refused(text):
    with pytest.raises(SettingsError, match=r"--columns expects START:STOP:STEP in pixels, for example 290:302:0.5"):
        parse_columns(text)


def test_too_many_pictures_are_refused():
    assert parse_columns("0:12:0.1").size == 120
    with pytest.raises(SettingsError, match=r"--columns 0:12.1:0.1 makes 121 pictures, at most 120 fit: widen"):
        parse_columns("0:12.1:0.1")


def test_the_command_writes_the_sheet_and_says_what_to_set(scan, tmp_path):
    done = run(command("axis", scan, "--set", "reconstruction.filter=hann"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scan_axis.png").read_bytes().startswith(b"\x89PNG")
    column = done.stdout.split("--set rotation_axis.column=")[1].split()[0]
    assert float(column) == pytest.approx(AXIS, abs=AXIS_TOLERANCE)
    assert "pictures: scan_axis.png" in done.stdout
    options = ("--row", "2", "--columns", "24:30:1", "--region", "0:30,10:40", "-o", tmp_path / "sheet.png")
    done = answer("axis", scan, *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("-o", "sheet.jpg"), 2, "--output expects a name that ends in .png, got sheet.jpg"),
        (("-o", "nowhere/sheet.png"), 2, "--output nowhere/sheet.png: the folder nowhere is not there, or cannot be"),
        (("--columns", "5"), 2, "--columns expects START:STOP:STEP"),
        (("--columns", "40:60:5"), 3, "columns to sweep must lie in [0, 47]"),
        (("--row", "99"), 3, "the row to sweep must lie in [0, 16), got 99"),
        (("--region", "5"), 2, "--region expects ROW:STOP,COLUMN:STOP"),
        (("--region", "0:30,30:60"), 2, "the part [0:30, 30:60] does not lie in the slice of 48 x 48 pixels"),
    ],
)
def test_the_command_refuses_what_does_not_fit(scan, tmp_path, options, code, message):
    done = answer("axis", scan, "-o", tmp_path / "sheet.png", *options)
    assert done.returncode == code
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
