from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.atomic import temporaries_of
from quietbeam.beamline.manifest import write_manifest
from quietbeam.beamline.publishing.nxtomoproc import write_nxtomoproc
from quietbeam.beamline.publishing.provenance import read_provenance
from quietbeam.beamline.publishing.publish import PublishError, PublishSettings, publish_result
from quietbeam.beamline.publishing.tiff_stack import value_range, write_tiff_stack
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.beamline.workspace import ARCHIVE, Workspace
from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import ArchiveError

from .finished_result import (
    CHUNK_SLICES,
    KEY,
    PIXEL_SIZE,
    RAW_UID,
    finished_result,
    manifest_of,
    raw_run,
    write_volume_archive,
)

ALL = PublishSettings(formats=("nxtomoproc", "zarr", "tiff"))
HALF = 0.5 + 1e-9
"""Of a count, for the rounding; the rest is for double precision."""
REQUIRED = """
title definition instrument/source/type instrument/source/name instrument/source/probe sample/name
reconstruction/program reconstruction/version reconstruction/date reconstruction/parameters/raw_file
data/data data/x data/y data/z
"""
"""Fields that NXtomoproc demands of an entry, https://manual.nexusformat.org/classes/applications/NXtomoproc.html."""
CLASSES = {
    "": "NXentry",
    "instrument": "NXinstrument",
    "instrument/source": "NXsource",
    "sample": "NXsample",
    "reconstruction": "NXprocess",
    "reconstruction/parameters": "NXparameters",
    "data": "NXdata",
}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return finished_result(tmp_path / "out")


def decoded(output: Path) -> np.ndarray:
    with open_archive(output / ARCHIVE) as archive:
        return archive[:]


def read_tiffs(folder: Path) -> np.ndarray:
    slices = []
    for path in sorted(folder.iterdir()):
        with tifffile.TiffFile(path) as file:
            scaling = json.loads(file.pages[0].description)
            counts = file.asarray()
        assert counts.dtype == np.uint16
        assert scaling["slice"] == len(slices)
        slices.append(scaling["offset"] + scaling["scale"] * counts.astype(np.float64))
    return np.stack(slices), scaling


def states(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_every_format_holds_the_decoded_archive(output):
    publish_result(output, ALL)
    folder, volume = output / "published", decoded(output)
    with h5py.File(folder / "volume.nxs") as file:
        np.testing.assert_array_equal(file["entry/data/data"][:], volume)
    np.testing.assert_array_equal(pytest.importorskip("zarr").open_group(folder / "volume.zarr", mode="r")["0"], volume)
    values, scaling = read_tiffs(folder / "tiff")
    assert np.abs(values - volume).max() <= HALF * scaling["scale"]
    assert scaling["scale"] == pytest.approx((float(volume.max()) - float(volume.min())) / 65535)
    assert {path.name for path in folder.iterdir()} == {"volume.nxs", "volume.zarr", "tiff", "published.json"}
    assert verify_output(output).damaged == []


def test_nexus_file_is_what_nxtomoproc_demands(output):
    publish_result(output, PublishSettings(source_name="Light"), raw_run())
    with h5py.File(output / "published" / "volume.nxs") as file:
        entry = file["entry"]
        assert {name: entry[name or "."].attrs["NX_class"] for name in CLASSES} == CLASSES
        assert [name for name in REQUIRED.split() if name not in entry] == []
        assert entry["definition"].asstr()[()] == "NXtomoproc"
        assert entry["instrument/source/type"].asstr()[()] == "Synchrotron X-ray Source"
        data = entry["data"]
        assert {"transform", "offset", "scaling"} <= set(data["data"].attrs)
        assert list(data.attrs["axes"]) == ["z", "y", "x"]
        assert data["data"].attrs["units"] == "1/m"
        for name, length in zip("zyx", data["data"].shape, strict=True):
            assert data[name].attrs["units"] == "m"
            np.testing.assert_allclose(data[name], PIXEL_SIZE * np.arange(length))
        parameters = entry["reconstruction/parameters"]
        assert parameters["raw_uid"].asstr()[()] == RAW_UID
        assert parameters["raw_file"].asstr()[()] == "/data/raw 1.h5"
        assert json.loads(parameters["settings"][()]) == manifest_of(KEY)["settings"]
        assert entry["sample/name"].asstr()[()] == "foam 3"


def test_nexus_file_is_understood_by_silx(output):
    nxdata = pytest.importorskip("silx.io.nxdata")
    publish_result(output, PublishSettings())
    with h5py.File(output / "published" / "volume.nxs") as file:
        shown = nxdata.get_default(file)
        assert shown.is_valid, shown.issues
        assert (shown.signal_dataset_name, shown.axes_dataset_names) == ("data", ["z", "y", "x"])


def test_nexus_file_needs_no_filter_that_hdf5_lacks_and_has_a_checksum_for_each_slice(output):
    publish_result(output, PublishSettings())
    path = output / "published" / "volume.nxs"
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.chunks == (1, 20, 24)
        assert (data.shuffle, data.compression, data.fletcher32) == (True, "gzip", True)
        assert data.id.get_create_plist().get_nfilters() == 3
        place = data.id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 1
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert np.isfinite(file["entry/data/data"][2]).all()
        with pytest.raises(OSError, match="read"):
            file["entry/data/data"][3]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", HALF), ("uint8", 0), ("int16", 0)])
def test_tiff_alone_scales_by_the_range_of_the_archive_and_keeps_integers(tmp_path, dtype, tolerance):
    output = finished_result(tmp_path / "out", dtype=dtype)
    publish_result(output, PublishSettings(formats=("tiff",)))
    values, scaling = read_tiffs(output / "published" / "tiff")
    assert np.abs(values - decoded(output)).max() <= tolerance * scaling["scale"]


def test_tiff_of_a_constant_volume(output):
    write_volume_archive(output / ARCHIVE, np.full((5, 4, 6), 2.5, np.float32))
    write_manifest(output, manifest_of(KEY))
    publish_result(output, PublishSettings(formats=("tiff",)))
    values, scaling = read_tiffs(output / "published" / "tiff")
    assert scaling["scale"] == 1
    np.testing.assert_array_equal(values, decoded(output))


def test_what_is_whole_is_not_made_again(output):
    first = publish_result(output, ALL)
    before = states(output)
    assert publish_result(output, ALL) == first
    assert states(output) == before


def test_record_names_size_and_hash_of_all(output):
    publish_result(output, ALL)
    folder = output / "published"
    record = json.loads((folder / "published.json").read_text())
    assert (record["manifest_key"], record["formats"]) == (KEY, ["nxtomoproc", "tiff", "zarr"])
    assert record["files"]["tiff"]["num_files"] == 11
    assert record["files"]["nxtomoproc"]["bytes"] == (folder / "volume.nxs").stat().st_size


@pytest.mark.parametrize("name", ["volume.nxs", "tiff/slice_03.tiff", "volume.zarr/0/zarr.json"])
@pytest.mark.parametrize("change", ["flipped", "gone", "touched"])
def test_only_what_has_changed_is_made_again(output, name, change):
    publish_result(output, ALL)
    path, before = output / "published" / name, states(output / "published")
    content = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes(content if change == "touched" else content[:-1] + bytes([content[-1] ^ 1]))
    publish_result(output, ALL)
    assert path.read_bytes() == content
    made = str(output / "published" / name.split("/")[0])
    after = states(output / "published")
    kept = {path for path in before if before[path] == after[path]}
    untouched = {path for path in before if not path.startswith(made) and not path.endswith("published.json")}
    assert untouched <= kept
    if change == "touched":
        assert len(kept) == len(before) - 1


def test_new_result_replaces_all_and_leaves_no_format_of_the_old_one(tmp_path):
    output = finished_result(tmp_path / "out")
    publish_result(output, ALL)
    finished_result(output, seed=1, key="f" * 32)
    publish_result(output, PublishSettings(formats=("nxtomoproc", "tiff")))
    folder = output / "published"
    with h5py.File(folder / "volume.nxs") as file:
        np.testing.assert_array_equal(file["entry/data/data"][:], decoded(output))
    values, scaling = read_tiffs(folder / "tiff")
    assert np.abs(values - decoded(output)).max() <= HALF * scaling["scale"]
    assert {path.name for path in folder.iterdir()} == {"volume.nxs", "tiff", "published.json"}


def test_format_asked_for_later_is_added(output):
    publish_result(output, PublishSettings())
    before = states(output / "published")
    publish_result(output, PublishSettings(formats=("tiff",)))
    nexus = str(output / "published" / "volume.nxs")
    assert states(output / "published")[nexus] == before[nexus]
    assert (output / "published" / "tiff").is_dir()


def test_without_zarr_one_is_told_and_the_rest_stays(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(PublishError, match=r"needs the package zarr, version 3: pip install 'quietbeam\[zarr\]'"):
        publish_result(output, ALL)
    before = states(output / "published")
    publish_result(output, PublishSettings())
    assert states(output / "published") == before
    assert verify_output(output).damaged == []


def test_damaged_archive_leaves_no_half_file(tmp_path):
    output = finished_result(tmp_path / "out")
    content = bytearray((output / ARCHIVE).read_bytes())
    with open_archive(output / ARCHIVE) as archive:
        payload = archive.read_part(sorted(name for name in archive.parts if name.startswith("chunk"))[-1])
    content[content.index(payload) + len(payload) // 2] ^= 1
    (output / ARCHIVE).write_bytes(content)
    with pytest.raises(ArchiveError, match="does not match its checksum"):
        publish_result(output, ALL)
    assert [path.name for path in (output / "published").iterdir()] == ["published.json"]


def test_folder_without_a_result_is_refused_and_left_alone(tmp_path):
    with pytest.raises(ArchiveError, match="no manifest here"):
        publish_result(tmp_path, ALL)
    assert list(tmp_path.iterdir()) == []


def test_folder_at_which_another_process_works_is_left_alone(output):
    with Workspace(output).locked(), pytest.raises(PublishError, match="another process is at work here"):
        publish_result(output, ALL)
    assert not (output / "published").exists()


def test_killed_in_the_midst_it_is_made_again(tmp_path):
    output = finished_result(tmp_path / "out", shape=(24, 64, 64))
    code = (
        "import sys; from pathlib import Path; "
        "from quietbeam.beamline.publishing.publish import PublishSettings, publish_result; "
        "publish_result(Path(sys.argv[1]), PublishSettings())"
    )
    volume = output / "published" / "volume.nxs"
    with subprocess.Popen([sys.executable, "-c", code, str(output)]) as process:
        while not temporaries_of(volume):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert temporaries_of(volume)
    assert not (output / "published" / "volume.nxs").exists()
    publish_result(output, PublishSettings())
    with h5py.File(output / "published" / "volume.nxs") as file:
        np.testing.assert_array_equal(file["entry/data/data"][:], decoded(output))
    assert not temporaries_of(volume)


def test_memory_does_not_grow_with_the_number_of_slices(output):
    peaks = []
    for num_slices in (8, 8, 64):  # the first one warms up
        volume = np.zeros((num_slices, 128, 128), np.float32)
        write_volume_archive(output / ARCHIVE, volume)
        target = output / str(len(peaks))
        target.mkdir()
        with open_archive(output / ARCHIVE, cache_bytes=0) as archive:
            tracemalloc.start()
            write_nxtomoproc(archive, target / "volume.nxs", read_provenance(output), PublishSettings())
            write_tiff_stack(archive, target / "tiff", value_range(archive))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] - peaks[1] < volume[:CHUNK_SLICES].nbytes, peaks  # the volumes differ by fourteen chunks
