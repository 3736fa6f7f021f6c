"""Slices worked on by any process in any order: the same results, and nothing is done that was done."""

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.beamline.pieces import Elsewhere, Here, PiecesWanted, cut, gaps, note_piece
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.recording import ScanSettings
from quietbeam.beamline.reduce import Finished, ScanRequest, Wanted, advance, reduce_scan
from quietbeam.reconstruction.errors import ReductionError

from .jobs import results, small_scan, small_settings


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def reduced(scan, tmp_path_factory):
    output = tmp_path_factory.mktemp("reduced") / "out"
    reduce_scan(scan, output, small_settings(), progress=Silence())
    return results(output)


@given(st.integers(1, 60), st.lists(st.integers(0, 60)), st.integers(1, 9), st.data())
def test_what_is_done_and_what_is_left_hold_each_slice_once(total, edges, size, data):
    edges = sorted({min(edge, total) for edge in edges} | {0, total})
    parts = [range(start, stop) for start, stop in pairwise(edges)]
    done = [part for part in parts if data.draw(st.booleans())]
    data.draw(st.randoms()).shuffle(done)
    left = gaps(done, total)
    chunks = cut(left, size)
    held = [index for part in (*done, *(range(chunk.start, chunk.stop) for chunk in chunks)) for index in part]
    assert sorted(held) == list(range(total))
    assert all(0 < chunk.stop - chunk.start <= size for chunk in chunks)
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
    assert gaps([*done, *left], total) == []


def test_here_does_a_chunk_when_it_is_asked_for_and_elsewhere_none():
    done = []
    chunks = [slice(0, 2), slice(2, 3)]
    found = Here().run("encode", lambda chunk: done.append(chunk) or {"length": chunk.stop}, chunks)
    assert not done
    assert list(found) == [(slice(0, 2), {"length": 2}), (slice(2, 3), {"length": 3})]
    with pytest.raises(PiecesWanted, match="encode: 2 chunks") as wanted:
        Elsewhere().run("encode", done.append, chunks)
    assert wanted.value.chunks == done == chunks
    assert not list(Elsewhere().run("encode", done.append, []))


def sent(task, chunk):
    """Do a chunk as another process would: with a copy of the task that went over the wire."""
    return ForkingPickler.loads(ForkingPickler.dumps(task))(chunk)


def do_some(request, wanted, chunks):
    scratch = request.settings.compute.scratch
    for chunk in chunks:
        note_piece(request.output, wanted.stage, chunk, sent(wanted.task, chunk), scratch=scratch)


def test_pieces_in_any_order_of_any_size_give_the_same(scan, reduced, tmp_path):
    scratch = tmp_path / "fast disk"
    of_three, request = (
        ScanRequest(scan, tmp_path / "out", small_settings(compute__scratch=scratch, compute__chunk_slices=size))
        for size in (3, 4)
    )
    with request.workspace.locked():
        wanted = advance(of_three)
        assert wanted.stage == "reconstruct"
        assert wanted.chunks == tuple(slice(start, min(start + 3, 16)) for start in range(0, 16, 3))
        sent(wanted.task, wanted.chunks[0])  # done, and never noted
        do_some(of_three, wanted, [wanted.chunks[3], wanted.chunks[1], wanted.chunks[3]])

        wanted = advance(request)
        assert wanted.chunks == (slice(0, 3), slice(6, 9), slice(12, 16))
        stages = []
        while isinstance(wanted, Wanted):
            stages.append(wanted.stage)
            assert not list((tmp_path / "out").glob("work*"))
            chunks = list(wanted.chunks)
            random.Random(0).shuffle(chunks)
            do_some(request, wanted, chunks[1:])
            again = advance(request)
            assert (again.stage, again.chunks) == (wanted.stage, (chunks[0],))
            do_some(request, again, [chunks[0], chunks[0]])
            wanted = advance(request)
    assert stages == ["reconstruct", "denoise", "encode"]
    assert wanted == Finished(was_done=False)
    assert not list(scratch.iterdir())
    made = results(tmp_path / "out")
    assert made | {"report": ""} == reduced | {"report": ""}  # the report tells the scratch folder that was set
    assert advance(request) == Finished(was_done=True)


@pytest.mark.slow
def test_pieces_of_several_processes_give_the_same(scan, reduced, tmp_path):
    request = ScanRequest(scan, tmp_path / "out", small_settings())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool, request.workspace.locked():
        while isinstance(wanted := pool.submit(advance, request).result(), Wanted):
            chunks = wanted.chunks[::-1]
            for chunk, record in zip(chunks, pool.map(wanted.task, chunks), strict=True):
                note_piece(request.output, wanted.stage, chunk, record)
    assert results(tmp_path / "out") == reduced


def test_what_is_not_cheap_is_done_once(scan, tmp_path, monkeypatch):
    """Between the steps of a job the held-out slices are not denoised again, and no codec is made again."""
    settings = small_settings(archive__codec="zfp", codec__epochs=None, codec__options={})
    request = ScanRequest(scan, tmp_path / "out", settings)
    with request.workspace.locked():
        while isinstance(wanted := advance(request), Wanted):
            do_some(request, wanted, wanted.chunks)
            if wanted.stage == "encode":
                monkeypatch.setattr("quietbeam.beamline.denoised_slices.denoise_slice", None)
                monkeypatch.setattr("quietbeam.beamline.codec_fitting._fit", None)
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_task_does_not_depend_on_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_scan(Path("scan.h5"))
    np.savetxt("angles.txt", np.linspace(0, 180, 48, endpoint=False))
    settings = small_settings(scan__flats="scan.h5:/exchange/data_white", scan__angles="angles.txt")
    request = ScanRequest(Path("scan.h5"), Path("out"), settings)
    with request.workspace.locked():
        wanted = advance(request)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert sent(wanted.task, slice(0, 4))["noise"]
    settings = ScanSettings(angles="0 : 1e2", allowed_link_roots=("a",)).absolute()
    assert (settings.angles, settings.allowed_link_roots) == ("0 : 1e2", (tmp_path / "elsewhere" / "a",))


def test_a_scratch_folder_that_cannot_be_made_is_told(scan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings = small_settings(compute__scratch=tmp_path / "file")
    with pytest.raises(ReductionError, match=r"file/out-.* cannot be made .* set compute\.scratch"):
        reduce_scan(scan, tmp_path / "out", settings, progress=Silence())


def test_outputs_of_one_name_share_a_scratch_disk(scan, tmp_path):
    settings = small_settings(compute__scratch=tmp_path / "scratch")
    first, second = (ScanRequest(scan, tmp_path / name / "out", settings).workspace for name in "ab")
    assert first.scratch != second.scratch
    assert first.scratch.parent == second.scratch.parent == tmp_path / "scratch"
    raw = small_scan(first.scratch / "sections" / "scan.h5")
    with pytest.raises(ReductionError, match=r"lies there itself.*compute\.scratch"):
        advance(ScanRequest(raw, first.output, settings))
