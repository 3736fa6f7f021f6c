"""TOML files of settings, and what is said of those that are none."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

__all__ = ["read_toml"]


def read_toml(path: Path, error_class: type[Exception]) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Parameters
    ----------
    path : Path
        The file, in UTF-8.
    error_class : type
        What is raised; the text names the file and the reason.

    Returns
    -------
    dict
        Tables and values.

    Raises
    ------
    Exception
        One of `error_class`, if the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_class(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise error_class(f"{path}: not a TOML file ({error})") from error
