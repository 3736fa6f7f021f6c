"""One network for a series: the second scan with a network of its own, and with that of the first.

Both are foams of `quietbeam simulate`. The first one trains its network. Then the second is reduced three times: with
a network of its own (per-scan), with that of the first as it is (first), and with the newest of a registry that holds
it (registry). One second scan is of the same kind, one has a quarter of the photons, and one is a foam of few large
voids. PSNR is that of the archive against the truth; the squared distance to a section that the network does not see,
over that before denoising, and the resolution are those of the report, on slices held out. Seconds are wall time of all
stages.

The peer is the reconstruction as it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from rows import Row, arguments, report

from quietbeam.beamline.progress import Silence
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.score import score_against_truth
from quietbeam.beamline.settings import ReductionSettings, read_settings
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.workspace import MANIFEST, NETWORK
from quietbeam.noise2inverse.checkpoint import load_network

TINY = {"num_rows": 8, "num_columns": 64, "num_angles": 64}
FULL = {"num_rows": 64, "num_columns": 96, "num_angles": 160}
KINDS: dict[str, dict[str, Any]] = {
    "same kind": {},
    "a quarter of the photons": {"noise": {"num_photons": 250}},
    "few large voids": {"voids_per_radius": 20, "min_void": 0.12},
}


def main() -> None:
    """Reduce the first scan, and each second one in all ways."""
    options = arguments(__doc__)
    size, epochs = (TINY, 2) if options.tiny else (FULL, 60)
    kinds = ["same kind"] if options.tiny else list(KINDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = _settings(epochs)
        first = simulate_scan(folder / "first.h5", SimulateSettings(**size, name="first"))
        registry = {"warm_start.registry": folder / "networks", "training.reuse": "registry"}
        reduce_scan(first, folder / "first", _settings(epochs, registry), progress=Silence())
        network = folder / "first" / NETWORK
        ways = {
            "per-scan": plain,
            "first": _settings(0, {"warm_start.network": network}),
            "registry": _settings(epochs, registry),
        }
        rows = [row for kind in kinds for row in _rows(folder, kind, size, ways)]
    report(rows, options.json)


def _settings(epochs: int, changes: dict[str, Any] | None = None) -> ReductionSettings:
    fixed = {
        "network.depth": 30,
        "training.epochs": epochs,
        "training.steps_per_epoch": 20,
        "pairs.crop_size": 96,
        "archive.codec": "lattice",
        "compute.threads": 1,
    }
    return read_settings(options=fixed | (changes or {}))


def _rows(folder: Path, kind: str, size: dict[str, int], ways: dict[str, ReductionSettings]) -> list[Row]:
    """Rows of one second scan, reduced in all ways."""
    scan = simulate_scan(folder / f"{kind}.h5", SimulateSettings(**size, seed=1, name=kind, **KINDS[kind]))
    case = f"{size['num_columns']} columns, {size['num_angles']} angles; second scan: {kind}"
    rows = []
    for way, settings in ways.items():
        output = folder / f"{kind} {way}"
        reduce_scan(scan, output, settings, progress=Silence())
        scores = score_against_truth(output, truth_path(scan))
        if not rows:
            rows.append(Row(case, "gridrec", "PSNR", scores["gridrec"], "dB"))
        method = f"quietbeam ({way})"
        rows.append(Row(case, method, "PSNR", scores["archive"], "dB"))
        rows += [Row(case, method, *measured) for measured in _measured(output)]
    return rows


def _measured(output: Path) -> list[tuple[str, float, str]]:
    """Read what the result says of itself: name, value, unit."""
    manifest, (_, said) = json.loads((output / MANIFEST).read_text()), load_network(output / NETWORK)
    told = said.get("applied", {}).get("to", said)["held_out"]
    before, after = told["before"], told["after"]
    finest = 2.0  # pixels, where the correlation never falls below the threshold
    return [
        ("squared distance held out", after["distance"] / before["distance"], ""),
        ("held-out resolution before", before["resolution"] or finest, "pixels"),
        ("held-out resolution", after["resolution"] or finest, "pixels"),
        ("time", sum(manifest["seconds"].values()), "s"),
    ]


if __name__ == "__main__":
    main()
