"""A series of real reductions: the same results on any number of workers, whatever dies on the way."""

import threading
import time

import psutil
import pytest

from quietbeam.beamline.cluster import ClusterSettings
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.reduce import ScanRequest, reduce_scan
from quietbeam.beamline.reprocess import reprocess
from quietbeam.beamline.series.disk_room import DiskRoom
from quietbeam.beamline.series.find_scans import FoundScan
from quietbeam.beamline.series.ledger import Ledger
from quietbeam.beamline.series.pool import InProcess
from quietbeam.beamline.series.scan_work import Advance, Requests
from quietbeam.reconstruction.errors import ReductionError, ScanError, SpaceError

from .jobs import results, small_scan, small_settings

NAMES = ("one", "two")
SETTINGS = small_settings(
    compute__threads=1,
    compute__memory_gib=4,
    archive__codec="lattice",
    codec__epochs=None,
    codec__options={},
    training__epochs=1,
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(NAMES):
        small_scan(folder / f"{name}.h5", num_rows=8, num_columns=32, num_angles=32, seed=seed)
    (folder / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing else")
    return tuple(FoundScan(name, folder / f"{name}.h5", name) for name in ("damaged", *NAMES))


@pytest.fixture(scope="module")
def alone(scans, tmp_path_factory):
    """What each scan gives by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for scan in scans[1:]:
        reduce_scan(scan.path, folder / scan.name, SETTINGS, progress=Silence())
    return {name: results(folder / name) for name in NAMES}


def series(scans, output, **cluster):
    output.mkdir(exist_ok=True)
    with Ledger(output, SETTINGS) as ledger:
        return reprocess(
            scans, output, SETTINGS, ClusterSettings(**cluster), ledger=ledger, progress=Silence(), overwrite=False
        )


def kill_a_worker(output, killed):
    """End a worker as soon as a piece is done."""
    while not list(output.glob("*/work/reconstruct.jsonl")):
        time.sleep(0.02)
    workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    killed.append(workers[0].pid)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_do_not_depend_on_the_workers(scans, alone, workers, tmp_path):
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, killed), daemon=True)
    if workers == 2:
        killer.start()
    summary = series(scans, tmp_path, workers=workers)
    assert (sorted(summary.done), list(summary.failed)) == (sorted(NAMES), ["damaged"])
    assert summary.failed["damaged"].exit_code == ScanError.exit_code
    assert {name: results(tmp_path / name) for name in NAMES} == alone
    assert len(killed) == (workers == 2)
    assert not list(tmp_path.glob("*/work"))
    again = series(scans, tmp_path, workers=workers)
    assert (sorted(again.skipped), list(again.failed_before)) == (sorted(NAMES), ["damaged"])
    assert not again.done and not again.failed


@pytest.mark.slow
def test_a_network_is_trained_by_several_processes(scans, tmp_path):
    """Up to its training, a scan goes forward as it does alone; the processes' sums are rounded in another order."""
    scan = scans[1]
    settings = SETTINGS.model_copy(update={"pairs": SETTINGS.pairs.model_copy(update={"batch_size": 2})})
    request = Requests(tmp_path)(scan, settings)
    with request.workspace.locked():
        here, together = InProcess(), Advance(training_processes=2)
        wanted = together(request, None)
        assert wanted.stage == "reconstruct"
        do(here, request, wanted)
        with pytest.raises(ReductionError, match=r"cluster\.training_processes, 2, got 1"):
            together(Requests(tmp_path)(scan, SETTINGS), "reconstruct")
        assert together(request, "reconstruct").stage == "denoise"
    assert len((tmp_path / "one" / "training.jsonl").read_text().splitlines()) == SETTINGS.training.epochs


def do(pool, request, wanted):
    from quietbeam.beamline.pieces import note_piece

    for chunk in wanted.chunks:
        pool.submit(wanted.task, chunk)
        note_piece(request.output, wanted.stage, chunk, pool.next_done()[1])


def test_what_a_worker_may_take_enters_no_settings_of_the_result(scans, tmp_path):
    requests = Requests(tmp_path, threads=3, memory_gib=2.5, scratch=tmp_path / "scratch", overwrite=True)
    request = requests(scans[1], small_settings(compute__threads=None))
    assert isinstance(request, ScanRequest) and request.overwrite
    compute = request.settings.compute
    assert (compute.threads, compute.memory_gib, compute.scratch) == (3, 2.5, tmp_path / "scratch")
    assert requests(scans[1], SETTINGS).settings.compute.threads == SETTINGS.compute.threads == 1


def test_scans_are_begun_as_the_disk_has_room(scans, tmp_path, monkeypatch):
    free = [0]
    usage = type("Usage", (), {"free": property(lambda self: free[0])})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage())
    room = DiskRoom(tmp_path)
    with pytest.raises(SpaceError, match=r"one: the scan needs 0\.00 GiB of disk, 0\.00 GiB are free"):
        room.take(scans[1], SETTINGS)
    with pytest.raises(ScanError, match="damaged"):
        room.take(scans[0], SETTINGS)
    free[0] = next(iter(room._needs(scans[1], SETTINGS).values()))
    assert room.take(scans[1], SETTINGS) and not room.take(scans[2], SETTINGS)
    moved = scans[2].path.rename(tmp_path / "moved.h5")
    assert not room.take(scans[2], SETTINGS)  # it is not opened again
    moved.rename(scans[2].path)
    room.give_back("one")
    assert room.take(scans[2], SETTINGS)
