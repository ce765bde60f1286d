"""What holds for the whole command, whichever it is. Without click: a step of a job is called without it."""

from __future__ import annotations

from collections.abc import Callable

PROGRAM = "ion-core"

BUG = 70
"""The exit code for what is no error raised on purpose."""


class Options:
    """What holds for the whole command: which configuration, which state, how much to say."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.config: str | None = None
        self.state_dir: str | None = None
        self.verbose = verbose
        self.told = False
        """Whether it was said by now which configuration that is, where that may surprise."""
        self.done = ""
        """What has been done by now, for whom it could not be printed: a sentence."""
        self.exit_code: Callable[[Exception], int] = lambda error: getattr(error, "exit_code", BUG)
        """What the command exits with for an error that nobody handled."""

    def flags(self) -> str:
        """Those that were given, as one would type them again: for commands that we suggest."""
        import shlex

        given = (("--config", self.config), ("--state-dir", self.state_dir))
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given if value)
