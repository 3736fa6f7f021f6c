"""Every benchmark runs with --tiny and writes rows that make sense; the figures of so small a run mean nothing."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.slow


def run(name, folder, *options):
    """Rows by (case, method, metric), after the checks that hold for every benchmark."""
    file = folder / "rows.json"
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--tiny", "--json", file, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert rows
    assert all(set(row) == {"case", "method", "metric", "value", "unit"} for row in rows)
    assert all(math.isfinite(row["value"]) for row in rows)
    methods = {row["method"] for row in rows}
    ours = {method for method in methods if method == "quietbeam" or method.startswith("quietbeam (")}
    assert ours
    assert methods - ours, "no peer"
    assert all(f"| {method} |" in done.stdout for method in methods)
    values = {(row["case"], row["method"], row["metric"]): row["value"] for row in rows}
    assert len(values) == len(rows), "two rows for one thing"
    return values


def by_method(values, metric, case=""):
    """Values of one metric, by method, of the cases whose name holds `case`."""
    return {m: value for (c, m, name), value in values.items() if name == metric and case in c}


def test_end_to_end(tmp_path):
    values = run("end_to_end", tmp_path)
    sizes, errors = by_method(values, "size"), by_method(values, "largest error")
    lossless = [size for method, size in sizes.items() if method.startswith("lossless")]
    assert sizes["quietbeam"] < min(lossless)
    assert 0.5 < errors["quietbeam"] <= 1.01  # against the network applied again, which rounds in another order
    assert errors["lossless: shuffle, gzip 6"] == 0
    quality = by_method(values, "PSNR")
    smoothed = next(value for method, value in quality.items() if method.startswith("best Gaussian"))
    assert smoothed > quality["quietbeam (gridrec)"]


def test_tiles(tmp_path):
    values = run("tiles", tmp_path)
    wide, narrow = by_method(values, "halo 32"), by_method(values, "halo 16")
    assert narrow["quietbeam (trained for 1 s)"] < 0.5
    assert wide["quietbeam (trained for 1 s)"] <= narrow["quietbeam (trained for 1 s)"]
    assert 1e-5 < min(by_method(values, "float16").values()) < max(by_method(values, "bfloat16").values()) < 0.5


def test_msd(tmp_path):
    values = run("msd", tmp_path)
    assert max(by_method(values, "largest difference").values()) < 1e-4  # both compute the same network
    assert min(by_method(values, "speed").values()) > 0
    memory = by_method(values, "memory", "forward and backward")
    assert memory["quietbeam"] < memory["torch.cat"]


def test_msd_gpu(tmp_path):
    values = run("msd_gpu", tmp_path)
    assert max(by_method(values, "difference of the output").values()) < 1e-5
    assert max(by_method(values, "difference of the gradient").values()) < 1e-5


def test_reconstruction(tmp_path):
    values = run("reconstruction", tmp_path)
    quality, amplitude = by_method(values, "PSNR"), by_method(values, "amplitude")
    right = [method for method in quality if not method.startswith("tomopy")]  # its values are too high
    assert min(quality[method] for method in right) > 25  # all see the phantom at its place
    assert all(abs(amplitude[method] - 1) < 0.1 for method in right)
    seconds = by_method(values, "CPU time of a slice")
    assert seconds["quietbeam (gridrec)"] < seconds["ASTRA FBP, CPU"]


def test_ring_removal(tmp_path):
    values = run("ring_removal", tmp_path)
    quality = by_method(values, "PSNR smoothed", "stripes of 5%")
    assert quality["quietbeam"] > quality["algotom remove_all_stripe (51, 21)"] + 3


def test_training(tmp_path):
    values = run("training", tmp_path)
    early, late = by_method(values, "PSNR after 1 s"), by_method(values, "PSNR after 2 s")
    assert late["quietbeam (batch size 1)"] > early["quietbeam (batch size 1)"]
    assert late["gridrec, best Gaussian blur"] > late["gridrec"]
    steps = by_method(values, "steps")
    assert steps["quietbeam (batch size 1)"] > steps["quietbeam (batch size 4)"]


def test_warm_start(tmp_path):
    values = run("warm_start", tmp_path)
    before, late = by_method(values, "PSNR after 0 s"), by_method(values, "PSNR after 1 s")
    assert before["quietbeam (earlier scan, step size 0.001)"] > before["quietbeam (random weights)"] + 3
    assert late["quietbeam (random weights)"] > before["quietbeam (random weights)"] + 3
    assert before["gridrec, best Gaussian blur"] > before["gridrec"]


def test_network_reuse(tmp_path):
    values = run("network_reuse", tmp_path)
    quality = by_method(values, "PSNR")
    assert quality["quietbeam (first)"] == quality["quietbeam (registry)"]
    assert quality["quietbeam (first)"] != quality["quietbeam (per-scan)"]


@pytest.mark.parametrize("case", ["foam", "dimensions", "dynamic", "xrdct"])
def test_noise2inverse(case, tmp_path):
    values = run("noise2inverse", tmp_path, "--case", case)
    assert {name.split(":")[0] for name, _, _ in values} == {case}
    quality = by_method(values, "PSNR")
    trained = by_method(values, "training")
    assert trained
    assert min(trained.values()) > 0
    ours = [method for method in quality if method in trained]
    assert ours == list(trained)  # every network is measured, and says how long it learned
    plain = [value for method, value in quality.items() if method.startswith("gridrec")]
    smoothed = [value for method, value in quality.items() if method.startswith("best Gaussian")]
    assert all(max(smoothed) > value for value in plain)
    if plain:
        assert min(quality[method] for method in ours) > min(plain) + 2  # even seconds of training help
    likeness = by_method(values, "SSIM")
    assert min(likeness[method] for method in ours) > 0.2  # an even grey has next to none
    if case == "dimensions":
        steps = by_method(values, "steps")
        assert steps["quietbeam (2D, the same steps)"] == steps["quietbeam (2.5D: 5 slices)"] > 0


@pytest.mark.real_data
@pytest.mark.skipif("QUIETBEAM_TEST_DATA" not in os.environ, reason="QUIETBEAM_TEST_DATA names no folder")
def test_noise2inverse_of_real_scans(tmp_path):
    values = run("noise2inverse", tmp_path, "--case", "real", "--pictures", tmp_path / "pictures")
    resolution = by_method(values, "resolution (1/7)")
    assert resolution["quietbeam"] <= resolution["gridrec"]
    smoothed = next(value for method, value in resolution.items() if method.startswith("Gaussian"))
    # A Gaussian weighs all samples of a ring alike.
    assert smoothed == pytest.approx(resolution["gridrec"])
    assert by_method(values, "squared distance to the held-out section")["quietbeam"] < 1
    assert list((tmp_path / "pictures").glob("*.png"))


def test_tv(tmp_path):
    values = run("tv", tmp_path)
    for case in ("64 projections", "8 projections"):
        quality = by_method(values, "PSNR", case)
        swept = [value for method, value in quality.items() if method.startswith("quietbeam (TV, weight")]
        assert max(swept) > quality["quietbeam (gridrec)"] + 1
        assert len(set(swept)) == len(swept)
    assert all(0 < gap < 100 for gap in by_method(values, "gap").values())


def test_phantoms(tmp_path):
    assert min(run("phantoms", tmp_path).values()) > 0


def test_compress(tmp_path):
    values = run("compress", tmp_path, *(word for case in ("rates", "bounded", "chain") for word in ("--case", case)))
    rates = by_method(values, "48 dB", "foam")
    assert rates["quietbeam (lattice)"] < min(rate for name, rate in rates.items() if not name.startswith("quietbeam"))
    bounded = by_method(values, "0.01", "largest error")
    assert bounded["quietbeam (lattice)"] < bounded["sz3"]
    noisy, denoised = (by_method(values, stage) for stage in ("noisy volume", "denoised volume"))
    assert denoised["quietbeam (lattice)"] < noisy["quietbeam (lattice)"]


def test_compress_with_the_learned_codecs(tmp_path):
    cases = ("learned", "crae", "transfer", "inr")
    values = run("compress", tmp_path, *(word for case in cases for word in ("--case", case)))
    rates = by_method(values, "rate", "learned codecs")
    assert {"ae", "cnn", "dcae", "crae2", "dcnn, latents of depth 2", "vqvae, latents of depth 8"} < set(rates)
    assert min(rates.values()) > 0
    assert any(name.startswith("trade-off point: inr") for name in by_method(values, "rate", "INR"))


def test_hook_overhead(tmp_path):
    values = run("hook_overhead", tmp_path)
    typical = by_method(values, "p50", "beside a Tiled server")
    assert typical["quietbeam"] < 1  # millisecond; the figures of a full run are in the documentation
    longest = by_method(values, "longest", "beside a Tiled server")
    assert longest["quietbeam"] < longest["TiledWriter in the callback"]


def test_queue_kills(tmp_path):
    values = run("queue_kills", tmp_path)
    missing, at_once = by_method(values, "not done"), by_method(values, "at once")
    assert (missing["quietbeam"], at_once["quietbeam"]) == (0, 0)
    assert missing["folders"] > 0  # what was under way at a kill stays so
    assert min(by_method(values, "kills").values()) > 0
    assert by_method(values, "verified") == by_method(values, "submitted", "reductions")


def test_estimates(tmp_path):
    values = run("estimates", tmp_path)
    for what in ("memory", "disk"):
        assert 0.8 < by_method(values, f"{what} over what it took")["quietbeam"] < 1.25
    assert by_method(values, "time over what it took")["quietbeam"] > 0


def test_scaling(tmp_path):
    values = run("scaling", tmp_path)
    efficiency, formula = by_method(values, "efficiency", "simulated"), by_method(values, "formula / clock")
    assert all(0.9 < value <= 1.001 for value in formula.values())  # no schedule is shorter than the formula
    assert efficiency["quietbeam (per-scan, disk of 40 GB/s)"] > efficiency["a worker for each scan"]
    assert set(by_method(values, "time", "measured")) > {"quietbeam (1 worker)", "quietbeam (2 workers)"}
