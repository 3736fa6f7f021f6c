"""The files that survive a crash: atomic files, journals, volumes, payloads."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quietbeam.beamline.atomic import atomic_path, file_sha256, temporaries_of, write_atomically
from quietbeam.beamline.journal import Journal, StageRecord, note, stage_key
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.payload_pieces import PayloadPieces, write_payload
from quietbeam.beamline.volume_pieces import VolumePieces, write_slices
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


KILLED = """
import os, sys
from pathlib import Path
from quietbeam.beamline.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)
"""


def test_several_write_the_same_at_once_and_what_a_killed_one_left_goes(tmp_path):
    path = tmp_path / "file"
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    (left,) = temporaries_of(path)
    assert temporaries_of(tmp_path / "fil") == []
    with atomic_path(path) as one, atomic_path(path) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        assert set(temporaries_of(path)) == {one, other} and left not in (one, other)
    assert path.read_bytes() == b"one"
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


INDICES = [
    np.s_[2],
    np.s_[-1, 1],
    np.s_[3, 2:4, -1],
    np.s_[:],
    np.s_[1:6, 2:4, -1],
    np.s_[0:7:3],
    np.s_[-3:, ::2],
    np.s_[4:4],
    np.s_[5:100, 0, 0],
]


@pytest.mark.parametrize("edges", [(0, 7), (0, 4, 7), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_a_volume_in_pieces_reads_as_an_array(tmp_path, edges):
    values = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    chunks = [slice(start, stop) for start, stop in pairwise(edges)]
    for chunk in reversed(chunks):
        write_slices(tmp_path, chunk, values[chunk])
    volume = VolumePieces.of(tmp_path, values.shape, [{"stop": chunk.stop} for chunk in chunks])
    for index in INDICES:
        np.testing.assert_array_equal(volume[index], values[index])
    part = volume[2]
    part[:] = 0
    np.testing.assert_array_equal(volume[2], values[2])
    volume.save(tmp_path / "whole.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), values)
    with pytest.raises(IndexError):
        volume[7]
    with pytest.raises(ValueError, match="ascending"):
        volume[::-1]


def test_a_piece_of_another_size_is_told(tmp_path):
    write_slices(tmp_path, slice(0, 2), np.zeros((2, 3), np.float32))
    write_slices(tmp_path, slice(2, 4), np.zeros((2, 3), np.float32))
    volume = VolumePieces(tmp_path, (4, 3), (0, 2, 4))
    path = tmp_path / "00000002-00000004.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReductionError, match=r"00000002-00000004\.npy: .* run the command again"):
        volume[:]
    np.save(path, np.zeros((2, 4), np.float32))
    with pytest.raises(ReductionError, match=r"expected float32 of shape \(2, 3\), got float32 of \(2, 4\)"):
        volume[3]
    with pytest.raises(ValueError, match="expected 2 slices from 4 on, got 3"):
        write_slices(tmp_path, slice(4, 6), np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="expected pieces of 5 slices, got 4"):
        VolumePieces.of(tmp_path, (5, 3), [{"stop": 2}, {"stop": 4}])


def test_payloads_are_read_in_order_and_checked(tmp_path):
    records = [
        {"start": 0, "stop": 4, "sha256": write_payload(tmp_path, slice(0, 4), b"first"), "crc32": 1},
        {"start": 4, "stop": 6, "sha256": write_payload(tmp_path, slice(4, 6), b"second"), "crc32": None},
    ]
    payloads = PayloadPieces(tmp_path, [record | {"largest_error": 0.5} for record in records])
    assert list(payloads) == [(b"first", 1, 0.5), (b"second", None, 0.5)]
    write_payload(tmp_path, slice(0, 4), b"firzt")
    with pytest.raises(ReductionError, match=r"00000000-00000004\.bin: damaged on the disk"):
        list(payloads)


def test_workspace_is_locked_for_others(tmp_path):
    with (
        Workspace(tmp_path / "out").locked(),
        pytest.raises(LockedError, match="another process is at work here"),
        Workspace(tmp_path / "out").locked(),
    ):
        pass
    with Workspace(tmp_path / "out").locked():
        pass


def test_folder_and_journal_agree_on_what_is_done(tmp_path):
    workspace = Workspace(tmp_path / "out")
    with workspace.locked():
        journal = workspace.journal("reconstruct", "key")
        folder = workspace.pieces("sections", journal)
        for start in (4, 0, 8):
            write_slices(folder, slice(start, start + 2), np.zeros((2, 3), np.float32))
        for start in (4, 0, 6):
            journal.append({"start": start, "stop": start + 2})
        (folder / ".00000000-00000002.npy.1234.partial").write_bytes(b"left by a killed process")
        journal = workspace.journal("reconstruct", "key")
        assert workspace.pieces("sections", journal) == folder
        assert [path.name for path in sorted(folder.iterdir())] == ["00000000-00000002.npy", "00000004-00000006.npy"]
        assert [record["start"] for record in workspace.journal("reconstruct", "key").pieces()] == [0, 4]
        late = workspace.pieces("sections", workspace.journal("reconstruct", "other key"))
        assert not folder.exists()
        with pytest.raises(FileNotFoundError):  # a process that was lost, and comes late with what is not wanted now
            write_slices(folder, slice(0, 2), np.zeros((2, 3), np.float32))
        assert not list(late.iterdir())


def test_a_piece_that_is_not_listed_yet_is_found_by_its_name(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "out")
    with workspace.locked():
        journal = workspace.journal("reconstruct", "key")
        folder = workspace.pieces("sections", journal)
        write_slices(folder, slice(0, 2), np.zeros((2, 3), np.float32))
        for start in (0, 2):
            journal.append({"start": start, "stop": start + 2})
        monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))  # as a network disk that has not looked again
        workspace.pieces("sections", journal)
        assert [record["start"] for record in journal.pieces()] == [0]


def test_a_late_piece_does_not_keep_the_folder(tmp_path, monkeypatch):
    """It is written while the folder is removed."""
    workspace = Workspace(tmp_path / "out")
    with workspace.locked():
        folder = workspace.pieces("sections", workspace.journal("reconstruct", "key"))
        write_slices(folder, slice(0, 2), np.zeros((2, 3), np.float32))
        late, unlink = [], os.unlink

        def unlink_and_write(*args, **options):
            unlink(*args, **options)
            if "dir_fd" in options and not late:
                late.append("came")
                with pytest.raises(FileNotFoundError):
                    write_slices(folder, slice(2, 4), np.zeros((2, 3), np.float32))

        (workspace.output / ".report.html.01234567-1-01234567.partial").write_bytes(b"of a killed worker")
        monkeypatch.setattr(os, "unlink", unlink_and_write)
        workspace.clean()
    assert late
    assert [path.name for path in workspace.output.iterdir()] == [".lock"]


def test_a_piece_counts_once_whoever_noted_it(tmp_path):
    journal = Journal(tmp_path / "encode.jsonl", "key")
    for start, stop in [(4, 8), (0, 4), (4, 8), (2, 6), (8, 9)]:
        note(journal.path, {"start": start, "stop": stop})
    pieces = Journal(journal.path, "key").pieces()
    assert [(record["start"], record["stop"]) for record in pieces] == [(0, 4), (4, 8), (8, 9)]


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
        workspace.pieces("sections", workspace.journal("reconstruct", "key"))
        (workspace.scratch / "thesis.txt").write_text("years of work")
        workspace.clean()
        assert [path.name for path in workspace.scratch.iterdir()] == ["thesis.txt"]
        (workspace.scratch / "thesis.txt").unlink()
        workspace.clean()
        assert not workspace.scratch.exists()
