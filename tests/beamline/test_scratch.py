"""The files that survive a crash: atomic files, journals, volumes, payloads."""

import json

import numpy as np
import pytest

from quietbeam.beamline.atomic import atomic_path, file_sha256, write_atomically
from quietbeam.beamline.journal import Journal, StageRecord, stage_key
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.payload_file import PayloadFile
from quietbeam.beamline.volume_file import VolumeFile
from quietbeam.beamline.workspace import Workspace
from quietbeam.reconstruction.errors import ArchiveError, LockedError, ReductionError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_hash_of_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_record_is_used_only_under_its_key(tmp_path):
    record = StageRecord(tmp_path / "axis.json", stage_key("axis", {"a": 1}))
    assert record.load() is None
    assert record.store({"column": 3.5, "pair": (1, 2)}) == {"column": 3.5, "pair": [1, 2]}
    assert record.load() == {"column": 3.5, "pair": [1, 2]}
    assert StageRecord(record.path, stage_key("axis", {"a": 2})).load() is None
    record.path.write_text(record.path.read_text()[:-3])
    assert record.load() is None


def test_journal_goes_on_and_forgets_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "chunks.jsonl"
    journal = Journal(path, "key")
    journal.append({"stop": 4})
    journal.append({"stop": 8})
    whole = path.read_bytes()
    for length in range(len(whole) - 12, len(whole)):
        path.write_bytes(whole[:length])
        again = Journal(path, "key")
        assert again.records in ([{"stop": 4}], [{"stop": 4}, {"stop": 8}])
        again.append({"stop": 99})
        assert Journal(path, "key").records == again.records
        path.write_bytes(whole)
    assert Journal(path, "other key").records == []


@pytest.mark.parametrize("content", ["", "null\n", "[1, 2\n", "{}\n{}\n", "\x00\x00"])
def test_a_broken_journal_is_begun_anew(tmp_path, content):
    path = tmp_path / "chunks.jsonl"
    path.write_text(content)
    assert Journal(path, "key").records == []


def test_volume_file_reads_what_was_written(tmp_path):
    volume = VolumeFile.create(tmp_path / "volume.npy", (7, 5, 6))
    values = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    volume.write(4, values[4:])
    volume.write(0, values[:4])
    np.testing.assert_array_equal(VolumeFile(volume.path)[1:6, 2:4, -1], values[1:6, 2:4, -1])
    np.testing.assert_array_equal(np.load(volume.path), values)
    part = volume[2]
    part[:] = 0
    np.testing.assert_array_equal(volume[2], values[2])
    with pytest.raises(ValueError, match=r"does not fit at 5"):
        volume.write(5, values[:3])


def test_payloads_are_written_over_what_a_crash_left(tmp_path):
    journal = Journal(tmp_path / "payloads.jsonl", "key")
    payloads = PayloadFile(tmp_path / "payloads.bin", journal)
    journal.append(payloads.append(b"first") | {"crc32": 1, "largest_error": 0.5})
    payloads.append(b"lost: never came into the journal")
    journal.append(payloads.append(b"second") | {"crc32": None, "largest_error": 0.0})
    again = PayloadFile(payloads.path, Journal(journal.path, "key"))
    assert list(again) == [(b"first", 1, 0.5), (b"second", None, 0.0)]
    payloads.path.write_bytes(b"firzt" + b"second")
    with pytest.raises(ReductionError, match=r"payloads\.bin: damaged on the disk"):
        list(again)


def test_workspace_is_locked_for_others(tmp_path):
    with (
        Workspace(tmp_path / "out").locked(),
        pytest.raises(LockedError, match="another process is at work here"),
        Workspace(tmp_path / "out").locked(),
    ):
        pass
    with Workspace(tmp_path / "out").locked():
        pass


def test_a_lost_volume_is_not_taken_for_a_finished_one(tmp_path):
    workspace = Workspace(tmp_path / "out")
    with workspace.locked():
        workspace.volume("sections", (2, 2), workspace.journal("sections", "key"))
        journal = workspace.journal("sections", "key")
        journal.append({"stop": 1})
        (workspace.scratch / "sections.npy").unlink()
        with pytest.raises(ReductionError, match=r"sections\.npy has gone"):
            workspace.volume("sections", (2, 2), workspace.journal("sections", "key"))


WHOLE = {
    "format": "quietbeam-manifest-1",
    "key": "k",
    "files": {name: {"bytes": 1, "sha256": ""} for name in ("denoised.h5", "network.safetensors", "report.html")},
    "input": {},
    "settings": {},
    "numbers": {},
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "3",
        "null",
        "[1, 2]",
        '{"format": "quietbeam-manifest-2"}',
        json.dumps(WHOLE)[:-1],
        json.dumps(WHOLE | {"input": []}),
        json.dumps(WHOLE | {"files": {}}),
        json.dumps(WHOLE | {"files": WHOLE["files"] | {"../outside": {"bytes": 1, "sha256": ""}}}),
        json.dumps(WHOLE | {"files": dict.fromkeys(WHOLE["files"], 3)}),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "manifest.json"
    with pytest.raises(ArchiveError, match="no manifest here"):
        read_manifest(path)
    path.write_text(content)
    with pytest.raises(ArchiveError, match=r"manifest\.json: "):
        read_manifest(path)
    path.write_text(json.dumps(WHOLE))
    assert read_manifest(path) == WHOLE


def test_a_torn_line_in_the_times_costs_that_line(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.locked():
        for _ in range(2):
            with workspace.timed("train"):
                pass
        path = workspace.scratch / "times.jsonl"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ZeroDivisionError), workspace.timed("denoise"):
            raise ZeroDivisionError
        assert set(workspace.times()) == {"train", "denoise"}


def test_cleaning_leaves_what_is_not_ours(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.locked():
        workspace.journal("sections", "key")
        (workspace.scratch / "thesis.txt").write_text("years of work")
        workspace.clean()
        assert [path.name for path in workspace.scratch.iterdir()] == ["thesis.txt"]
        (workspace.scratch / "thesis.txt").unlink()
        workspace.clean()
        assert not workspace.scratch.exists()
