"""Reduce the two real scans of the tutorial and keep the pictures of their reports.

python benchmarks/first_scan.py SCANS_FOLDER OUTPUT [--minutes 4] [--threads 1] [--pictures docs/tutorials/pictures]

SCANS_FOLDER holds tooth.h5 (tomopy/tomopy, source/tomopy/data) and the folder txm_tomo77 (swelborn/tomopyui,
examples/data/tiff_sequence). The results lie in OUTPUT; what is printed is what `quietbeam reduce` prints.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
from pathlib import Path

from PIL import Image

from quietbeam.beamline.progress import console_progress
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.settings import read_settings
from quietbeam.beamline.workspace import MANIFEST, REPORT

SCANS = {
    "tooth.h5": {},
    "txm_tomo77": {"scan.normalised": "attenuation", "scan.angles": "0:180"},
}
GAP = 8
"""White pixels between two pictures."""


def main() -> None:
    """Reduce both scans; a scan that was reduced with the same settings is not reduced again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each scan")
    parser.add_argument("--threads", type=int, help="threads [all cores]")
    parser.add_argument("--pictures", type=Path, default=Path("docs/tutorials/pictures"))
    arguments = parser.parse_args()
    for name, options in SCANS.items():
        result = arguments.output / Path(name).stem
        given = options | {"training.minutes": arguments.minutes}
        given["compute.threads"] = arguments.threads
        print(f"== {name}", flush=True)
        reduce_scan(arguments.scans / name, result, read_settings(None, (), given), progress=console_progress())
        _save_pictures(result, arguments.pictures)
        _print_numbers(result)


def _save_pictures(result: Path, folder: Path) -> None:
    """Keep the first five pictures of a report: slice noisy, denoised, difference; detail before, after."""
    page = (result / REPORT).read_text()
    urls = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)[:5]
    noisy, denoised, *detail, difference = (Image.open(io.BytesIO(base64.b64decode(url))).convert("L") for url in urls)
    folder.mkdir(parents=True, exist_ok=True)
    _side_by_side([noisy, denoised, difference]).save(folder / f"{result.name}-slice.png", optimize=True)
    _side_by_side(detail).save(folder / f"{result.name}-detail.png", optimize=True)


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    width = sum(picture.width + GAP for picture in pictures) - GAP
    joined = Image.new("L", (width, max(picture.height for picture in pictures)), 255)
    x = 0
    for picture in pictures:
        joined.paste(picture, (x, 0))
        x += picture.width + GAP
    return joined


def _print_numbers(result: Path) -> None:
    manifest = json.loads((result / MANIFEST).read_text())
    held_out = [epoch["held_out"] for epoch in manifest["history"]]
    print(json.dumps(manifest["numbers"] | {"held_out_loss": min(held_out), "epochs": len(held_out)}, indent=1))
    print(json.dumps(manifest["seconds"]))


if __name__ == "__main__":
    main()
