"""The few errors that quietbeam raises on its own account.

::

    Exception
    └── QuietbeamError      anything below; its text names the place, what was expected, what was got, what to do
        ├── ScanError       the measurement cannot be read or cannot be meant so       (exit code 3)
        │   └── NotReadyError   it is still being written; later it may be whole       (exit code 3)
        ├── ReductionError  a step cannot be done with what there is                   (exit code 1)
        │   ├── SpaceError  not enough disk or memory for it                           (exit code 5)
        │   ├── LockedError another process is at work on the same output              (exit code 6)
        │   └── NetworkFileError    a file holds no trained network that can be used   (exit code 3)
        ├── QueueError      the queue of scans cannot be used, or cannot do this       (exit code 1)
        │   └── UnknownJobError     it holds no such job                               (exit code 1)
        ├── ClusterError    no workers can be had for a series, or they are lost           (exit code 1)
        ├── PublishError    a catalogue cannot be told of a result, which is whole     (exit code 1)
        └── ArchiveError    an archive is damaged, cut short or of an unknown format   (exit code 7)
            └── DecoderError    the decoder that it refers to is missing or damaged    (exit code 7)

A caller's mistake in the arguments of a function is a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

__all__ = [
    "ArchiveError",
    "ClusterError",
    "DecoderError",
    "LockedError",
    "NetworkFileError",
    "NotReadyError",
    "PublishError",
    "QueueError",
    "QuietbeamError",
    "ReductionError",
    "ScanError",
    "SpaceError",
    "UnknownJobError",
]


class QuietbeamError(Exception):
    """Anything that quietbeam itself reports as wrong."""

    exit_code = 1


class ScanError(QuietbeamError):
    """The measurement cannot be read, or cannot be meant as it stands."""

    exit_code = 3


class NotReadyError(ScanError):
    """The measurement is still being written, or changes while it is read; later it may be whole."""


class ReductionError(QuietbeamError):
    """A step of the reduction cannot be done with what there is."""


class SpaceError(ReductionError):
    """There is not enough disk or memory."""

    exit_code = 5


class LockedError(ReductionError):
    """Another process is at work on the same output."""

    exit_code = 6


class NetworkFileError(ReductionError):
    """A file that should hold a trained network is damaged, of another kind, or holds one that cannot be used."""

    exit_code = 3


class QueueError(QuietbeamError):
    """The queue cannot be used, or cannot do this; the text names the file, what happened and what to do."""


class UnknownJobError(QueueError, LookupError):
    """No job, or more than one, is meant."""


class ClusterError(QuietbeamError):
    """The workers of a series cannot be had, do not fit, or cannot be reached any more; what they did is kept."""


class PublishError(QuietbeamError):
    """A catalogue or folder could not be written to; the result itself is whole, and publishing can be tried again."""


class ArchiveError(QuietbeamError):
    """An archive is damaged, cut short, or of a format that this version does not know."""

    exit_code = 7


class DecoderError(ArchiveError):
    """The decoder that an archive refers to, in a file of its own, is missing or damaged; the archive may be whole."""
