import io

import numpy as np
import pytest
from PIL import Image

from quietbeam.beamline.axis_search import search_axis
from quietbeam.beamline.axis_sheet import choose_region, draw_axis_sheet, parse_region, write_axis_sheet
from quietbeam.beamline.pictures import Box, grey_window
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.settings import SettingsError
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.reconstruction.reconstructors import reconstruct

from .jobs import small_scan, small_settings


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def search(scan):
    return search_axis(scan, small_settings(), row=5, columns=np.array([20.125, 24.0, 26.8, 30.5]))


def pictures(figure):
    return [axes for axes in figure.axes if axes.images]


def test_each_picture_is_the_slice_about_the_column_printed_on_it(scan, search):
    """Reconstructed again from the text alone."""
    box = Box(4, 9, 30, 25)
    shown = pictures(draw_axis_sheet(search, box))
    opened = open_scan(scan)
    sinograms = clean_sinograms(opened, slice(5, 6), SinogramSettings())[0]
    assert [axes.get_title(loc="left") for axes in shown] == ["20.125", "24", "26.8", "30.5"]
    for axes in shown:
        image = reconstruct(sinograms, opened.theta, float(axes.get_title(loc="left")))[0]
        np.testing.assert_array_equal(axes.images[0].get_array(), box.cut(image))


def test_all_pictures_have_one_grey_scale(search):
    box = Box(4, 9, 30, 25)
    window = grey_window(np.stack([box.cut(image) for image in search.sweep.slices]))
    assert {axes.images[0].get_clim() for axes in pictures(draw_axis_sheet(search, box))} == {window}


def test_found_and_sharpest_are_marked(search):
    words = [axes.get_title(loc="right") for axes in pictures(draw_axis_sheet(search))]
    nearest = int(np.abs(search.sweep.columns - search.axis.column).argmin())
    sharpest = int(np.argmax(search.sweep.sharpness))
    assert "found" in words[nearest]
    middle = search._replace(axis=search.axis._replace(method="middle"))
    assert "middle" in pictures(draw_axis_sheet(middle))[nearest].get_title(loc="right")
    assert "sharpest" in words[sharpest]
    assert sum(map(bool, words)) == len({nearest, sharpest})


def test_the_title_names_the_scan_the_row_and_the_part(search):
    title = draw_axis_sheet(search, Box(4, 9, 30, 25)).get_suptitle()
    assert search.scan.name in title
    assert "detector row 5, part [4:34, 9:34]" in title


def test_the_region_has_structure_and_lies_within_the_field_of_view(search):
    box = choose_region(search.sweep)
    assert 0 <= box.row < box.row + box.height <= 48
    assert 0 <= box.column < box.column + box.width <= 48
    wide = search.sweep._replace(slices=np.zeros((4, 400, 400), np.float32), sharpness=np.array([0, 0, 1, 0]))
    wide.slices[2, 230:250, 120:140] = 1
    wide.slices[:, 0] = 9  # the rim
    box = choose_region(wide)
    assert box.height == box.width == 134
    assert (box.row, box.column) <= (230, 120)
    assert box.row + box.height >= 250
    assert box.column + box.width >= 140


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_any_number_of_pictures_makes_a_sheet(search, count):
    sweep = search.sweep
    many = sweep._replace(
        columns=20 + 0.25 * np.arange(count),
        slices=np.repeat(sweep.slices[:1], count, axis=0),
        sharpness=np.ones(count),
    )
    figure = draw_axis_sheet(search._replace(sweep=many))
    assert len(pictures(figure)) == count
    width, height = figure.get_size_inches()
    assert width * height < 300


def test_a_sheet_is_a_png_and_replaces_the_one_before(search, tmp_path):
    path = tmp_path / "sheet.png"
    path.write_text("old")
    write_axis_sheet(path, search)
    first = path.read_bytes()
    with Image.open(io.BytesIO(first)) as image:
        assert image.width > 600
    write_axis_sheet(path, search)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_region_is_read():
    assert parse_region("200:300, 150:260") == Box(200, 150, 100, 110)


@pytest.mark.parametrize("text", ["", "1:2", "5:5,1:2", "1:2,3:2", "a:b,c:d", "1:2,3:4,5:6"])
def test_region_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match=r"--region expects ROW:STOP,COLUMN:STOP, for example 200:300,150:250"):
        parse_region(text)


def test_region_outside_of_the_slice_is_refused(search):
    with pytest.raises(SettingsError, match=r"the part \[30:60, 0:10\] does not lie in the slice of 48 x 48 pixels"):
        draw_axis_sheet(search, Box(30, 0, 30, 10))
