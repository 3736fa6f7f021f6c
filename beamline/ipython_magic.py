"""``%denoise`` for IPython: the post-scan hook in a word."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.core.magic import Magics, line_magic, magics_class

from .hook import PostScan

__all__ = ["register_magic"]

_USAGE = "%denoise on | off | status | last | submit UID, PATH or -1 | retry ID | cancel ID"


def register_magic(hook: PostScan, shell: Any = None) -> None:
    """Give an IPython session the magic ``%denoise``: on, off, status, last, submit -1, retry ID, cancel ID.

    Parameters
    ----------
    hook : PostScan
        What it speaks to.
    shell : InteractiveShell, optional
        The session; the one that runs if not given.

    Raises
    ------
    RuntimeError
        Outside of IPython.
    """
    shell = shell or get_ipython()
    if shell is None:
        raise RuntimeError("register_magic needs an IPython session, and none runs; use the hook's methods instead")
    shell.register_magics(_DenoiseMagic(shell, hook))


@magics_class
class _DenoiseMagic(Magics):
    def __init__(self, shell: Any, hook: PostScan) -> None:
        super().__init__(shell)
        self._hook = hook

    @line_magic
    def denoise(self, line: str) -> None:
        """Speak to the post-scan hook; alone it shows the queue."""
        try:
            self._obey(*shlex.split(line or "status"))
        except Exception as error:  # a line is enough for who typed a command
            self._say(" ".join(f"{type(error).__name__}: {error}".split()))

    def _obey(self, word: str, *arguments: str) -> None:
        commands: dict[tuple[str, int], Callable[..., object]] = {
            ("on", 0): lambda: self._switch(True),
            ("off", 0): lambda: self._switch(False),
            ("status", 0): self._hook.status,
            ("last", 0): lambda: self._tell(self._hook.last),
            ("submit", 0): lambda: self._tell(self._hook.submit(-1)),
            ("submit", 1): lambda which: self._tell(self._hook.submit(which)),
            ("retry", 1): lambda which: self._tell(self._hook.retry(which)),
            ("cancel", 1): lambda which: self._tell(self._hook.cancel(which)),
        }
        command = commands.get((word, len(arguments)))
        if command is None:
            self._say(f"usage: {_USAGE}")
        else:
            command(*arguments)

    def _switch(self, on: bool) -> None:
        self._hook.enabled = on
        self._say(f"denoise is {'on' if on else 'off'}")

    def _tell(self, job: Any) -> None:
        if job is None:
            self._say(self._hook.trouble() or "no job in the database yet")
        else:
            reason = f": {job.reason}" if job.reason else ""
            self._say(f"job {job.id} ({job.name}) is {job.state}{reason}")

    @staticmethod
    def _say(text: str) -> None:
        print(text)  # noqa: T201 - the answer to a person who typed a command
