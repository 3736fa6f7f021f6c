from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quietbeam.beamline.pictures import data_url, grey_png
from quietbeam.beamline.series.index_page import render_index
from quietbeam.beamline.series.scan_row import ScanRow
from quietbeam.beamline.series.thumbnails import draw_thumbnail, thumbnails_of
from quietbeam.reconstruction.errors import ArchiveError

from .finished_result import finished_result, write_volume_archive
from .test_report import HOSTILE, Page

DONE = ScanRow(
    "b10",
    "/data/b10.h5",
    "done",
    started=1.7e9,
    finished=1.7e9 + 100,
    seconds=90.0,
    shape=(16, 48, 48),
    raw_bytes=2_000_000,
    volume_bytes=147_456,
    archive_bytes=12_288,
    bits_per_voxel=2.5,
    psnr=41.0,
    largest_error=0.5,
    noise=0.25,
    resolution_before=4.0,
    resolution_after=3.0,
    warnings=("few-angles",),
    network="own",
)
ROWS = [
    DONE,
    replace(DONE, name="b9", archive_bytes=90_000, noise=3.0, warnings=()),
    ScanRow("a1", "/data/a1.h5", "failed", "the beam was off", "bad data", 3),
    ScanRow("a2", "/data/a2.h5", "running", stage="denoise", stage_done=4, stage_total=16),
]


def render(rows=ROWS, **options):
    return render_index(rows, **{"title": "series", "written": "2026-11-22T04:42:39Z"} | options)


@pytest.fixture(scope="module")
def full() -> str:
    thumbnail = data_url(grey_png(np.eye(8), (0.0, 1.0)))
    return render(thumbnails={"b10": thumbnail})


def test_summary_counts_and_sums(full: str) -> None:
    texts = [text.strip() for text in Page(full).texts if text.strip()]
    told = {name: texts[texts.index(name) + 1] for name in ("Done", "Failed", "Raw data", "Archives", "Saved", "Work")}
    assert told == {
        "Done": "2",
        "Failed": "1",
        "Raw data": "4 MB",
        "Archives": "102 kB",
        "Saved": "193 kB",
        "Work": "3 min 00 s",
    }
    assert "denoise, 4 of 16" in texts
    assert "the beam was off" in texts


def test_every_text_is_escaped() -> None:
    row = replace(DONE, name=HOSTILE, source=HOSTILE, warnings=(HOSTILE,), network=HOSTILE, fit=HOSTILE)
    failed = ScanRow("x", HOSTILE, "failed", HOSTILE, HOSTILE)
    page = Page(render([row, failed], title=HOSTILE, thumbnails={HOSTILE: "data:,"}))
    assert len(page.named("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert sum(HOSTILE in text for text in page.texts) >= 9
    assert all((a["href"] or "").startswith(("./", "index.")) for a in page.named("a"))


def test_the_counterexample_is_noticed() -> None:
    page = Page(f"<p>{HOSTILE}</p><a href='javascript:alert(1)'></a>")
    assert len(page.named("script")) == 1
    assert sum(HOSTILE in text for text in page.texts) == 0


@pytest.mark.parametrize("name", ["x" * 5000, "bad \udcff byte", "javascript:alert(1)", "", "../../x", "\u202eltr"])
def test_links_stay_below_the_folder(name: str) -> None:
    page = Page(render([replace(DONE, name=name)]).encode("utf-8").decode())
    links = {a["href"] for a in page.named("a")} - {"index.csv", "index.json"}
    assert len(links) == 2
    for link in links:
        assert re.fullmatch(r"\./[^/:]*/(report\.html|denoised\.h5)", link or "")


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_keeps_the_page_whole(name: str, reason: str) -> None:
    page = Page(render([ScanRow(name, reason, "failed", reason), replace(DONE, name=name)]))
    assert page.open == []
    assert len(page.named("tr")) == 3


def test_nothing_is_asked_from_outside(full: str) -> None:
    page = Page(full)
    assert "http:" not in full.replace("http-equiv", "")
    assert "https:" not in full
    assert not page.named("link")
    assert not re.search(r"@import|url\(", full)
    assert [image["src"] for image in page.named("img") if not (image["src"] or "").startswith("data:")] == []


def test_an_empty_series_is_a_page_too() -> None:
    page = Page(render([]))
    assert page.open == []
    assert "0 scans" in " ".join(page.texts)


def test_thumbnail_is_the_middle_slice(tmp_path: Path) -> None:
    volume = np.zeros((12, 64, 128), np.float32)
    volume[4:8, :, 64:] = 100.0
    write_volume_archive(tmp_path / "a.h5", volume)
    with Image.open(BytesIO(draw_thumbnail(tmp_path / "a.h5"))) as image:
        pixels = np.asarray(image)
    assert max(pixels.shape) <= 96
    assert pixels.shape[1] == 2 * pixels.shape[0]
    middle = pixels.shape[1] // 2
    assert pixels[:, : middle - 1].max() == 0
    assert pixels[:, middle + 1 :].min() == 255


def test_thumbnails_are_kept_and_drawn_anew_for_a_new_result(tmp_path: Path) -> None:
    row = replace(DONE, name="a")
    finished_result(tmp_path / "a", shape=(8, 40, 40))
    first = thumbnails_of(tmp_path, [row])["a"]
    drawn = (tmp_path / "a" / "thumbnail.png").stat().st_mtime_ns
    assert thumbnails_of(tmp_path, [row, ScanRow("b", "b", "failed")]) == {"a": first}
    assert (tmp_path / "a" / "thumbnail.png").stat().st_mtime_ns == drawn
    finished_result(tmp_path / "a", shape=(8, 40, 40), seed=1)
    assert thumbnails_of(tmp_path, [row])["a"] != first
    (tmp_path / "a" / "denoised.h5").write_bytes(b"")
    (tmp_path / "a" / "thumbnail.png").unlink()
    assert thumbnails_of(tmp_path, [row]) == {}
    with pytest.raises(ArchiveError):
        draw_thumbnail(tmp_path / "a" / "denoised.h5")


@pytest.mark.browser
class TestBrowser:
    def test_page_opens_without_a_message(
        self,
        full: str,
        tmp_path: Path,
        console_messages: Callable[[Path], list[str]],
        count_pictures: Callable[[Path], tuple[int, int]],
    ) -> None:
        path = tmp_path / "index.html"
        path.write_text(full, encoding="utf-8")
        assert console_messages(path) == []
        assert count_pictures(path) == (1, 0)

    @pytest.mark.parametrize(
        ("heading", "clicks", "expected"),
        [
            ("Scan", 1, ["a1", "a2", "b9", "b10"]),
            ("Archive", 1, ["b10", "b9", "a1", "a2"]),
            ("Archive", 2, ["b9", "b10", "a1", "a2"]),
            ("Noise", 2, ["b9", "b10", "a1", "a2"]),
            ("State", 1, ["b10", "b9", "a1", "a2"]),
        ],
    )
    def test_columns_sort_numbers_as_numbers_and_what_is_empty_last(
        self,
        full: str,
        tmp_path: Path,
        open_page: Callable[[Path], Any],
        heading: str,
        clicks: int,
        expected: list[str],
    ) -> None:
        find = f'[...document.querySelectorAll("thead button")].find(b => b.textContent === "{heading}")'
        assert _names(_after(f"const b = {find};" + "b.click();" * clicks, full, tmp_path, open_page)) == expected

    def test_filters_by_state_and_text(self, full: str, tmp_path: Path, open_page: Callable[[Path], Any]) -> None:
        choose = "state.value = 'done'; state.dispatchEvent(new Event('change'));"
        shown = _after(choose + "text.value = 'FEW'; text.dispatchEvent(new Event('input'))", full, tmp_path, open_page)
        rows = re.findall(r"<tr data-state=\"(\w+)\"( hidden=\"\")?>", shown)
        assert [state for state, hidden in rows if not hidden] == ["done"]
        assert "1 of 4" in shown


def _after(script: str, page: str, tmp_path: Path, open_page: Callable[[Path], Any]) -> str:
    """Give the page after something was done in it."""
    path = tmp_path / "done.html"
    without_policy = page.replace("Content-Security-Policy", "x-no-policy")
    path.write_text(without_policy.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    shown = open_page(path).stdout
    assert isinstance(shown, str)
    return shown[: shown.index("<script>")]


def _names(page: str) -> list[str]:
    return re.findall(r"<(?:a|span) class=\"name\"[^>]*>([ab]\d+)<", page)
