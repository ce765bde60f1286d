"""The process that does the three steps of one job, whatever becomes of who started it. It is forked for that."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.printed import Printed
from ion_core.embedded.jobs.running import Ended, Program, Signals, run
from ion_core.embedded.programs import table

_TOLD = 10.0
"""Seconds that a step is given where nobody said how many: the machine is shut down, or somebody ended us by hand."""


class Supervisor:
    """Of one job. ``lock`` is held until we end: that is how others know that we live."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        self._signals = Signals()
        self._began: dict[str, float] = {}
        self._id = table.identify(os.getpid())

    def supervise(self) -> None:
        """Run one step after the other until one does not end well, and say how it ended."""
        spec = layout.read(f"{self._directory}/{layout.SPEC}")
        if spec is None:
            print(f"{self._directory}: its file {layout.SPEC} cannot be read", file=sys.stderr)
            return
        self._note()
        if (environment := spec.get("uses")) is not None:
            layout.use(environment)
        if self._signals.told:
            self._end("queued", how=self._how_told())
            return
        for step in layout.STEPS:
            if self._runs(step, self._program(spec, step), layout.log_limit(spec, step)):
                return
        raise AssertionError("the last step ends it")

    def _runs(self, step: str, program: Program, limit: int) -> bool:
        """Whether the job has ended with this step."""
        self._began[step] = time.time()
        self._note()
        printed = Printed(f"{self._directory}/{step}", limit)
        try:
            ended = run(program, printed, self._signals, self._grace)
        except OSError as error:
            self._end(step, how="unstartable", reason=f"{program.program}: {error.strerror}", number=error.errno)
            return True
        if ended.code == 0 and step == "commit":
            self._end(step, ended, how="exited")
        elif ended.stopped or self._signals.told:
            self._end(step, ended, how=self._how_told())
        elif ended.timed_out:
            self._end(step, ended, how="timeout", reason=f"timed out after {program.timeout:g} s")
        elif ended.code != 0:
            self._end(step, ended, how="exited")
        else:
            return False
        return True

    def _program(self, spec: dict[str, Any], step: str) -> Program:
        mark = layout.mark(self._directory, spec["id"])
        if step == "module":
            return Program(mark=mark, by=layout.MARK, timeout=spec["timeout"], **spec["module"])
        argv = [
            *spec["handler"],
            *("handler", step),
            *("--config", f"{self._directory}/{layout.SETTINGS}"),
            *("--ticket", f"{self._directory}/{layout.TICKET}"),
            *("--result", f"{self._directory}/{layout.result_of(step)}"),
            *("--basedir", layout.workspace(self._directory, spec["id"])),
        ]
        return Program(
            argv=argv,
            program=argv[0],
            cwd=self._directory,
            env=os.environ,
            mark=mark,
            by=layout.MARK,
            timeout=spec.get("allowances", {}).get(step),  # jobs of an earlier version have none
        )

    def _grace(self) -> float:
        said = layout.grace(self._directory)
        return _TOLD if said is None else said

    def _how_told(self) -> str:
        return "stopped" if os.path.exists(f"{self._directory}/{layout.STOP}") else "told"

    def _note(self) -> None:
        if self._id is not None:
            layout.note(self._lock, self._id, self._began)

    def _end(
        self, step: str, ended: Ended | None = None, *, how: str, reason: str = "", number: int | None = None
    ) -> None:
        status = ended and {"code": ended.code, "signal": ended.signal, "limit": ended.limit}
        said = {"step": step, "status": status, "how": how, "reason": reason, "errno": number, "began": self._began}
        layout.write_kept(f"{self._directory}/{layout.END}", {**said, "ended": time.time()})
