"""Documents of a RunEngine in another process, as bluesky's ZMQ publisher sends them, in JSON.

A message is ``prefix name document``, with a space between, as in `bluesky.callbacks.zmq.Publisher`. What bluesky sends
unless told otherwise is pickled. A pickle runs code of whoever sent it: none is ever read here, they are counted as
malformed. The publisher has to be told ``serializer=``.

PUB and SUB lose messages when nobody listens: `quietbeam catch-up` finds the runs that were missed.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Callable
from typing import Any

from event_model import DocumentNames

from .folder import WatchError

__all__ = ["DocumentReceiver", "check_address", "normalise_address", "parse_message"]

log = logging.getLogger(__name__)

DOCUMENT_NAMES = frozenset(DocumentNames.__members__)
MAX_MESSAGE_BYTES = 64 * 2**20
"""A document holds no pictures; a longer message is refused before memory is taken for it."""

LOGGED_BYTES = 80

Receive = Callable[[str, dict[str, Any]], None]


def normalise_address(address: str) -> str:
    """Write an address with its protocol, as bluesky does.

    Parameters
    ----------
    address : str
        ``host:port``, ``tcp://host:port`` or ``ipc:///path``.

    Returns
    -------
    str
        With ``tcp://`` or ``ipc://``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    protocol, separator, rest = address.rpartition("://")
    protocol = protocol if separator else "tcp"
    host, _, port = rest.rpartition(":")
    is_whole = bool(rest) if protocol == "ipc" else bool(host) and port.isdecimal()
    if protocol not in ("tcp", "ipc") or not is_whole:
        raise ValueError(f"expected an address such as 127.0.0.1:5578 or ipc:///run/documents, got {address!r}")
    return f"{protocol}://{rest}"


def check_address(address: str, *, allow_remote: bool = False) -> str:
    """Refuse an address through which other hosts would be heard.

    Parameters
    ----------
    address : str
        As for `normalise_address`.
    allow_remote : bool
        Take any.

    Returns
    -------
    str
        The address with its protocol.

    Raises
    ------
    ValueError
        If it is malformed, or reaches beyond this host without `allow_remote`.
    """
    normal = normalise_address(address)
    host = normal.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if allow_remote or normal.startswith("ipc://") or _is_this_host(host):
        return normal
    raise ValueError(
        f"{address} is not on this host alone, and whoever reaches it could queue jobs; use ipc:// or 127.0.0.1,"
        " or --allow-remote where the network is trusted"
    )


def _is_this_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_message(message: bytes, prefix: bytes = b"") -> tuple[str, dict[str, Any]] | None:
    """Read a message.

    Parameters
    ----------
    message : bytes
        As it came.
    prefix : bytes
        Publisher to listen to; empty for all.

    Returns
    -------
    tuple of (str, dict), optional
        Name and content of a document; None if it is another publisher's.

    Raises
    ------
    ValueError
        If it is no document in JSON; nothing in it is run.
    """
    sender, _, rest = message.partition(b" ")
    if prefix and sender != prefix:
        return None
    name, _, content = rest.partition(b" ")
    text_name = name.decode("ascii", "replace")
    if text_name not in DOCUMENT_NAMES:
        raise ValueError("it does not begin with a document's name")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the {text_name} document is not JSON; tell the Publisher its serializer") from error
    if not isinstance(document, dict):
        raise ValueError(f"the {text_name} document is not a JSON object")
    return text_name, document


class DocumentReceiver:
    """A socket that hands on the documents that come in; nothing that comes in ends it.

    Parameters
    ----------
    address : str
        Of a proxy's output (``bluesky-zmq-proxy``), to connect to; with `bind`, one to be opened here, so that a
        publisher connects without a proxy between.
    receive : callable
        Takes name and document.
    prefix : bytes
        Publisher to listen to; empty for all.
    bind : bool
        Open the address rather than connect to it.
    allow_remote : bool
        Also take an address that other hosts reach.

    Attributes
    ----------
    received, malformed, failed : int
        Documents handed on; messages that were none; documents that `receive` could not take.

    Raises
    ------
    ValueError
        If the address is malformed or reaches beyond this host.
    WatchError
        If the address cannot be used.
    """

    def __init__(
        self, address: str, receive: Receive, *, prefix: bytes = b"", bind: bool = False, allow_remote: bool = False
    ) -> None:
        import zmq

        self.address = check_address(address, allow_remote=allow_remote)
        self.received = self.malformed = self.failed = 0
        self._receive, self._prefix = receive, prefix
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # what came while the queue was slow is kept rather than dropped
        self._socket.setsockopt(zmq.SUBSCRIBE, prefix)
        try:
            (self._socket.bind if bind else self._socket.connect)(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise WatchError(
                f"{self.address}: cannot be {'opened' if bind else 'reached'} ({error.strerror})"
            ) from error

    def __enter__(self) -> DocumentReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def poll(self, seconds: float) -> bool:
        """Wait for one message, at most so long, and hand its document on.

        Parameters
        ----------
        seconds : float
            Longest wait.

        Returns
        -------
        bool
            Whether a message came.
        """
        if not self._socket.poll(round(seconds * 1000)):
            return False
        self._take(self._socket.recv())
        return True

    def _take(self, message: bytes) -> None:
        try:
            parsed = parse_message(message, self._prefix)
        except ValueError as error:
            self.malformed += 1
            log.warning("message %d that is no document: %s: %r", self.malformed, error, message[:LOGGED_BYTES])
            return
        if parsed:
            self._hand_on(*parsed)

    def _hand_on(self, name: str, document: dict[str, Any]) -> None:
        try:
            self._receive(name, document)
        except Exception:  # of one damaged run; those after it are to be heard
            self.failed += 1
            log.exception("a %s document could not be taken", name)
        else:
            self.received += 1
