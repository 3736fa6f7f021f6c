"""A folder of trained networks, shared by the scans of a beamline: each may be what a later scan begins with.

::

    REGISTRY/INSTRUMENT/DIGITS/key.json                    what the digits stand for
    REGISTRY/INSTRUMENT/DIGITS/SCAN-DIGITS.safetensors     the network of one scan, by name and hash of the scan

Networks lie together if their weights have the same shapes and the same meaning. A scan that is trained again under the
same key replaces its own network; nothing else is ever replaced, and nothing removed. No lock is needed: every file is
written under a name of its own and renamed when it is whole.
"""

from __future__ import annotations

import json
import re
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError, safe_open

from quietbeam.noise2inverse.checkpoint import load_network, parse_network
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import NetworkFileError, ReductionError

from .atomic import file_sha256, sync, write_atomically
from .journal import stage_key
from .recording import given_text

__all__ = ["NOT_READ", "Found", "NetworkRegistry", "NetworkSize", "WarmStartSettings", "named_sha256", "read_network"]

FORMAT = "quietbeam-registry-1"
"""What ``key.json`` says it is."""
NOT_READ = "registry-not-read"
"""Caveat of a registry, or a folder in it, that cannot be listed."""
_DIGITS = 12
_LONGEST_NAME = 80


class WarmStartSettings(BaseModel):
    """Which weights training begins with: random ones, unless something is given here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: Path | None = Field(
        None,
        description="Folder of networks shared by many scans: training begins with the newest one of the same "
        "instrument and settings, and its own network is added.",
    )
    network: Path | None = Field(
        None, description="Network file (.safetensors) to begin with; goes before those of the registry."
    )

    @field_validator("registry", "network", mode="before")
    @classmethod
    def _check_named(cls, value: object) -> object:
        return given_text(value)


class NetworkSize(NamedTuple):
    """What must be equal for weights to fit.

    Attributes
    ----------
    in_channels, out_channels : int
        Channels of the input, context included, and of the output.
    settings : NetworkSettings
        Depth, width, dilations, borders.
    """

    in_channels: int
    out_channels: int
    settings: NetworkSettings


class Found(NamedTuple):
    """A network of the registry.

    Attributes
    ----------
    path : Path
        Its file.
    provenance : dict
        What the file says of it.
    content : bytes
        Of the file.
    """

    path: Path
    provenance: dict[str, Any]
    content: bytes


class NetworkRegistry:
    """The networks under one key.

    Parameters
    ----------
    root : Path
        Folder of the registry; it need not be there yet.
    instrument : str
        Name of the instrument, any text.
    key : dict
        What JSON can hold: all with which weights can be exchanged.

    Attributes
    ----------
    folder : Path
        Where the networks lie.
    """

    def __init__(self, root: Path, instrument: str, key: dict[str, Any]) -> None:
        self.key = {"instrument": instrument, **key}
        self.folder = root / _file_name(instrument) / stage_key("registry", self.key)[:_DIGITS]

    def newest(self, size: NetworkSize, *, but_not_of: str) -> tuple[Found | None, list[Caveat]]:
        """Find the network that was trained last; one that cannot be used is told and left out.

        Parameters
        ----------
        size : NetworkSize
            Which it must have.
        but_not_of : str
            Hash of a scan whose networks do not count.

        Returns
        -------
        Found or None
            None if there is none.
        list of Caveat
            One for each file that is left out, or ``registry-not-read`` for all.
        """
        networks, caveats = self._list()
        others = {path: said for path, said in networks.items() if said.get("scan") != but_not_of}
        for path in sorted(others, key=lambda path: (others[path]["trained"], path.name), reverse=True):
            try:
                return _read(path, size), caveats
            except (ReductionError, OSError) as error:
                caveats.append(_left_out(error))
        return None, caveats

    def path(self, name: str, scan: str) -> Path:
        """Name the file of a scan's network.

        Parameters
        ----------
        name : str
            Name of the scan, any text.
        scan : str
            Its hash.

        Returns
        -------
        Path
            In `folder`.
        """
        return self.folder / f"{_file_name(name)}-{scan[:_DIGITS]}.safetensors"

    def store(self, path: Path, content: bytes) -> None:
        """Put a network into the folder.

        Parameters
        ----------
        path : Path
            From `path`.
        content : bytes
            Of the file; its provenance has ``scan`` (the hash) and ``trained`` (the time, ISO 8601, UTC).

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        said = self.folder / "key.json"
        if not said.exists():
            _write(said, json.dumps({"format": FORMAT, "key": self.key}, indent=1, sort_keys=True).encode() + b"\n")
        _write(path, content)

    def _list(self) -> tuple[dict[Path, dict[str, Any]], list[Caveat]]:
        """Read what the networks' files say of them."""
        networks, caveats = {}, []
        try:
            paths = sorted(path for path in self.folder.iterdir() if _is_network(path.name))
        except FileNotFoundError:  # nobody has left a network under this key yet
            return {}, []
        except OSError as error:
            text = (
                f"warm_start.registry: {self.folder} cannot be read ({error.strerror}): no network was looked for in it"
            )
            return {}, [Caveat(NOT_READ, text)]
        for path in paths:
            try:
                networks[path] = _read_provenance(path)
            except ReductionError as error:
                caveats.append(_left_out(error))
        return networks, caveats


def read_network(path: Path, size: NetworkSize) -> MSD:
    """Read a network to begin with.

    Parameters
    ----------
    path : Path
        Network file of quietbeam.
    size : NetworkSize
        Which it must have.

    Returns
    -------
    MSD
        It, on the CPU.

    Raises
    ------
    ReductionError
        If it is no such file, or of another size.
    """
    model, _ = load_network(path)
    _check_size(model, size, path)
    return model


def _read(path: Path, size: NetworkSize) -> Found:
    """Read a network of the registry once, so that all that is told of it holds, whoever replaces it meanwhile."""
    content = path.read_bytes()
    model, said = parse_network(content, str(path))
    _check_size(model, size, path)
    return Found(path, _with_time(said, path), content)


def _check_size(model: MSD, size: NetworkSize, path: Path) -> None:
    got = NetworkSize(model.in_channels, model.out_channels, model.settings)
    if got != size:
        raise ReductionError(
            f"{path}: the network to begin with has {_describe(got)}, this training needs {_describe(size)}: set "
            "network and pairs as they were, or leave it out"
        )


def named_sha256(settings: WarmStartSettings) -> str | None:
    """Hash the network that is named to begin with.

    Parameters
    ----------
    settings : WarmStartSettings
        They may name one.

    Returns
    -------
    str or None
        Hash of the file's content; None if no network is named.

    Raises
    ------
    ReductionError
        If it cannot be read.
    """
    path, advice = settings.network, "set warm_start.network to a network file, or leave it out"
    if path is None:
        return None
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise NetworkFileError(f"{path}: expected a file, got something else: {advice}")
        return file_sha256(path)
    except OSError as error:
        raise ReductionError(f"{path}: cannot be read ({error.strerror}): {advice}") from error


def _read_provenance(path: Path) -> dict[str, Any]:
    """Read the header of a file alone, of which there may be many."""
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})["quietbeam"])["provenance"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # replaced: RuntimeError
        raise _no_network(path, error) from error
    return _with_time(said, path)


def _with_time(said: Any, path: Path) -> dict[str, Any]:
    """Give the provenance with the time in UTC, so that times are compared as texts are."""
    try:
        trained = datetime.fromisoformat(said["trained"]).astimezone(UTC).isoformat(timespec="microseconds")
        return {**said, "trained": trained}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _no_network(path, error) from error


def _no_network(path: Path, error: Exception) -> ReductionError:
    return ReductionError(f"{path}: not a network of a registry ({type(error).__name__}: {error})")


def _is_network(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(".")


def _left_out(error: Exception) -> Caveat:
    return Caveat("network-left-out", f"{error}; it was left out of the networks to begin with")


def _describe(size: NetworkSize) -> str:
    named = ", ".join(f"{name} {value}" for name, value in size.settings)
    return f"{size.in_channels} to {size.out_channels} channels, {named}"


def _file_name(text: str) -> str:
    """Make a name of letters, digits, dashes and dots of any text, that hides no file and leads nowhere else."""
    return re.sub(r"[^\w.-]+", "_", text)[:_LONGEST_NAME].strip("._-") or "unnamed"


def _write(path: Path, content: bytes) -> None:
    """Write a file while others may write one of the same name."""
    own = path.with_name(f".{uuid.uuid4().hex}")
    try:
        write_atomically(own, content)
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    sync(path.parent)
