"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["readable_bytes", "readable_duration", "readable_number"]


def readable_number(value: float) -> str:
    """Write a number with four digits and a true minus sign."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def readable_bytes(size: float) -> str:
    """Write a size in bytes with three digits and its unit, ``2.5 MB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def readable_duration(seconds: float) -> str:
    """Write a time in seconds as ``7.5 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
