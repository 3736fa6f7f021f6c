from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from event_model import DocumentNames, DocumentRouter, schema_validators
from pydantic import ValidationError

from quietbeam.beamline.jobs.worker_settings import WorkerSettingsError, read_worker_settings
from quietbeam.beamline.publishing.derived_run import derived_run, quality
from quietbeam.beamline.publishing.provenance import read_provenance
from quietbeam.beamline.publishing.publish import PublishError, PublishSettings, publish_result

from .finished_result import KEY, RAW_UID, SHA256, finished_result, manifest_of, raw_run

SETTINGS = PublishSettings()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_result(tmp_path_factory.mktemp("scan 1") / "100% out")


def compose(output: Path, settings: PublishSettings = SETTINGS, run: dict[str, Any] | None = None) -> list[Any]:
    return derived_run(read_provenance(output, run), settings)


def named(documents: list[Any], name: str) -> list[dict[str, Any]]:
    return [document for kind, document in documents if kind == name]


def test_documents_fit_the_schemas_and_are_plain_json(output):
    documents = compose(output, PublishSettings(tiled_archive=True), raw_run())
    for name, document in documents:
        schema_validators[DocumentNames[name]].validate(document)
    assert json.loads(json.dumps(documents)) == [list(pair) for pair in documents]
    assert [name for name, _ in documents] == [
        "start",
        "descriptor",
        *["stream_resource", "stream_datum"] * 2,
        "descriptor",
        "event",
        "stop",
    ]


def test_run_tells_where_it_comes_from(output):
    (start,) = named(compose(output, run=raw_run()), "start")
    raw = raw_run()["start"]
    assert (start["raw_uid"], start["raw_scan_id"]) == (RAW_UID, 123)
    assert (start["plan_name"], start["purpose"], start["analysis_stage"]) == ("tomo_denoise", "analysis", "denoised")
    assert start["software"]["quietbeam"] == "0.1.0"
    assert start["parameters"] == manifest_of(KEY)["settings"]
    for name in ("data_session", "proposal", "cycle", "sample_name"):
        assert start[name] == raw[name]
    assert "tomo" not in start
    assert "raw_path" not in start


def test_access_tags_are_those_of_the_raw_run(output):
    run = raw_run()
    run["start"]["tiled_access_tags"] = ["pass-7"]
    (start,) = named(compose(output, run=run), "start")
    assert start["tiled_access_tags"] == ["pass-7"]


def test_scan_named_by_its_path_has_no_raw_uid(output):
    (start,) = named(compose(output), "start")
    assert "raw_uid" not in start
    assert (start["raw_path"], start["raw_sha256"]) == ("/data/scan 1.h5", SHA256)


def test_run_of_the_output_folder_is_taken_if_none_is_given(tmp_path):
    output = finished_result(tmp_path)
    (output / "run.json").write_text(json.dumps(raw_run()))
    assert read_provenance(output).raw_uid == RAW_UID


def test_stop_counts_slices_and_the_one_event(output):
    documents = compose(output)
    (stop,), (datum,) = named(documents, "stop"), named(documents, "stream_datum")
    assert stop["num_events"] == {"primary": 11, "quality": 1}
    assert stop["exit_status"] == "success"
    assert datum["indices"] == {"start": 0, "stop": 11}
    assert datum["seq_nums"] == {"start": 1, "stop": 12}


def test_replay_makes_the_same_run_and_other_results_make_others(output, tmp_path):
    documents = compose(output, run=raw_run())
    assert compose(output, run=copy.deepcopy(raw_run())) == documents
    other_run = raw_run()
    other_run["start"]["uid"] = "not a uuid"
    other_key = finished_result(tmp_path, key="e" * 32)
    uids = {read_provenance(*given).uid for given in [(output, raw_run()), (output, other_run), (output, None)]}
    assert len(uids | {read_provenance(other_key, raw_run()).uid}) == 4


def test_quality_holds_every_number_that_is_one(output):
    documents = compose(output)
    (event,) = named(documents, "event")
    descriptor = next(document for document in named(documents, "descriptor") if document["name"] == "quality")
    assert event["data"] == {
        "noise": 2.5,
        "bits_per_voxel": 3.25,
        "max_error": 0.01,
        "largest_error": 0.009,
        "held_out_loss": 0.25,
        "rotation_axis": 23.5,
        "num_caveats": 1.0,
        "seconds_reconstruct": 2.0,
        "seconds_fit_codec": 1.0,
        "seconds_total": 3.0,
    }
    units = {name: key["units"] for name, key in descriptor["data_keys"].items()}
    assert (units["noise"], units["seconds_total"], units["rotation_axis"]) == ("1/m", "s", "pixel")


def test_nothing_is_made_up_where_nothing_was_trained():
    numbers = quality(manifest_of(KEY) | {"history": [], "rotation_axis": None})
    assert not {"held_out_loss", "rotation_axis", "psnr"} & numbers.keys()


def test_primary_stream_is_one_image_for_each_slice(output):
    documents = compose(output, PublishSettings(tiled_archive=True))
    (primary, _), resources = named(documents, "descriptor"), named(documents, "stream_resource")
    assert primary["data_keys"]["volume"]["shape"] == [20, 24]
    assert primary["data_keys"]["volume"]["dtype_numpy"] == "<f4"
    volume, archive = resources
    assert volume["parameters"]["dataset"] == "/entry/data/data"
    assert volume["uri"].startswith("file://localhost/")
    assert volume["uri"].endswith("/100%25%20out/published/volume.nxs")
    assert (archive["mimetype"], archive["data_key"]) == ("application/x-quietbeam-archive", "archive")
    assert archive["uri"].endswith("/100%25%20out/denoised.h5")


def test_places_are_told_as_readers_see_them(output):
    prefix = str(output.resolve().parent)
    settings = PublishSettings(path_map=((prefix[:-1], "/wrong"), (prefix, "/far away"), ("/", "/late")))
    (resource,) = named(compose(output, settings), "stream_resource")
    assert resource["uri"] == "file://localhost/far%20away/100%25%20out/published/volume.nxs"


def test_run_is_written_as_json_lines_once(tmp_path):
    output = finished_result(tmp_path / "out")
    settings = PublishSettings(documents=tmp_path / "runs" / "new")
    published = publish_result(output, settings, raw_run())
    path = Path(published["documents"])
    assert path == tmp_path / "runs" / "new" / f"{published['uid']}.jsonl"
    before, seen = path.stat(), []
    router = type("Seen", (DocumentRouter,), {"start": lambda _, doc: seen.append(doc)})()
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        router(entry["name"], entry["doc"])
    assert seen[0]["uid"] == published["uid"]
    publish_result(output, settings, raw_run())
    assert path.stat() == before
    assert list(path.parent.iterdir()) == [path]


def test_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(PublishError, match="not published"):
        publish_result(finished_result(tmp_path / "out"), PublishSettings(documents=tmp_path / "runs" / "new"))


@pytest.mark.parametrize("uri", ["http://host:8000?api_key=secret", "http://me:secret@host:8000", "host:8000"])
def test_key_in_the_address_is_refused_and_not_repeated(uri, tmp_path):
    with pytest.raises(ValidationError, match="tiled_uri must") as caught:
        PublishSettings(tiled_uri=uri)
    assert "secret" not in str(caught.value)
    config = tmp_path / "worker.toml"
    config.write_text(f'output = "/r"\n[publish]\ntiled_uri = "{uri}"\n')
    with pytest.raises(WorkerSettingsError, match="tiled_uri must") as told:
        read_worker_settings(config)
    assert "secret" not in str(told.value)


def test_derived_run_with_nothing_to_show_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="add nxtomoproc to formats"):
        PublishSettings(formats=("tiff",), documents=tmp_path)
