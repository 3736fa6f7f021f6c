"""A network that is there already, applied as it is: to one scan, told honestly, and compared if asked for."""

import json

import numpy as np
import pytest
import torch

from quietbeam.beamline.job import Job
from quietbeam.beamline.network_reuse import described_conditions, doubts_of
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.workspace import METRICS, PREVIEW, Workspace
from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.reconstruction.errors import ReductionError

from .jobs import reduce_command, run, small_scan, small_settings
from .test_network_training import TORCHRUN
from .test_reduce import Recorder

STEPS = 40
"""Of an epoch: enough for a network that denoises, which alone is kept for others."""


def settings_with(**changes):
    codec = {"archive__codec": "lattice", "codec__options": {}, "codec__epochs": None}
    return small_settings(**{"training__steps_per_epoch": STEPS} | codec | changes)


def applied(network, **changes):
    return settings_with(training__epochs=0, warm_start__network=network, **changes)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [small_scan(folder / f"{seed}.h5", num_rows=6, seed=seed, name=f"foam {seed}") for seed in (0, 1)]


@pytest.fixture(scope="module")
def registry(scans, tmp_path_factory):
    """A folder of networks, filled by the first scan, which finds none to take over."""
    root = tmp_path_factory.mktemp("networks")
    settings = settings_with(warm_start__registry=root / "networks", training__reuse="registry")
    reduce_scan(scans[0], root / "first", settings, progress=Recorder())
    return root / "networks"


@pytest.fixture(scope="module")
def network(registry):
    return registry.parent / "first" / "network.safetensors"


@pytest.fixture(scope="module")
def result(scans, network, tmp_path_factory):
    """The second scan, with the network of the first as it is."""
    output, recorder = tmp_path_factory.mktemp("applied"), Recorder()
    (output / METRICS).write_text("of an earlier training")
    reduce_scan(scans[1], output, applied(network), progress=recorder)
    return output, recorder


@pytest.fixture(scope="module")
def compared(scans, network, tmp_path_factory):
    """The same, stopped in the training of the network to compare with, and taken up again."""
    output = tmp_path_factory.mktemp("compared")
    settings = applied(network, training__compare=True, training__compare_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scans[1], output, settings, progress=Recorder("train", STEPS + 1))
    recorder = Recorder()
    reduce_scan(scans[1], output, settings, progress=recorder)
    return output, recorder


def manifest_of(output):
    return json.loads((output / "manifest.json").read_text())


def told(recorder):
    return {decision.name: decision for decision in recorder.decisions}


def test_the_weights_are_taken_as_they_are_and_nothing_is_trained(result, network, scans):
    output, recorder = result
    (taken, said), (earlier, origin) = load_network(output / "network.safetensors"), load_network(network)
    for name, numbers in earlier.state_dict().items():
        assert torch.equal(taken.state_dict()[name], numbers), name
    assert "train" not in recorder.before
    assert not {"threads", "epochs", "registry"} & told(recorder).keys()
    assert told(recorder)["training"].value == "none"
    assert manifest_of(output)["history"] == []
    assert not (output / METRICS).exists()
    assert not (output / PREVIEW).exists()
    assert {name: said[name] for name in origin} == origin
    assert said["applied"]["from"]["name"] == "scan foam 0"
    assert said["applied"]["to"]["name"] == "foam 1"
    assert said["applied"]["to"]["scan"] == manifest_of(output)["input"]["identity"]["sha256"] != said["scan"]


def test_a_network_whose_unit_is_not_known_takes_mean_and_deviation_of_the_scan(network, scans, tmp_path):
    model, _ = load_network(network)
    (tmp_path / "silent.safetensors").write_bytes(network_bytes(model, {}))
    recorder = Recorder("denoise", 1)
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scans[1], tmp_path / "out", applied(tmp_path / "silent.safetensors"), progress=recorder)
    assert "with mean and deviation of this scan" in told(recorder)["training"].reason
    assert [caveat.code for caveat in recorder.caveats] == ["network-of-unknown-conditions"]


def test_what_is_known_of_it_stands_in_manifest_and_report(result, network):
    output, recorder = result
    fit, page = manifest_of(output)["fit"], (output / "report.html").read_text()
    assert recorder.caveats == []
    assert fit["elsewhere"] == load_network(network)[1]["held_out"]
    assert fit["taken_over"]["distance"] < fit["before"]["distance"]
    assert fit["own"] is None
    assert "How well the network fits" in page
    assert "taken over from scan foam 0 and applied as it is" in page
    assert "on the scan it learned from, to 0." in page
    assert "Training: denoising network" not in page
    assert "Held-out loss" not in page
    first = (network.parent / "report.html").read_text()
    assert "How well the network fits" not in first
    assert manifest_of(network.parent)["fit"] is None


def test_a_comparison_changes_nothing_of_the_result(result, compared):
    for name in ("denoised.h5", "network.safetensors"):
        assert (result[0] / name).read_bytes() == (compared[0] / name).read_bytes(), name
    one, other = (manifest_of(output) for output, _ in (result, compared))
    assert one["key"] == other["key"]
    assert one["numbers"] == other["numbers"]


def test_a_comparison_goes_on_where_it_was_stopped_and_is_told(compared):
    output, recorder = compared
    assert recorder.before["train"] == STEPS
    fit, page = manifest_of(output)["fit"], (output / "report.html").read_text()
    assert fit["own"]["epochs"] == 2
    assert fit["own"]["distance"] != fit["taken_over"]["distance"]
    lost = (fit["taken_over"]["distance"] - fit["own"]["distance"]) / (
        fit["before"]["distance"] - fit["own"]["distance"]
    )
    assert fit["lost"] == pytest.approx(lost)
    assert "a network that this scan trained for 2 epochs" in page
    assert "The scan's own network reaches" in page
    assert "Training: network of the scan&#39;s own" in page
    assert not (output / "work").exists()


def test_a_registry_gives_its_newest_network_and_takes_none_that_was_not_trained(registry, scans, result, tmp_path):
    before = sorted(registry.rglob("*.safetensors"))
    assert len(before) == 1, "the first scan found none, trained, and left its network"
    settings = settings_with(warm_start__registry=registry, training__reuse="registry")
    recorder = Recorder()
    reduce_scan(scans[1], tmp_path, settings, progress=recorder)
    assert "train" not in recorder.before
    assert sorted(registry.rglob("*.safetensors")) == before
    models = [load_network(output / "network.safetensors")[0] for output in (tmp_path, result[0])]
    assert all(torch.equal(*pair) for pair in zip(*(m.state_dict().values() for m in models), strict=True))
    assert not reduce_scan(scans[1], tmp_path, settings, progress=Recorder())
    with pytest.raises(ReductionError, match="of other settings"):
        reduce_scan(scans[1], tmp_path, settings_with(warm_start__registry=registry), progress=Recorder())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__epochs": 0}, r"training\.epochs=0 applies .*set warm_start\.network=FILE or .*registry=FOLDER"),
        ({"training__reuse": "registry"}, r"training\.reuse=registry .*set warm_start\.registry=FOLDER"),
        ({"training__epochs": 0, "warm_start__registry": "EMPTY"}, r"none of another scan with these settings is in"),
        ({"training__epochs": 0, "warm_start__network": "NETWORK", "network__depth": 11}, "depth 10.*needs .*depth 11"),
    ],
)
def test_what_cannot_be_applied_is_refused_before_anything_is_computed(scans, network, tmp_path, changes, message):
    places = {"EMPTY": tmp_path / "empty", "NETWORK": network}
    settings, recorder = settings_with(**{name: places.get(v, v) for name, v in changes.items()}), Recorder()
    with pytest.raises(ReductionError, match=message):
        reduce_scan(scans[1], tmp_path / "out", settings, progress=recorder)
    assert not recorder.before


def codes(said, scan, settings, folder):
    workspace = Workspace(folder)
    with workspace.locked():
        caveats = doubts_of(said, Job(open_scan(scan, settings.scan), settings, workspace, Recorder()))
    return {caveat.code: caveat.message for caveat in caveats}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reconstruction__filter": "hann"}, "filter: 'ram-lak' there, 'hann' here"),
        ({"sections__num_sections": 3}, "'num_sections': 4"),
        ({"scan__instrument": "TOMCAT"}, "instrument: None there, 'TOMCAT' here"),
        ({"phase__delta_beta": 100.0, "phase__energy": 20.0, "phase__distance": 0.1}, "phase: None there"),
        ({}, None),
    ],
)
def test_other_conditions_are_told_by_name(scans, network, tmp_path, change, named):
    found = codes(load_network(network)[1], scans[1], settings_with(**change), tmp_path)
    assert set(found) == ({"network-of-other-conditions"} if named else set())
    assert named is None or named in found["network-of-other-conditions"]


def test_another_pixel_size_the_same_scan_and_a_silent_file_are_told(scans, network, tmp_path):
    _, said = load_network(network)
    other = small_scan(tmp_path / "scan.h5", num_rows=1, pixel_size=2e-6)
    assert (
        "'1e-06 m' there, '2e-06 m' here"
        in codes(said, other, settings_with(), tmp_path)["network-of-other-conditions"]
    )
    assert set(codes(said, scans[0], settings_with(), tmp_path)) == {"network-of-this-scan"}
    assert set(codes({}, scans[1], settings_with(), tmp_path)) == {"network-of-unknown-conditions"}
    assert described_conditions(open_scan(scans[1]), settings_with()) == said["conditions"]


def test_how_a_series_shares_its_work_is_no_part_of_what_a_result_depends_on(scans, network, tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.locked():
        scan = open_scan(scans[1])
        keys = {
            name: Job(scan, settings, workspace, Recorder()).keys
            for name, settings in {
                "plain": settings_with(),
                "first": settings_with(training__reuse="first", training__compare_every=3),
                "applied": applied(network),
                "compared": applied(network, training__compare=True, training__compare_epochs=7),
            }.items()
        }
    assert keys["plain"].result == keys["first"].result != keys["applied"].result == keys["compared"].result
    assert keys["plain"].training(20.0) == keys["first"].training(20.0)


def test_sections_that_are_not_finite_are_refused_with_the_scan(scans, network, tmp_path):
    settings = applied(network)
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scans[1], tmp_path, settings, progress=Recorder("reconstruct", 6))
    for path in tmp_path.rglob("*.npy"):
        np.lib.format.open_memmap(path, mode="r+")[..., 20, 20] = np.nan
    with pytest.raises(ReductionError, match=r"1\.h5: slice . has . values that are not finite"):
        reduce_scan(scans[1], tmp_path, settings, progress=Recorder())


@pytest.mark.slow
def test_processes_that_train_together_end_where_there_is_nothing_to_train(scans, network, tmp_path):
    names = {"training.epochs": 0, "warm_start.network": network, "pairs.batch_size": 2}
    given = [word for name, value in names.items() for word in ("--set", f"{name}={value}")]
    done = run([*TORCHRUN, *reduce_command(scans[1], tmp_path, *given)])
    assert done.returncode == 0, done.stderr
    assert manifest_of(tmp_path)["history"] == []
