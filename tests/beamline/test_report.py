from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quietbeam.beamline.charts import LIGHT, Chart, Line, draw_chart
from quietbeam.beamline.pictures import block_mean, difference_window, enlarge, find_detail, grey_png, grey_window
from quietbeam.beamline.planes import scale_bar
from quietbeam.beamline.report import (
    HeadlineFigure,
    LossCurve,
    OutputFile,
    Report,
    ResolutionCurve,
    SlicePair,
    StageTime,
    render_report,
)
from quietbeam.reconstruction.caveats import Caveat, Decision

HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 7 * 7 }} Ångström 試料"
VOID = {"meta", "img", "br", "input", "source"}


class Page(HTMLParser):
    """The elements and texts of a page, as a browser would take them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_pair(shape: tuple[int, int] = (64, 80), seed: int = 0) -> SlicePair:
    rng = np.random.default_rng(seed)
    denoised = np.zeros(shape, np.float32)
    denoised[shape[0] // 3 : 2 * shape[0] // 3, shape[1] // 3 :] = 300
    return SlicePair(denoised + rng.normal(scale=100, size=shape).astype(np.float32), denoised, "Slice 1 of 2")


def make_report(name: str = "foam", **changes: Any) -> Report:
    frequency = np.linspace(0, 0.5, 33)
    report = Report(
        title=name,
        source=f"/data/{name}.h5",
        created="2025-11-03 14:22",
        version="0.1.0",
        horizontal=make_pair(),
        vertical=make_pair((40, 80), seed=1),
        unit="1/m",
        pixel_size=0.65e-6,
        figures=[HeadlineFigure(name, "3.1", "µm", name)],
        losses=[LossCurve(name, np.arange(5), np.exp(-np.arange(5.0)), np.exp(-np.arange(5.0)) + 0.1, name)],
        resolution=ResolutionCurve(
            frequency, 1 - 2 * frequency, 1 - frequency, np.full(33, 0.2), resolution_before=2.5, note=name
        ),
        settings={name: {name: name, "none": None, "nested": {"flag": True, "list": (1, 2)}}, "seed": 7},
        decisions=[Decision(name, name, name)],
        caveats=[Caveat("saturated-flats", name)],
        times=[StageTime(name, 61.0), StageTime("write", 0.5)],
        files=[OutputFile(name, 2_500_000, "ab" * 32)],
    )
    return replace(report, **changes)


@pytest.fixture(scope="module")
def full() -> str:
    return render_report(make_report())


def test_equal_reports_give_equal_pages(full: str) -> None:
    assert render_report(make_report()) == full


def test_dates_and_durations_stand_only_in_the_times(full: str) -> None:
    def without_times(html: str) -> str:
        cut, count = re.subn(r'<section id="times">.*?</section>', "", html, flags=re.DOTALL)
        assert count == 1
        return cut

    later = render_report(make_report(created="2031-01-01", times=[StageTime("other", 5.0)]))
    assert later != full
    assert without_times(later) == without_times(full)


def test_every_text_is_escaped() -> None:
    page = Page(render_report(make_report(HOSTILE)))
    assert len(page.named("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert sum(HOSTILE in text for text in page.texts) >= 12


def test_elements_are_closed(full: str) -> None:
    assert Page(full).open == []


@pytest.mark.parametrize("name", ["x" * 5000, "bad \udcff byte", "nul \x00 byte", "", "\u202eright to left"])
def test_any_name_can_be_written_as_utf8(name: str) -> None:
    assert render_report(make_report(name)).encode("utf-8")


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_title_keeps_the_page_whole(name: str) -> None:
    page = Page(render_report(make_report(name, horizontal=None, vertical=None, losses=(), resolution=None)))
    assert page.open == []
    assert len(page.named("h1")) == 1


def test_nothing_is_asked_from_outside(full: str) -> None:
    page = Page(full)
    assert "http:" not in full.replace("http-equiv", "")
    assert "https:" not in full
    assert not page.named("link")
    assert not re.search(r"@import|url\(", full)
    addresses = [a[key] or "" for _, a in page.elements for key in ("src", "srcset", "href") if key in a]
    assert len(addresses) > 10
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)


def test_policy_allows_only_what_the_page_holds(full: str) -> None:
    policy = Page(full).named("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'sha256-" in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_page_is_accessible(full: str) -> None:
    page = Page(full)
    assert page.named("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.named("img"))
    assert full.count("<table>") == full.count("<caption>") > 3
    levels = [int(name[1]) for name, _ in page.elements if name in {"h1", "h2", "h3"}]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    anchors = {link["href"] for link in page.named("a")}
    assert anchors == {"#pictures", "#curves", "#decisions", "#settings", "#files", "#times"}
    assert {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes} >= anchors


def test_every_setting_is_shown_with_its_value(full: str) -> None:
    rows = re.findall(r"<code>([^<]*)</code></th><td>([^<]*)</td>", full)
    assert rows == [
        ("seed", "7"),
        ("foam", "foam"),
        ("none", "not given"),
        ("nested.flag", "true"),
        ("nested.list", "1, 2"),
    ]


def test_figures_are_written_with_units(full: str) -> None:
    for text in ("2.5 MB", "1 min 01 s", "2.5 pixels (1.625 µm) before, not reached after", "10 µm", "1/m", "ab" * 32):
        assert text in full, text


def test_caveats_come_first(full: str) -> None:
    assert "1 warning<" in full
    assert full.index("saturated-flats") < full.index("<nav") < full.index("<img")
    assert "2 warnings<" in render_report(make_report(caveats=[Caveat("a", "b"), Caveat("c", "d")]))


def test_no_caveats_are_said_to_be_none() -> None:
    html = render_report(make_report(caveats=()))
    assert "No warnings" in html
    assert "1 warning<" not in html


def test_empty_report_is_a_page() -> None:
    page = Page(render_report(Report("empty", "nowhere.h5", "", "0.1.0")))
    assert page.open == []
    assert page.named("img") == []
    assert "No warnings" in page.texts


@pytest.mark.parametrize("shape", [(1, 1), (1, 80), (2, 300), (300, 3), (47, 49)])
def test_slices_of_any_shape(shape: tuple[int, int]) -> None:
    page = Page(render_report(make_report(horizontal=make_pair(shape), vertical=None, losses=())))
    assert len([image for image in page.named("img") if "width" in image]) == 5


def test_flat_pictures_carry_no_scale_bar_and_tall_ones_are_narrow() -> None:
    flat = render_report(make_report(horizontal=make_pair((2, 300)), vertical=None))
    assert 'class="bar"' in render_report(make_report(vertical=None))
    assert 'class="bar"' not in flat
    tall = render_report(make_report(horizontal=make_pair((640, 80)), vertical=None))
    assert "max-width: 5.50rem" in tall


@pytest.mark.parametrize("value", [0.0, 5.0, -1e30, np.nan, np.inf])
def test_constant_slices(value: float) -> None:
    flat = np.full((20, 30), value, np.float32)
    html = render_report(make_report(horizontal=SlicePair(flat, flat), vertical=None))
    assert Page(html).open == []


def test_curves_without_usable_values() -> None:
    nothing = np.full(4, np.nan)
    html = render_report(
        make_report(
            losses=[
                LossCurve("nan", np.arange(4), nothing, nothing),
                LossCurve("one", [1], [0.5]),
                LossCurve("none", [], []),
                LossCurve("below zero", [1, 2], [-1.0, 0.0]),
            ],
            resolution=ResolutionCurve(np.linspace(0, 0.5, 4), nothing, nothing, nothing, np.nan, np.nan),
        )
    )
    assert "not reached before, not reached after" in html
    assert html.count("No epoch was recorded.") == 1


def test_slices_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape .* got \(2, 3\) and \(3, 2\)"):
        SlicePair(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))


def test_page_stays_small() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(256, 256)).astype(np.float32)
    pair = SlicePair(noise, noise * 0.5)
    assert len(render_report(make_report(horizontal=pair, vertical=pair))) < 2_000_000


def test_huge_slices_are_made_smaller() -> None:
    pair = make_pair((3000, 4096))
    page = Page(render_report(make_report(horizontal=pair, vertical=None)))
    assert page.named("img")[0]["width"] == "1024"
    assert any("mean of 4 × 4" in text for text in page.texts)


def test_block_mean_keeps_the_mean() -> None:
    image = np.random.default_rng(0).normal(size=(64, 96))
    small, factor = block_mean(image, 24)
    assert (small.shape, factor) == ((16, 24), 4)
    np.testing.assert_allclose(small.mean(), image.mean(), rtol=1e-12)
    np.testing.assert_allclose(small[2, 3], image[8:12, 12:16].mean(), rtol=1e-12)


def test_block_mean_of_a_thin_picture_keeps_its_rows() -> None:
    assert block_mean(np.ones((1, 100)), 10)[0].shape == (1, 10)


def test_detail_is_found_where_the_structure_is() -> None:
    image = np.zeros((200, 300), np.float32)
    image[120:150, 220:260] = np.random.default_rng(0).normal(size=(30, 40))
    box = find_detail(image)
    assert (box.height, box.width) == (50, 50)
    assert 100 <= box.row <= 120
    assert 210 <= box.column <= 220
    np.testing.assert_array_equal(box.cut(image), image[box.row : box.row + 50, box.column : box.column + 50])


def test_window_is_not_decided_by_single_pixels() -> None:
    image = np.random.default_rng(0).uniform(size=(100, 100))
    image[0, :3] = 1e6, np.nan, -np.inf
    low, high = grey_window(image)
    assert 0 <= low < 0.01
    assert 0.99 < high <= 1


def test_difference_window_has_zero_in_the_middle() -> None:
    low, high = difference_window(np.array([[1.0, -3.0, np.nan]]))
    assert -low == high > 2.5


def test_enlarged_pixels_are_whole() -> None:
    np.testing.assert_array_equal(enlarge(np.array([[1.0, 2.0]]), 4), [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_grey_png_shows_the_window() -> None:
    png = grey_png(np.array([[-9.0, 0.0, 1.0, 2.0, 9.0, np.nan]]), (0.0, 2.0))
    with Image.open(BytesIO(png)) as image:
        assert list(image.tobytes()) == [0, 0, 128, 255, 255, 0]
        assert image.info == {}


def test_chart_carries_no_software_name_or_date() -> None:
    png = draw_chart(Chart([Line([0, 1], [0, 1], "a", "noisy")], "x", "y"), LIGHT)
    assert b"tEXt" not in png
    assert b"matplotlib" not in png.lower()


@pytest.mark.parametrize(
    ("columns", "pixel_size", "label"),
    [(512, 0.65e-6, "100 µm"), (100, 1e-6, "20 µm"), (2000, 1e-5, "5 mm"), (10, 1e-9, "2 nm"), (400, 1e-3, "10 cm")],
)
def test_scale_bar_has_a_round_length(columns: int, pixel_size: float, label: str) -> None:
    bar = scale_bar(columns, pixel_size)
    assert bar is not None
    assert bar[1] == label
    assert 10 < bar[0] <= 34


@pytest.mark.parametrize("pixel_size", [None, 0.0, -1.0, np.nan, np.inf])
def test_no_scale_bar_without_a_pixel_size(pixel_size: float | None) -> None:
    assert scale_bar(100, pixel_size) is None


@pytest.mark.browser
def test_browser_opens_the_report_without_a_message(
    full: str,
    tmp_path: Path,
    console_messages: Callable[[Path], list[str]],
    count_pictures: Callable[[Path], tuple[int, int]],
) -> None:
    path = tmp_path / "report.html"
    path.write_text(full, encoding="utf-8")
    assert console_messages(path) == []
    assert count_pictures(path) == (len(Page(full).named("img")), 0)


@pytest.mark.browser
def test_browser_tells_a_bad_page(
    tmp_path: Path, console_messages: Callable[[Path], list[str]], count_pictures: Callable[[Path], tuple[int, int]]
) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<!DOCTYPE html><html><head><meta http-equiv="Content-Security-Policy" content="img-src \'none\'"></head>'
        '<body><img src="data:image/png;base64,AAAA" alt="blocked"><script>missing()</script></body></html>'
    )
    messages = console_messages(path)
    assert len(messages) == 2
    assert any("missing is not defined" in message for message in messages)
    assert any("Content Security Policy" in message for message in messages)
    assert count_pictures(path) == (1, 1)


@pytest.mark.browser
def test_browser_runs_the_script_of_the_report(full: str, tmp_path: Path, open_page: Callable[[Path], Any]) -> None:
    move = 'const r = document.querySelector("input[type=range]"); r.value = 25; r.dispatchEvent(new Event("input"))'
    path = tmp_path / "moved.html"
    path.write_text(
        full.replace("Content-Security-Policy", "x-no-policy").replace("</body>", f"<script>{move}</script></body>"),
        encoding="utf-8",
    )
    assert '<figure style="--cut: 25%;">' in open_page(path).stdout
