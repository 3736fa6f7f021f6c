"""Certificates of one run, so that nobody else can speak to its scheduler: who can, runs programs as this user."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Security

from quietbeam.reconstruction.errors import ClusterError

__all__ = ["certificates_in", "new_security"]


def new_security(*, tls: bool) -> Security | None:
    """Make certificates, in memory.

    Parameters
    ----------
    tls : bool
        False: there are none, and anybody who can reach the ports is trusted.

    Returns
    -------
    Security or None
        For the scheduler, the workers and the client.

    Raises
    ------
    ClusterError
        If the package that makes them is missing.
    """
    if not tls:
        return None
    try:
        security: Security = Security.temporary()
    except ImportError as error:
        raise ClusterError(
            "certificates for the workers need the package cryptography: pip install 'quietbeam[cluster]', "
            "or set cluster.tls=false where nobody else can reach this machine's ports"
        ) from error
    return security


@contextmanager
def certificates_in(folder: Path, *, tls: bool) -> Iterator[Security | None]:
    """Make certificates, and keep them in files that only this user can read while the block runs.

    Parameters
    ----------
    folder : Path
        Seen by the workers' machines.
    tls : bool
        See `new_security`.

    Yields
    ------
    Security or None
        That names the files.
    """
    security = new_security(tls=tls)
    if security is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=".certificates-", dir=folder) as private:
        certificate, key = Path(private).resolve() / "certificate.pem", Path(private).resolve() / "key.pem"
        made = security.get_tls_config_for_role("worker")
        certificate.write_text(made["ca_file"])  # it vouches for itself, and all roles have it
        key.write_text(made["key"])
        names = {f"tls_{role}_{part}" for role in ("client", "scheduler", "worker") for part in ("cert", "key")}
        files = {name: str(key if name.endswith("key") else certificate) for name in names}
        yield Security(require_encryption=True, tls_ca_file=str(certificate), **files)
