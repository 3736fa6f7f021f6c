"""What is raised where a result could not be given back."""

from __future__ import annotations

from quietbeam.reconstruction.errors import QuietbeamError

__all__ = ["PublishError"]


class PublishError(QuietbeamError):
    """A catalogue or folder could not be written to; the result itself is whole, and publishing can be tried again."""
