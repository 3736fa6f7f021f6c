"""Damaged and hostile archives, thousands of them, each read in a process with limits.

``python tests/compress/fuzz.py --cases 2000 --seed 0`` prints counts and failures as JSON. A case is an archive changed
at random: anywhere in the file, or in one part with all checksums made to fit again, so that the change reaches what
reads that part. It comes out as one of

========  ==============================================================================================
refused   an `ArchiveError`
equal     the volume and the header as they were written
changed   another answer of the shape and type that the header names: only where the checksums were made to fit
large     opened, but not decoded, because the changed header declares more than `LARGEST` bytes
wrong     a failure: other voxels though no checksum was made to fit, or another shape than the header names
error     a failure: another exception
memory    a failure: more memory than 4 times what the header declares and `SLACK`
hang      a failure: more than `SECONDS` of processor time
killed    a failure: the process died
========  ==============================================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from quietbeam.compress.archive import Archive, ArchiveHeader, encode_chunk, open_archive, write_archive
from quietbeam.compress.archive_file import FORMAT_APART, IndexEntry, write_bytes, write_index, write_text
from quietbeam.compress.chunks import checksum, decode_chunk
from quietbeam.compress.codec import codec
from quietbeam.compress.preview import Preview, read_preview, write_preview
from quietbeam.compress.shared_decoder import DECODERS, store_decoder
from quietbeam.reconstruction.errors import ArchiveError

FAILURES = ("wrong", "error", "memory", "hang", "killed")
LARGEST = 64 * 2**20
SLACK = 64 * 2**20
"""Bytes that reading may take beside 4 times the volume: buffers of the libraries, and the file itself."""
SECONDS = 5.0
REPAIRED_SHARE = 0.6
HEAD = 24
"""First bytes of a chunk, where sizes, kind, offset and unit are."""
HEAD_SHARE = 0.3
"""Share of the changes to chunks that are made there."""
SETTINGS = {"crae": {"width": 4, "latent_channels": 8, "crop_size": 32}}


class Result(NamedTuple):
    """What came of a case."""

    case: int
    outcome: str
    detail: str


class Origin(NamedTuple):
    """An archive to be changed, and what it holds."""

    name: str
    content: bytes
    parts: dict[str, bytes]
    preview: Preview | None
    header: ArchiveHeader
    voxels: np.ndarray
    reduced: np.ndarray | None
    form: str


class Changed(NamedTuple):
    """A changed archive; `declared` is what its header says that the volume takes, in bytes."""

    content: bytes
    repaired: bool
    declared: int
    what: str


def small_volume(shape: tuple[int, int, int]) -> np.ndarray:
    """A smooth ball with a little noise, and one voxel far off."""
    z, y, x = (np.linspace(-1, 1, size) for size in shape)
    volume = np.tanh(4 * (0.6 - np.hypot(np.hypot(z[:, None, None], y[:, None]), x)))
    volume = (volume + 0.01 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    volume[0, 1, 2] = 1e7
    return volume


def write_origin(
    path: Path, volume: np.ndarray, max_error: float, codec_name: str | None = None, decoders: Path | None = None
) -> None:
    """Write an archive of chunks of two slices; latents are kept."""
    made: Any = None
    if codec_name is not None:
        kind: Any = codec(codec_name)
        settings = kind.settings_type.model_validate(SETTINGS.get(codec_name, {}))
        learned = hasattr(kind, "for_volume")
        made = kind.for_volume(volume, settings, 0) if learned else kind.fit(volume, settings, seed=0)
    header = ArchiveHeader(
        shape=volume.shape,
        dtype=volume.dtype.name,
        codec=codec_name,
        max_error=max_error,
        chunk_slices=2,
        metadata={"name": "ball", "pixel_size": 1e-6, "decisions": [["a", 1, None], {"b": "µ"}]},
    )
    chunks = [
        encode_chunk(made, volume[start : start + 2], max_error, keep_latents="always")
        for start in range(0, len(volume), 2)
    ]
    write_archive(path, chunks, header, made.to_bytes() if made else b"", decoders=decoders)


def make_origins(folder: Path, codecs: tuple[str, ...]) -> list[Origin]:
    """Write the archives that are changed, and read those of the first format."""
    ball = small_volume((5, 9, 8))
    write_origin(folder / "plain.h5", ball, 0.01)
    write_origin(folder / "exact.h5", ball, 1e-9)
    write_origin(folder / "uint8.h5", np.clip(100 + 90 * ball, 0, 255).astype(np.uint8), 0)
    write_origin(folder / "int16.h5", np.clip(9000 * ball, -(2**15), 2**15 - 1).astype(np.int16), 20)
    for name in codecs:
        write_origin(folder / f"{name}.h5", small_volume((3, 34, 33)), 0.01, name)
    for name in codecs[:1]:
        write_origin(folder / f"{name}-apart.h5", small_volume((3, 34, 33)), 0.01, name, folder / DECODERS)
    first = sorted((Path(__file__).parent / "archives" / "v1").glob("*.h5"))
    return [read_origin(path) for path in (*sorted(folder.glob("*.h5")), *first)]


def read_origin(path: Path) -> Origin:
    """Take an archive apart."""
    with open_archive(path) as archive, h5py.File(path) as file:
        parts = {name: archive.read_part(name) for name in archive.parts if name != "preview"}
        factor = archive.preview_factor
        preview = read_preview(file, archive.header, factor, 2**20) if factor else None
        reduced = archive.preview() if factor else None
        name = f"{archive.format[-1]}:{path.stem}"
        content, form = path.read_bytes(), archive.format
        return Origin(name, content, parts, preview, archive.header, archive[:], reduced, form)


def change(origins: list[Origin], rng: np.random.Generator, scratch: Path) -> tuple[Origin, Changed]:
    """Change one of the archives."""
    origin, other = (origins[rng.integers(len(origins))] for _ in range(2))
    if origin.preview is None or rng.random() > REPAIRED_SHARE:
        content = change_bytes(origin.content, rng, other.content)
        return origin, Changed(content, False, origin.header.num_bytes, "file")
    parts, preview, edit = dict(origin.parts), origin.preview, None
    chunks = [name for name in parts if name.startswith("chunk")]
    wanted = str(rng.choice(["header", "header", "preview", "index", "codec", *["chunk"] * 5]))
    what = str(rng.choice(chunks)) if wanted == "chunk" or not parts.get(wanted, b"-") else wanted
    if what == "header":
        parts[what] = change_json(parts[what], rng)
    elif what == "preview":
        planes = list(preview.planes)
        place = int(rng.integers(len(planes)))
        planes[place] = change_bytes(planes[place], rng, planes[0]) or b"\0"
        preview = Preview(preview.factor, tuple(planes))
    elif what == "index":
        edit = rng
    else:
        size = HEAD if wanted == "chunk" and rng.random() < HEAD_SHARE else len(parts[what])
        head, rest = parts[what][:size], parts[what][size:]
        parts[what] = change_bytes(head, rng, other.parts.get(what, other.content)) + rest
    return origin, rebuild(origin, parts, preview, edit, scratch)._replace(what=what)


def change_bytes(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Flip bits, set, insert, remove or repeat bytes, cut the end off, or put in a piece of another."""
    changed = bytearray(data)
    start = int(rng.integers(len(changed) + 1))
    stop = min(len(changed), start + int(rng.choice([1, 2, 8, 64, 512])))
    match rng.integers(8):
        case 0 | 1:
            for place in rng.integers(len(changed), size=rng.integers(1, 5)) if changed else ():
                changed[place] ^= 1 << rng.integers(8)
        case 2:
            changed[start:stop] = rng.bytes(stop - start)
        case 3:
            changed[start:stop] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * (stop - start)
        case 4:
            changed[start:start] = rng.bytes(int(rng.integers(1, 16)))
        case 5:
            del changed[start:stop]
        case 6:
            del changed[start:]
        case 7:
            first = int(rng.integers(len(other) + 1))
            changed[start:stop] = other[first : first + stop - start]
    return bytes(changed)


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Put another value somewhere into JSON, rename or remove a key, or change its bytes."""
    if rng.random() < 0.2:
        return change_bytes(data, rng, data)
    value = json.loads(data)
    change_value(value, rng)
    return json.dumps(value).encode()


def change_value(value: Any, rng: np.random.Generator) -> None:
    """Change one entry of an object or a list, or of one inside it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = keys[rng.integers(len(keys))]
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.8:
        change_value(value[key], rng)
        return
    strange: list[Any] = [None, True, -1, 0, 1, 2, 3, 5, 0.5, -0.0, 1e308, 2**16, 2**20, 2**31, 2**63, 2**70, 10**400]
    strange += ["", "x" * 999, "../x", "crae", "zfp", "float32", "uint8", "int16", "float64", [], [[]], {}, [1, 2, 3]]
    strange += [json.loads("[" * 90 + "]" * 90), float("nan"), float("inf"), "\ud800", "\0"]
    match rng.integers(6):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[f"{key}x"] = value[key]
        case _:
            value[key] = strange[rng.integers(len(strange))]


def rebuild(
    origin: Origin, parts: dict[str, bytes], preview: Preview, edit: np.random.Generator | None, scratch: Path
) -> Changed:
    """Write the parts into a file whose checksums fit; `edit` changes the index before its own is taken."""
    try:
        header = ArchiveHeader.model_validate_json(parts["header"])
    except ValueError:
        header = origin.header
    entries = {name: IndexEntry.of(data) for name, data in parts.items()}
    if header.num_bytes <= LARGEST:
        sums = voxel_checksums(header, parts)
        entries |= {name: entries[name].model_copy(update={"crc32": crc32}) for name, crc32 in sums.items()}
    size, digest = preview.num_bytes, preview.sha256
    entries["preview"] = IndexEntry(num_bytes=size, sha256=digest, crc32=None, factor=preview.factor)
    if edit is not None:
        entries = change_entries(entries, edit)
    path = scratch / "rebuilt.h5"
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        for name, data in parts.items():
            if name == "header":
                write_text(file, name, data or b" ")
            elif name == "codec" and origin.form == FORMAT_APART:
                store_decoder(data, scratch / DECODERS)
            else:
                write_bytes(file, name, data)
        write_preview(file, preview, origin.header)
        write_index(file, entries, origin.form)
    return Changed(path.read_bytes(), True, header.num_bytes, "")


def change_entries(entries: dict[str, IndexEntry], rng: np.random.Generator) -> dict[str, IndexEntry]:
    """Change the index without regard to what an entry may be."""
    rows = {name: entry.model_dump(by_alias=True, exclude_none=True) for name, entry in entries.items()}
    change_value(rows, rng)
    return {name: Anything(row) for name, row in rows.items()}  # type: ignore[misc]


class Anything:
    """An entry of the index that may hold anything."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def model_dump(self, **_: Any) -> Any:
        """Give it as it is."""
        return self._content


def voxel_checksums(header: ArchiveHeader, parts: dict[str, bytes]) -> dict[str, int]:
    """Give the checksums that the reader will find for what can be decoded."""
    sums = {}
    for number in range(min(header.num_chunks, len(parts))):
        name = f"chunk{number:06d}"
        try:
            made = codec(header.codec).from_bytes(parts["codec"]) if header.codec and parts["codec"] else None
            shape = header.chunk_shape(number)
            sums[name] = checksum(decode_chunk(made, parts[name], shape, np.dtype(header.dtype)))
        except (ArchiveError, KeyError, ValueError):
            continue
    return sums


def check(changed: Changed, origin: Origin, path: Path) -> tuple[str, str]:
    """Read a changed archive, and judge what comes."""
    path.write_bytes(changed.content)
    try:
        with limited_memory(changed.declared), open_archive(path) as archive:
            if archive.nbytes > LARGEST:
                return "large", ""
            got, reduced = archive[:], preview_or_none(archive)
            right = got.shape == archive.shape and got.dtype == archive.dtype
            as_it_was = archive.header == origin.header and same(got, origin.voxels)
    except ArchiveError:
        return "refused", ""
    except MemoryExceededError as error:
        return "memory", str(error)
    if right and as_it_was and (reduced is None or origin.reduced is None or same(reduced, origin.reduced)):
        return "equal", ""
    if not right:
        return "wrong", f"{archive.shape} {archive.dtype} gave {got.shape} {got.dtype}"
    return ("changed", "") if changed.repaired else ("wrong", "other voxels or another header")


def stopped_by_checksums(path: Path) -> bool:
    """Tell whether a checksum of an archive whose header is whole does not fit, so that no decoder reads the change."""
    with open_archive(path) as archive:
        try:
            parts = {name: archive.read_part(name) for name in archive.parts if name != "preview"}
            for name in voxel_checksums(archive.header, parts):  # all chunks that can be decoded
                archive.decode_chunk(int(name.removeprefix("chunk")))
        except ArchiveError:
            return True
    return False


def preview_or_none(archive: Archive) -> np.ndarray | None:
    """Read the preview, unless it is damaged or not there."""
    try:
        return archive.preview()
    except ArchiveError:
        return None


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Compare to the bit."""
    return got.shape == expected.shape and got.tobytes() == expected.tobytes()


class MemoryExceededError(Exception):
    """More memory was taken than reading may need."""


@contextmanager
def limited_memory(declared: int) -> Iterator[None]:
    """Stop what asks for more address space, and tell what touched more memory, than 4 times the volume and `SLACK`."""
    budget = 4 * min(declared, LARGEST) + SLACK
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
    before = memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + budget, resource.RLIM_INFINITY))
    try:
        yield
    except MemoryError as error:
        raise MemoryExceededError(f"asked for more than {budget} bytes") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if (taken := memory("VmHWM") - before) > budget:
        raise MemoryExceededError(f"took {taken} bytes, allowed {budget}")


def memory(name: str) -> int:
    """Read a number of /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def run_forked(judge: Callable[[int], tuple[str, str]], cases: range) -> Iterator[Result]:
    """Judge each case in a process that may die; a new one goes on behind the case that it died of."""
    first = cases.start
    while first < cases.stop:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            _work(judge, range(first, cases.stop), writing)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                result = Result(*json.loads(line))
                first = result.case + 1
                yield result
        status = os.waitpid(child, 0)[1]
        if first < cases.stop:
            by_clock = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            yield Result(first, "hang" if by_clock else "killed", f"status {status}")
            first += 1


def _work(judge: Callable[[int], tuple[str, str]], cases: range, writing: int) -> None:
    """Judge cases until the end, or death; never come back."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for case in cases:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            outcome, detail = judge(case)
        except BaseException as error:
            outcome, detail = "error", f"{type(error).__name__}: {error}"
        os.write(writing, (json.dumps([case, outcome, detail[:300]]) + "\n").encode())
    os._exit(0)


def run(cases: int, seed: int, codecs: tuple[str, ...] = ("crae",)) -> dict[str, Any]:
    """Run all cases of a seed; give the counts, by origin and what was changed too, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        origins = make_origins(Path(folder), codecs)

        def judge(case: int) -> tuple[str, str]:
            origin, changed = change(origins, np.random.default_rng([seed, case]), scratch)
            outcome, detail = check(changed, origin, scratch / "changed.h5")
            what = changed.what.rstrip("0123456789")
            if outcome == "refused" and what in ("chunk", "codec") and stopped_by_checksums(scratch / "changed.h5"):
                what = "checksum"
            return outcome, f"{origin.name} {what} {detail}".strip()

        results = list(run_forked(judge, range(cases)))
    counts = Counter(result.outcome for result in results)
    reached = Counter(f"{r.outcome}: {r.detail.split()[1]}" for r in results if r.outcome not in FAILURES)
    failures = [result for result in results if result.outcome in FAILURES]
    return {"counts": dict(counts), "reached": dict(sorted(reached.items())), "failures": failures}


def main() -> None:
    """Run and print JSON; exit with 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codecs", default="crae", help="names, separated by commas")
    options = parser.parse_args()
    found = run(options.cases, options.seed, tuple(filter(None, options.codecs.split(","))))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
