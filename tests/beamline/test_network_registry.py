"""Training that begins with the network of an earlier scan: which one, told how, and the same after a crash."""

import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import h5py
import numpy as np
import pytest
import torch

from quietbeam.beamline.atomic import file_sha256
from quietbeam.beamline.held_out import HeldOut, caveats_of_denoising
from quietbeam.beamline.inspect import describe_plan
from quietbeam.beamline.job import Job
from quietbeam.beamline.network_registry import NetworkRegistry, NetworkSize
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.beamline.warm_start import add_to_registry, check_start, choose_start, registry_of
from quietbeam.beamline.workspace import METRICS, START, Workspace
from quietbeam.noise2inverse.checkpoint import load_network, network_bytes, parse_network
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .jobs import small_scan, small_settings
from .test_reduce import Recorder

PHASE = {"phase__delta_beta": 100.0, "phase__energy": 20.0, "phase__distance": 0.1}
SIZE = NetworkSize(5, 1, NetworkSettings(depth=10))
STEPS = 40
"""Of an epoch: enough for a network that denoises, which alone is kept for others."""
HEAD_START = 0.8
"""Mean loss of the first epoch over that from random weights; 1 for the same start."""


def settings_with(registry=None, **changes):
    codec = {"archive__codec": "lattice", "codec__options": {}, "codec__epochs": None}
    given = {"warm_start__registry": registry, "training__steps_per_epoch": STEPS} | codec
    return small_settings(**given | changes)


def named(path, instrument):
    with h5py.File(path, "r+") as file:
        file["measurement/instrument/name"] = instrument
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [
        named(small_scan(folder / f"{seed}.h5", num_rows=6, seed=seed, name=f"foam {seed}"), "I13 / 2")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def first(scans, tmp_path_factory):
    """A registry that holds the network of the first scan, and that scan's result."""
    root = tmp_path_factory.mktemp("registry")
    recorder = Recorder()
    reduce_scan(scans[0], root / "out", settings_with(root / "networks"), progress=recorder)
    return root / "networks", root / "out", recorder


@pytest.fixture(scope="module")
def second(first, scans, tmp_path_factory):
    """The same of the second scan, which finds the registry of the first, and a torn file in it."""
    root = tmp_path_factory.mktemp("registry")
    shutil.copytree(first[0], root / "networks")
    (folder_of(root / "networks") / "torn.safetensors").write_bytes(b"torn")
    recorder = Recorder()
    reduce_scan(scans[1], root / "out", settings_with(root / "networks"), progress=recorder)
    return root / "networks", root / "out", recorder


@pytest.fixture
def registry(first, tmp_path):
    """A copy of the first registry, to put things into."""
    return Path(shutil.copytree(first[0], tmp_path / "networks"))


@contextmanager
def job_of(scan, output, settings):
    """A job that stops before its first stage."""
    workspace = Workspace(output)
    with workspace.locked():
        yield Job(open_scan(scan, settings.scan), settings, workspace, Recorder())


def network(seed=0, *, channels=5, **said):
    model = MSD(channels, 1, SIZE.settings, generator=torch.Generator().manual_seed(seed))
    return network_bytes(model, {"scan": f"{seed:064x}", "name": f"foam {seed}"} | said)


def folder_of(root):
    (said,) = root.rglob("key.json")
    return said.parent


def told(recorder, name):
    return next((d for d in recorder.decisions if d.name == name), None)


def start_of(output):
    return load_network(output / "network.safetensors")[1]["start"]


def test_a_network_is_kept_in_a_readable_place_and_says_where_it_comes_from(first, scans):
    root, output, recorder = first
    (path,) = root.rglob("*.safetensors")
    key = json.loads((path.parent / "key.json").read_text())["key"]
    identity = json.loads((output / "manifest.json").read_text())["input"]["identity"]["sha256"]
    assert path.parent.parent == root / "I13_2"
    assert path.name == f"foam_0-{identity[:12]}.safetensors"
    assert key["instrument"] == "I13 / 2"
    assert key["pixel_size"] == "1e-06 m"
    kept, said = load_network(path)
    result, _ = load_network(output / "network.safetensors")
    assert said["scan"] == identity
    assert said["start"] is None
    assert all(torch.equal(value, result.state_dict()[name]) for name, value in kept.state_dict().items())
    assert told(recorder, "start").value == "random weights"
    assert path.name in told(recorder, "registry").value


def test_the_next_scan_begins_with_it(first, second):
    registry, output, recorder = second
    (earlier,) = first[0].rglob("*.safetensors")
    assert start_of(output) == {
        "sha256": file_sha256(earlier),
        "name": "scan foam 0",
        "scan": load_network(earlier)[1]["scan"],
    }
    decision = told(recorder, "start")
    assert decision.value == f"network of scan foam 0, {earlier.name}"
    assert decision.reason.startswith("same instrument and settings, trained 2")
    assert {path.name[:6] for path in registry.rglob("*.safetensors")} == {"foam_0", "foam_1", "torn.s"}


def test_what_it_begins_with_is_learned_already(second, scans, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scans[1], tmp_path, settings_with(), progress=Recorder("denoise", 1))
    cold, warm = (json.loads((one / METRICS).read_text().splitlines()[0]) for one in (tmp_path, second[1]))
    assert warm["loss"] < HEAD_START * cold["loss"], (warm, cold)
    assert warm["held_out"] < cold["held_out"]


@pytest.mark.parametrize(
    "change",
    [
        {"scan__instrument": "another"},
        {"network__depth": 11},
        {"network__dilations": (1, 2)},
        {"network__padding": "reflect"},
        {"pairs__context_slices": 1},
        {"pairs__context_steps": 1},
        {"sections__num_sections": 3},
        {"reconstruction__filter": "hann"},
        PHASE,
    ],
)
def test_the_key_changes_with_all_that_weights_depend_on(scans, tmp_path, change):
    base, other = (settings_with(tmp_path, **more) for more in ({}, change))
    assert base != other
    folders = [registry_of(open_scan(scans[0], one.scan), one).folder for one in (base, other)]
    assert folders[0] != folders[1]


def test_the_key_does_not_change_with_what_weights_do_not_depend_on(scans, tmp_path):
    base = settings_with(tmp_path)
    other = settings_with(tmp_path, training__seed=3, compute__tile_size=64, archive__max_error=1.0)
    assert registry_of(open_scan(scans[0]), base).folder == registry_of(open_scan(scans[1]), other).folder
    assert registry_of(open_scan(scans[0]), settings_with()) is None


@pytest.mark.parametrize(("pixel_size", "same"), [(1.004e-6, True), (1.006e-6, False)])
def test_pixel_sizes_count_to_three_digits(scans, tmp_path, pixel_size, same):
    other = small_scan(tmp_path / "scan.h5", num_rows=1, pixel_size=pixel_size)
    settings = settings_with(tmp_path, scan__instrument="a")
    folders = {registry_of(open_scan(path, settings.scan), settings).folder for path in (scans[0], other)}
    assert len(folders) == (1 if same else 2)


@pytest.mark.parametrize("layout", ["DXchange", "NXtomo"])
def test_the_instrument_is_read_from_the_scan_unless_it_is_set(tmp_path, layout):
    path = small_scan(tmp_path / "scan.h5", num_rows=1, layout=layout)
    assert open_scan(path).instrument is None
    with h5py.File(path, "r+") as file:
        file["entry/instrument/name" if layout == "NXtomo" else "measurement/instrument/name"] = "TOMCAT"
    assert open_scan(path).instrument == "TOMCAT"
    assert open_scan(path, ScanSettings(instrument="mine")).instrument == "mine"


def test_the_newest_is_taken_by_the_time_it_tells(tmp_path):
    registry = NetworkRegistry(tmp_path, "a", {})
    times = ["2026-01-02T00:00:00+00:00", "2026-01-02T03:00:00+05:00", "2026-01-01T23:59:59+00:00"]
    for seed, time in enumerate(times):  # the last written is the oldest but one
        registry.store(registry.path(f"foam {seed}", f"{seed:064x}"), network(seed, trained=time))
    assert registry.newest(SIZE, but_not_of="")[0].provenance["name"] == "foam 0"
    found, caveats = registry.newest(SIZE, but_not_of=f"{0:064x}")
    assert found.provenance["name"] == "foam 2"
    assert found.content == found.path.read_bytes()
    assert caveats == []
    assert NetworkRegistry(tmp_path, "b", {}).newest(SIZE, but_not_of="") == (None, [])


def test_a_network_that_is_replaced_meanwhile_is_told_as_it_is(tmp_path):
    """Two good ones, one of another size and a torn one lie there in turn."""
    registry, replaced = NetworkRegistry(tmp_path, "a", {}), Event()
    path = registry.path("foam", "0" * 64)
    contents = [network(4, **LATER), network(6, **LATER), network(5, channels=3, **LATER), b"torn"]
    registry.store(path, contents[0])

    def replace():
        for content in cycle(contents):
            if replaced.is_set():
                return
            (tmp_path / "next").write_bytes(content)
            (tmp_path / "next").replace(path)

    thread = Thread(target=replace)
    thread.start()
    try:
        for _ in range(100):
            found, caveats = registry.newest(SIZE, but_not_of="")
            if found:
                model, said = parse_network(found.content, "found")
                assert model.in_channels == SIZE.in_channels
                assert found.provenance["name"] == said["name"]
            else:
                assert {caveat.code for caveat in caveats} <= {"network-left-out"}
    finally:
        replaced.set()
        thread.join()


def test_jobs_that_write_the_same_network_at_once_leave_a_whole_one(tmp_path):
    registry = NetworkRegistry(tmp_path, "a", {})
    path, failures = registry.path("foam", "0" * 64), []
    contents = [network(seed, trained="2026-01-01T00:00:00+00:00") for seed in range(4)]

    def write(content):
        for _ in range(5):
            try:
                registry.store(path, content)
                failures.extend(caveat.message for caveat in registry.newest(SIZE, but_not_of="")[1])
            except OSError as error:
                failures.append(repr(error))

    threads = [Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in contents
    assert {found.name for found in path.parent.iterdir()} == {"key.json", path.name}


@pytest.mark.parametrize("instrument", ["../../etc", "..", "/", "a\0b", "", "x" * 500, "Ä é/ö"])
def test_names_lead_nowhere_else(tmp_path, instrument):
    registry = NetworkRegistry(tmp_path / "networks", instrument, {})
    path = registry.path(instrument, "0" * 64)
    registry.store(path, network(trained="2026-01-01T00:00:00+00:00"))
    assert path.resolve().is_relative_to(tmp_path / "networks")
    assert [p.name for p in tmp_path.iterdir()] == ["networks"]
    assert {p.name for p in path.parent.iterdir()} == {"key.json", path.name}


def not_finite():
    model = MSD(5, 1, SIZE.settings)
    model.input_mean.fill_(torch.nan)
    return network_bytes(model, {"trained": "2030-01-01T00:00:00+00:00"})


PHASE_CHANGES = [
    {"phase__delta_beta": 101.0},
    {"phase__energy": 21.0},
    {"phase__distance": 0.2},
    {"phase__pixel_size": 2e-6},
    {"phase__padding": "symmetric"},
    {"phase__method": "tomopy-paganin"},
]


@pytest.mark.parametrize("change", PHASE_CHANGES)
def test_the_key_changes_with_all_of_the_phase_retrieval_where_it_is_on(scans, tmp_path, change):
    off = {"phase__delta_beta": None}
    one, other = settings_with(tmp_path, **PHASE), settings_with(tmp_path, **PHASE | change)
    assert registry_of(open_scan(scans[0]), one).folder != registry_of(open_scan(scans[0]), other).folder
    one, other = settings_with(tmp_path, **PHASE | off), settings_with(tmp_path, **PHASE | change | off)
    assert registry_of(open_scan(scans[0]), one).folder == registry_of(open_scan(scans[0]), other).folder


@pytest.mark.parametrize(("energy", "same"), [(20.01, True), (20.1, False)])
def test_the_energy_of_the_scan_counts_to_three_digits(scans, tmp_path, energy, same):
    settings = settings_with(tmp_path, phase__delta_beta=100.0, phase__distance=0.1)
    scan = open_scan(scans[0])
    folders = {registry_of(replace(scan, energy=value), settings).folder for value in (20.0, energy)}
    assert len(folders) == (1 if same else 2)


LATER = {"trained": "2030-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (network(7, **LATER)[:-100], "not a network of a registry"),
        (b"", "not a network of a registry"),
        (network(7), "not a network of a registry .*trained"),
        (network(7, trained="yesterday"), "not a network of a registry .*yesterday"),
        (network(7, channels=3, **LATER), "has 3 to 1 channels"),
        (not_finite(), "not finite"),
    ],
)
def test_a_file_that_is_no_start_is_told_and_left_out(tmp_path, content, message):
    registry = NetworkRegistry(tmp_path, "a", {})
    good = registry.path("good", "1" * 64)
    registry.store(good, network(1, trained="2026-01-01T00:00:00+00:00"))
    bad = good.with_name("bad.safetensors")
    bad.write_bytes(content)
    (good.parent / ".left-over.partial").write_bytes(b"of a killed process")
    found, (caveat,) = registry.newest(SIZE, but_not_of="")
    assert found.path == good
    assert caveat.code == "network-left-out"
    assert str(bad) in caveat.message
    assert caveat.message.count(str(bad)) == 1
    assert re.search(message, caveat.message)
    assert bad.read_bytes() == content


def test_a_job_taken_up_again_begins_with_the_same_network(second, registry, scans, tmp_path):
    torn = folder_of(registry) / "torn.safetensors"
    torn.write_bytes(b"torn")
    settings, again = settings_with(registry), Recorder()
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scans[1], tmp_path / "out", settings, progress=Recorder("train", STEPS + 1))
    torn.unlink()
    (folder_of(registry) / "newer.safetensors").write_bytes(network(9, **LATER))
    assert reduce_scan(scans[1], tmp_path / "out", settings, progress=again)
    assert again.before["train"] == STEPS
    assert start_of(tmp_path / "out") == start_of(second[1])
    assert file_sha256(tmp_path / "out/network.safetensors") == file_sha256(second[1] / "network.safetensors")
    assert told(again, "start") == told(second[2], "start")
    assert [c.code for c in again.caveats] == [c.code for c in second[2].caveats]
    assert not (tmp_path / "out/work").exists()


def test_a_job_that_found_nothing_goes_on_without(registry, scans, tmp_path):
    settings = settings_with(tmp_path / "empty")
    with job_of(scans[1], tmp_path / "out", settings) as job:
        assert choose_start(job) == (None, None)
        registry.rename(tmp_path / "empty")
    with job_of(scans[1], tmp_path / "out", settings) as job:
        assert choose_start(job) == (None, None)
        assert [decision.value for decision in job.decisions] == ["random weights"]
    with job_of(scans[1], tmp_path / "other", settings) as job:
        assert choose_start(job).origin["name"] == "scan foam 0"


def test_a_copy_that_was_lost_is_chosen_anew(registry, scans, tmp_path):
    settings, copy = settings_with(registry), tmp_path / "out/work" / START
    for damage in (lambda: copy.write_bytes(b"damaged"), copy.unlink, lambda: None):
        with job_of(scans[1], tmp_path / "out", settings) as job:
            start = choose_start(job)
            assert start.origin["name"] == "scan foam 0"
            assert file_sha256(copy) == start.sha256
            damage()


def test_another_start_is_another_training(registry, scans, tmp_path):
    with job_of(scans[1], tmp_path / "out", settings_with(registry)) as job:
        assert len({job.keys.training(5.0, start) for start in (None, "a", "b")}) == 3
        first = choose_start(job)
    path = folder_of(registry) / "newer.safetensors"
    path.write_bytes(network(9, **LATER))
    with job_of(scans[1], tmp_path / "out", settings_with(registry, scan__instrument="I13 / 2")) as job:
        assert choose_start(job).origin == first.origin  # the same networks under another setting
    with job_of(scans[1], tmp_path / "out", settings_with(warm_start__network=path)) as job:
        assert choose_start(job).sha256 == file_sha256(path)


def test_what_is_finished_stays_finished_when_the_registry_grows(second, scans, tmp_path):
    output, registry = (Path(shutil.copytree(second[k], tmp_path / name)) for k, name in ((1, "out"), (0, "networks")))
    (folder_of(registry) / "newer.safetensors").write_bytes(network(9, **LATER))
    for place in (registry, tmp_path / "gone"):
        recorder = Recorder()
        assert not reduce_scan(scans[1], output, settings_with(place), progress=recorder)
        assert not recorder.done
    for other in (settings_with(), settings_with(registry, scan__instrument="another")):
        with pytest.raises(ReductionError, match="of other settings"):
            reduce_scan(scans[1], output, other, progress=Recorder())


def test_a_scan_never_begins_with_its_own_network(registry, scans, tmp_path):
    with job_of(scans[0], tmp_path / "out", settings_with(registry)) as job:
        assert choose_start(job) == (None, None)


def test_a_network_named_goes_before_the_registry(registry, scans, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(network(3))
    settings = settings_with(registry, warm_start__network=path)
    with job_of(scans[1], tmp_path / "out", settings) as job:
        key = job.keys.result
        assert choose_start(job).sha256 == file_sha256(path)
        assert told(job, "start") == ("start", "network of scan foam 3, mine.safetensors", "warm_start.network")
    copy = settings_with(warm_start__network=path.rename(tmp_path / "copy"))
    with job_of(scans[1], tmp_path / "other", copy) as job:
        assert job.keys.result == key
        (tmp_path / "copy").write_bytes(network(4))
        with pytest.raises(ReductionError, match="copy: changed while the scan was reduced"):
            choose_start(job)
    with job_of(scans[1], tmp_path / "other", copy) as job:
        assert job.keys.result != key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (network(channels=3), r"mine\.safetensors: the network to begin with has 3 to 1 channels.*needs 5 to 1"),
        (b"torn", r"mine\.safetensors: not a network file"),
        (None, r"mine\.safetensors: cannot be read \(No such file.*warm_start\.network"),
    ],
)
def test_a_network_named_that_does_not_fit_is_refused_at_once(scans, tmp_path, content, message):
    path = tmp_path / "mine.safetensors"
    if content is not None:
        path.write_bytes(content)
    recorder = Recorder()
    with pytest.raises(ReductionError, match=message):
        reduce_scan(scans[0], tmp_path / "out", settings_with(warm_start__network=path), progress=recorder)
    assert not recorder.before, "a stage was begun"


def test_a_file_that_is_no_network_is_bad_data_and_says_what_to_take(scans, tmp_path):
    with pytest.raises(NetworkFileError, match=r"a network\.safetensors of quietbeam.*`quietbeam convert-network`"):
        check_start(settings_with(warm_start__network=scans[0]))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NetworkFileError, match="pipe: expected a file, got something else"):
        check_start(settings_with(warm_start__network=tmp_path / "pipe"))
    assert NetworkFileError.exit_code == 3


def without_rights(path):
    path.mkdir(mode=0)
    return path


def too_long(path):
    return path.with_name("x" * 300)


def in_a_circle(path):
    path.symlink_to(path)
    return path


BARRED = [
    pytest.param(
        without_rights, "Permission denied", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
    ),
    (too_long, "File name too long"),
    (in_a_circle, "Too many levels"),
]


@pytest.mark.parametrize(("bar", "message"), BARRED)
def test_a_registry_that_cannot_be_listed_is_refused_at_once(scans, tmp_path, bar, message):
    recorder, path = Recorder(), bar(tmp_path / "networks")
    with pytest.raises(ReductionError, match=rf"{path}: the folder .* cannot be listed \({message}.*warm_start\.reg"):
        reduce_scan(scans[0], tmp_path / "out", settings_with(path), progress=recorder)
    assert not recorder.before, "a stage was begun"


@pytest.mark.parametrize("bar", [without_rights, in_a_circle, Path.touch])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_folder_of_the_registry_that_cannot_be_read_costs_a_warning(scans, tmp_path, bar, levels):
    if bar is without_rights and os.geteuid() == 0:
        pytest.skip("root may read all")
    settings = settings_with(tmp_path / "networks")
    folder = registry_of(open_scan(scans[0]), settings).folder
    barred = folder if levels == 2 else folder.parent
    barred.parent.mkdir(parents=True)
    bar(barred)
    with job_of(scans[0], tmp_path / "out", settings) as job:
        assert choose_start(job) == (None, None)
        (caveat,) = job.caveats
        assert caveat.code == "registry-not-read"
        assert caveat.message.startswith(f"warm_start.registry: {folder} cannot be read (")
        assert told(job, "start") == ("start", "random weights", f"{folder} cannot be read")
        add_to_registry(job, MSD(5, 1, SIZE.settings), {})
        assert job.caveats[-1].code == "registry-not-written"


def test_a_plan_tells_what_training_begins_with(first, registry, scans, tmp_path):
    def start(scan, settings):
        return next(line for line in describe_plan(scan, settings) if line.startswith("start"))

    (earlier,) = registry.rglob("*.safetensors")
    path = tmp_path / "mine.safetensors"
    path.write_bytes(network(3))
    taken = f"network of scan foam 0, {earlier.name}  (same instrument and settings, trained 2"
    assert start(scans[1], settings_with(registry)).startswith(f"start       {taken}")
    assert start(scans[0], settings_with(registry)).startswith("start       random weights  (no network of another")
    assert start(scans[1], settings_with()).startswith("start       random weights  (neither")
    named = start(scans[1], settings_with(registry, warm_start__network=path))
    assert named == "start       network of scan foam 3, mine.safetensors  (warm_start.network)"
    assert "instrument  I13 / 2" in list(describe_plan(scans[1], settings_with()))
    earlier.write_bytes(b"torn")
    assert any("network-left-out" in line for line in describe_plan(scans[1], settings_with(registry)))


def test_a_registry_that_is_a_file_is_refused_at_once(scans, tmp_path):
    path = tmp_path / "networks"
    path.write_text("")
    with pytest.raises(ReductionError, match=r"networks: expected a folder"):
        reduce_scan(scans[0], tmp_path / "out", settings_with(path), progress=Recorder())


def test_a_registry_that_cannot_be_written_costs_no_result(scans, tmp_path):
    settings = settings_with(tmp_path / "networks")
    (tmp_path / "networks").write_text("a file in the way")
    with job_of(scans[0], tmp_path / "out", settings) as job:
        add_to_registry(job, MSD(5, 1, SIZE.settings), {})
        (caveat,) = job.caveats
    assert caveat.code == "registry-not-written"
    assert re.search(r"networks/I13_2/\w+/foam_0-\w+\.safetensors: .*not added \(Not a directory\)", caveat.message)


def test_a_network_that_does_not_denoise_is_no_start_for_others(scans, tmp_path):
    flat = np.zeros((1, 4, 4), np.float32)
    worse = HeldOut(flat, flat + 2, flat + 1)
    with job_of(scans[0], tmp_path / "out", settings_with(tmp_path / "networks")) as job:
        job.doubt(caveats_of_denoising(worse))
        add_to_registry(job, MSD(5, 1, SIZE.settings), {})
    assert told(job, "registry").value == "network not added"
    assert told(job, "registry").reason.startswith("it does not denoise the slices held out")
    assert not (tmp_path / "networks").exists()
