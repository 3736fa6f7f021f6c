"""Runs in a Tiled catalogue: finding those that ended, and what is known of one as a run reference."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from quietbeam.beamline.runs.collector import RunCollector
from quietbeam.beamline.tiled_connection import tiled_client
from quietbeam.reconstruction.errors import QuietbeamError, ScanError

from .folder import WatchError
from .tiled_documents import documents_of_run, keeps_documents, without_positions

__all__ = [
    "TiledWatcher",
    "connected",
    "latest_uid",
    "matching_uids",
    "reference_of_run",
    "uids_since",
    "without_key",
]

log = logging.getLogger(__name__)

Reference = dict[str, Any]
OVERLAP = 3600.0
"""Seconds: a run may come to the catalogue later than one that ended after it."""
TRIES = 5
"""How often a run is asked for that the catalogue finds and does not give."""
ANSWER_SECONDS = 10.0
SHORTEST_UID = 6


@contextmanager
def connected(where: str, api_key: str | None = None) -> Iterator[Any]:
    """Give a catalogue, and close the connection afterwards.

    Parameters
    ----------
    where : str
        URI, such as ``https://tiled.facility.org/api/v1/metadata/beamline/raw``, or the name of a Tiled profile.
    api_key : str, optional
        Wins over the environment's ``TILED_API_KEY``. It is kept in no message.

    Yields
    ------
    tiled client

    Raises
    ------
    WatchError
        If it cannot be reached, or Tiled's client is not installed.
    """
    try:
        import httpx  # noqa: F401
        import tiled.client  # noqa: F401
    except ImportError as error:
        raise WatchError("Tiled's client is not installed here: pip install 'quietbeam[tiled]'") from error
    with ExitStack() as stack:
        try:
            client = stack.enter_context(_connection(where, api_key))
        except Exception as error:  # of httpx, of Tiled, of its profiles
            raise WatchError(
                f"{_failure(where, error)}; check that the server runs, the address, TILED_API_KEY"
            ) from None
        yield client


@contextmanager
def _connection(where: str, api_key: str | None) -> Iterator[Any]:
    if "://" in where:
        with tiled_client(where, api_key=api_key, answer_seconds=ANSWER_SECONDS) as client:
            yield client
        return
    from tiled.client import from_profile

    client = from_profile(where, **({"api_key": api_key} if api_key else {}))
    try:
        yield client
    finally:
        client.context.close()


def without_key(text: str) -> str:
    """Take API keys out of a text with an address in it."""
    return re.sub(r"(api_key=)[^&\s'\"]+", r"\1...", text)


def _failure(where: str, error: Exception) -> str:
    return f"{without_key(where)}: no answer from Tiled ({type(error).__name__}: {without_key(str(error))})"


def reference_of_run(client: Any, uid: str) -> Reference:
    """Say what a catalogue knows of a run.

    Parameters
    ----------
    client : tiled client
        Container of runs.
    uid : str
        Of the run, or at least its first six characters.

    Returns
    -------
    dict
        Run reference (`quietbeam.beamline.runs.reference`).

    Raises
    ------
    WatchError
        If there is no such run, or several, or the catalogue does not give it.
    ScanError
        If the catalogue does not tell which frames belong to which stream.
    """
    collector = RunCollector()
    with _answering(client, f"run {uid}: "):
        run = _find_run(client, uid)
        for name, document in documents_of_run(run):
            collector(name, document)
        return collector.reference if keeps_documents(run) else without_positions(collector.reference)


@contextmanager
def _answering(client: Any, what: str = "") -> Iterator[None]:
    """Turn errors of Tiled, of httpx, and of what they give, which have no common root, into ours."""
    try:
        yield
    except QuietbeamError:
        raise
    except Exception as error:
        raise WatchError(f"{what}{_failure(client.uri, error)}") from error


def _find_run(client: Any, uid: str) -> Any:
    from tiled.queries import Like

    try:
        return client[uid]
    except (KeyError, ValueError):
        found = list(client.search(Like("start.uid", f"{uid}%")).keys().head(2)) if len(uid) >= SHORTEST_UID else []
    if len(found) != 1:
        raise WatchError(f"{without_key(client.uri)}: {'several runs begin' if found else 'no run begins'} with {uid}")
    return client[found[0]]


def uids_since(client: Any, since: float, *, key: str = "stop.time") -> list[str]:
    """List the runs of a catalogue that ended, or began, since a time.

    Parameters
    ----------
    client : tiled client
        Container of runs.
    since : float
        Seconds of the epoch.
    key : {"stop.time", "start.time"}
        Which time. A run that did not end has no stop.

    Returns
    -------
    list of str
        Their uids.

    Raises
    ------
    WatchError
        If the catalogue does not answer.
    """
    from tiled.queries import Comparison

    with _answering(client):
        return list(client.search(Comparison("ge", key, since)).keys())


def matching_uids(client: Any, conditions: Iterable[tuple[str, object]]) -> list[str]:
    """List the runs of a catalogue whose metadata have certain values.

    Parameters
    ----------
    client : tiled client
        Container of runs.
    conditions : iterable of (str, object)
        Key, such as ``start.plan_name``, and its value; all must hold.

    Returns
    -------
    list of str
        Their uids.

    Raises
    ------
    WatchError
        If the catalogue does not answer.
    """
    from tiled.queries import Eq

    with _answering(client):
        found = client
        for key, value in conditions:
            found = found.search(Eq(key, value))
        return list(found.keys())


def latest_uid(client: Any) -> str:
    """Give the uid of the run of a catalogue that ended last.

    Raises
    ------
    WatchError
        If the catalogue has no run that ended, or does not answer.
    """
    from tiled.queries import Comparison

    with _answering(client):
        ended = client.search(Comparison("ge", "stop.time", 0.0))
        latest = list(ended.sort(("stop.time", -1)).keys().head(1))
    if not latest:
        raise WatchError(f"{without_key(client.uri)}: no run in this catalogue that ended")
    return str(latest[0])


class TiledWatcher:
    """Finds runs that have ended, by asking again and again.

    Parameters
    ----------
    client : tiled client
        Container of runs.
    receive : callable
        Takes the run reference of each run, once.
    since : float
        Runs that ended before are passed over, seconds of the epoch of the host that ran them.
    overlap : float
        How much later than others a run may be written to the catalogue, seconds.
    """

    def __init__(
        self, client: Any, receive: Callable[[Reference], None], *, since: float, overlap: float = OVERLAP
    ) -> None:
        self._client, self._receive, self._overlap = client, receive, overlap
        self._since = self._latest = since
        self._seen: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def poll(self) -> int:
        """Ask once.

        Returns
        -------
        int
            Number of runs that are done with. One whose frames cannot be told is logged, and not asked for again; one
            that the catalogue does not give keeps no other back, and is asked for again for some time.

        Raises
        ------
        WatchError
            If the catalogue does not answer; the next look may find it again.
        """
        new = [uid for uid in uids_since(self._client, self._horizon) if uid not in self._seen]
        for uid in sorted(new, key=lambda uid: self._tries.get(uid, 0)):
            self._take(uid)
        done = sum(uid in self._seen for uid in new)
        self._seen = {uid: ended for uid, ended in self._seen.items() if ended >= self._horizon}
        return done

    @property
    def _horizon(self) -> float:
        return max(self._since, self._latest - self._overlap)

    def _take(self, uid: str) -> None:
        try:
            reference = reference_of_run(self._client, uid)
        except ScanError as error:
            log.error("%s", error)
            self._pass_over(uid)
        except WatchError as error:
            self._try_again(uid, error)
        else:
            self._receive(reference)
            self._tries.pop(uid, None)
            self._seen[uid] = ended = float(reference["stop"]["time"])
            self._latest = max(self._latest, ended)

    def _try_again(self, uid: str, error: WatchError) -> None:
        tries = self._tries[uid] = self._tries.get(uid, 0) + 1
        if tries == 1:
            log.warning("%s; it is tried again", error)
        elif tries == TRIES:
            where = without_key(self._client.uri)
            log.error("%s; passed over now: quietbeam catch-up --tiled %s finds it later", error, where)
            self._pass_over(uid)

    def _pass_over(self, uid: str) -> None:
        self._tries.pop(uid, None)
        self._seen[uid] = math.inf  # when it ended may be what cannot be read
