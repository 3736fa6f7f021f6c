"""A Tiled client whose connection is closed in any case: Tiled's own constructor leaves it open when it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["tiled_client"]


@contextmanager
def tiled_client(uri: str, *, api_key: str | None = None, answer_seconds: float, timeout: Any = None) -> Iterator[Any]:
    """Connect to a server, and close the connection afterwards.

    Parameters
    ----------
    uri : str
        Of the server, or of a container in it.
    api_key : str, optional
        Wins over the environment's ``TILED_API_KEY``.
    answer_seconds : float
        Time that the server has for its first answer. Tiled's client would try again for most of a minute.
    timeout : httpx.Timeout, optional
        Of each request after that; None: Tiled's own.

    Yields
    ------
    tiled client

    Raises
    ------
    Exception
        Of httpx and of Tiled, which have no common root.
    """
    import httpx
    from tiled.client import from_context
    from tiled.client.context import Context

    httpx.get(uri.partition("?")[0], timeout=answer_seconds)  # httpx logs addresses: a key is left out
    context, path = Context.from_any_uri(uri, api_key=api_key, timeout=timeout)
    with context:
        yield from_context(context, node_path_parts=path, remember_me=False)
