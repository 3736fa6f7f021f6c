from __future__ import annotations

import json

import pytest

from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.reconstruction.errors import ScanError

from .bluesky_runs import ANGLES, bench, check, codes, step_scan


@pytest.fixture
def made(tmp_path):
    with bench(tmp_path) as made:
        yield made


STRANGE = (None, -1, 2**40, {"a": [1]})
NOT_WALKED = ("times", "versions", "time", "scan_id", "plan_type")


def ways(value):
    """List the ways to all parts of a value, of lists only the first."""
    if not isinstance(value, dict | list):
        return []
    steps = [key for key in value if key not in NOT_WALKED] if isinstance(value, dict) else list(range(len(value)))[:1]
    return [way for step in steps for way in ([step], *([step, *rest] for rest in ways(value[step])))]


class TestInput:
    @pytest.fixture
    def lines(self, made):
        made.run(step_scan(made, [made.detector()], ANGLES))
        return [json.dumps([name, document]) for name, document in made.documents]

    def open(self, tmp_path, lines, **settings):
        path = tmp_path / "run.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return open_scan(path, ScanSettings(wait_seconds=0, **settings))

    def test_documents(self, tmp_path, lines):
        check(self.open(tmp_path, lines))
        named = [json.dumps(dict(zip(("name", "doc"), json.loads(line), strict=True))) for line in lines]
        check(self.open(tmp_path, ["\x1e" + line for line in named]))

    def test_last_line_cut_off(self, tmp_path, lines):
        path = tmp_path / "run.jsonl"
        path.write_text("\n".join(lines)[:-30], encoding="utf-8")
        scan = open_scan(path, ScanSettings(wait_seconds=0))
        assert codes(scan) == ["run-without-stop"]
        check(scan)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 2: no JSON"),
            ("[]", "line 2: this is no document"),
            ("3", "line 2: this is no document"),
            ('["descriptor", {}]', r"line 2: this is no document of a run \(KeyError: 'data_keys'\)"),
            ('["descriptor", {"uid": "a", "time": null, "data_keys": {}}]', "line 2: this is no document"),
            ('["event", {"descriptor": "a"}]', "line 2: this is no document"),
            (
                '["stream_datum", {"indices": {"start": 0, "stop": 1e400}, "seq_nums": 1}]',
                "line 2: this is no document",
            ),
            ('["__init__", {}]', "line 2: this is no document"),
            ('["reference", {}]', "line 2: this is no document"),
            ('["emit", {}]', "line 2: this is no document"),
            ('["start", {"uid": []}]', "line 2: this is no document"),
            ("[" * 100_000, "nested too deeply|line 2: no JSON"),
        ],
    )
    def test_bad_documents(self, tmp_path, lines, line, message):
        with pytest.raises(ScanError, match=rf"run.jsonl.*{message}"):
            self.open(tmp_path, [lines[0], line, *lines[1:]])

    def test_no_start(self, tmp_path, lines):
        with pytest.raises(ScanError, match=r"line 1: .*the first document is a descriptor, expected the start"):
            self.open(tmp_path, lines[1:])
        with pytest.raises(ScanError, match="holds no start document"):
            self.open(tmp_path, [""])

    def test_several_runs(self, made, tmp_path, lines):
        second = [line.replace(json.loads(lines[0])[1]["uid"], "second") for line in lines]
        with pytest.raises(ScanError, match=r"holds the runs .*, second; choose one with --set scan.entry=UID"):
            self.open(tmp_path, lines + second)
        check(self.open(tmp_path, lines + second, entry="sec"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1: Expecting value"),
            ("[1, 2]", "expected a run reference of format 'quietbeam-run-1', got 'list'"),
            ('{"format": "other"}', "got 'other'"),
            ('{"format": "quietbeam-run-1"}', "start: expected the start document with its uid"),
            ('{"format": "quietbeam-run-1", "start": {"uid": "a"}, "stop": 1, "streams": []}', "stop: expected"),
            (
                '{"format": "quietbeam-run-1", "start": {"uid": "a"}, "streams": [1]}',
                r"streams\[0\]: expected a stream",
            ),
        ],
    )
    def test_bad_references(self, tmp_path, text, message):
        path = tmp_path / "run.json"
        path.write_text(text)
        with pytest.raises(ScanError, match=rf"run.json.*{message}"):
            open_scan(path)

    def test_anything_may_stand_there(self, made):
        """Each part of a reference in turn is something else: a scan, or an error that says what is wrong."""
        reference = made.run(step_scan(made, [made.detector()], ANGLES, md={"tomo": {"num": 12}, "plan_args": {}}))
        outcomes = [self.outcome(made, reference, way, value) for way in ways(reference) for value in STRANGE]
        assert outcomes.count("read") > 50
        assert outcomes.count("refused") > 50
        assert "silent" not in outcomes

    def outcome(self, made, reference, way, value):
        changed = json.loads(json.dumps(reference))
        holder = changed
        for step in way[:-1]:
            holder = holder[step]
        holder[way[-1]] = value
        try:
            made.open(changed)
        except ScanError as error:
            return "refused" if str(error) else "silent"
        return "read"

    def test_not_text(self, tmp_path):
        (tmp_path / "run.json").write_bytes(b"\xff\xfe\0")
        with pytest.raises(ScanError, match="is not text"):
            open_scan(tmp_path / "run.json")
