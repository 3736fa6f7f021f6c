from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.parse import quote

import pytest

from quietbeam.beamline.runs.local_files import local_file
from quietbeam.beamline.scan import scan_identity
from quietbeam.reconstruction.errors import ScanError

from .bluesky_runs import ANGLES, DATASET, bench, check, codes, step_scan


@pytest.fixture
def made(tmp_path):
    with bench(tmp_path) as made:
        yield made


class TestLocalFiles:
    @pytest.mark.parametrize(
        "uri",
        [
            "file://localhost/data/a%20b/c%231.h5",
            "file:///data/a b/c#1.h5",
            "file:/data/a%20b/c#1.h5",
            "/data/a b/c#1.h5",
            "FILE://host.domain/data/a%20b/c%231.h5",
        ],
    )
    def test_spellings(self, uri):
        assert local_file(uri) == Path("/data/a b/c#1.h5")

    def test_percent_as_it_is(self, tmp_path):
        (tmp_path / "50%25.h5").touch()
        assert local_file(f"file://localhost{tmp_path}/50%25.h5") == tmp_path / "50%25.h5"
        (tmp_path / "50%.h5").touch()
        assert local_file(f"file://localhost{tmp_path}/50%25.h5") == tmp_path / "50%.h5"

    @pytest.mark.parametrize(
        ("uri", "path"),
        [
            ("file://localhost/data/x.h5", "/mnt/data/x.h5"),
            ("file://localhost/data/raw/x.h5", "/mnt/raw/x.h5"),
            ("file://localhost/database/x.h5", "/database/x.h5"),
            ("file://other/data/x.h5", "/mnt/other/x.h5"),
            ("file://localhost/C:/data/x.h5", "/mnt/c/data/x.h5"),
        ],
    )
    def test_longest_beginning_counts(self, uri, path):
        path_map = (
            ("/data/", "/mnt/data"),
            ("/data/raw", "/mnt/raw/"),
            ("file://other/data", "/mnt/other"),
            ("C:", "/mnt/c"),
        )
        assert local_file(uri, path_map) == Path(path)

    def test_not_a_file(self):
        with pytest.raises(ScanError, match=r"s3://bucket/x\.h5 is not a file"):
            local_file("s3://bucket/x.h5")

    def test_files_that_moved(self, made, tmp_path):
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        shutil.move(tmp_path / "raw", tmp_path / "moved % here")
        uri = f"file://localhost{quote(str(tmp_path))}/raw/det%200.h5"
        path = tmp_path / "raw" / "det 0.h5"
        with pytest.raises(ScanError, match=rf"{uri} is not here: {path} does not exist; .*scan.path_map"):
            made.open(reference)
        check(made.open(reference, path_map=((str(tmp_path / "raw"), str(tmp_path / "moved % here")),)))


WRITER = """
import sys, time
import h5py
path, mode, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with h5py.File(path) as file:
    frames = {name: file[name][:] for name in (sys.argv[4],)}
with h5py.File(path, "w", libver="latest" if mode != "old" else None) as file:
    for name, values in frames.items():
        half = len(values) // 2
        dataset = file.create_dataset(name, (0, *values.shape[1:]), values.dtype, maxshape=(None, *values.shape[1:]))
    if mode == "swmr":
        file.swmr_mode = True
    dataset.resize(half, axis=0)
    dataset[:] = values[:half]
    file.flush()
    print("half", flush=True)
    time.sleep(seconds)
    dataset.resize(len(values), axis=0)
    dataset[half:] = values[half:]
    file.flush()
    print("all", flush=True)
    sys.stdin.readline()
print("closed", flush=True)
"""


class Writer:
    """A process that writes a file anew: half of the frames, the others after some seconds, and then keeps it open."""

    def __init__(self, path, mode, seconds):
        arguments = [sys.executable, "-c", WRITER, str(path), mode, str(seconds), DATASET]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wait_for("half")

    def wait_for(self, word):
        assert self.process.stdout.readline().strip() == word

    def let_go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self):
        self.process.communicate("\n", timeout=20)


@pytest.fixture
def writer():
    started = []

    def start(*arguments):
        started.append(Writer(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
            one.process.communicate()


class TestFilesBeingWritten:
    @pytest.fixture
    def run(self, made):
        det = made.detector()
        return made.run(step_scan(made, [det], ANGLES)), det.files[0]

    def test_frames_come_and_the_file_stays_open(self, made, run, writer):
        process = writer(run[1], "swmr", 0.6)
        scan = made.open(run[0], wait_seconds=2.5)
        process.wait_for("all")
        assert codes(scan) == ["file-still-open"]
        check(scan)
        process.close()
        check(scan)
        assert codes(made.open(run[0])) == []

    def test_file_is_closed_in_time(self, made, run, writer):
        process = writer(run[1], "swmr", 0.0)
        process.wait_for("all")
        os.utime(run[1], (0, 0))
        with ThreadPool(1) as pool:
            opening = pool.apply_async(made.open, (run[0],), {"wait_seconds": 20.0})
            time.sleep(0.5)
            assert not opening.ready()
            process.close()
            scan = opening.get(10)
        check(scan)
        assert codes(scan) == []
        before = scan_identity(scan)
        assert before == scan_identity(made.open(run[0]))

    def test_too_few_frames(self, made, run, writer):
        writer(run[1], "swmr", 60.0)
        with pytest.raises(ScanError, match=r"has 9 of 18 frames after waiting 0\.3 s \(scan.wait_seconds\)"):
            made.open(run[0], wait_seconds=0.3)

    @pytest.mark.parametrize("mode", ["old", "new"])
    def test_writer_that_lets_nobody_read(self, made, run, writer, mode):
        """In the newer format the file cannot be opened before it is closed, in the older it has too few frames."""
        process = writer(run[1], mode, 1.5)
        with pytest.raises(ScanError, match=r"after waiting 0\.1 s"):
            made.open(run[0], wait_seconds=0.1)
        process.let_go()
        check(made.open(run[0], wait_seconds=20.0))
