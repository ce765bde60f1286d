"""What is run for a module: its command line, program, directory and environment, plain or inside bubblewrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.runtime import ContainerSpec
from ion_core.embedded.programs import bubblewrap, spawning, start
from ion_core.errors import PermanentError


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is run for a module. ``isolated`` if that is bubblewrap; ``mark`` is in the environment of all of it."""

    mark: str
    isolated: bool
    argv: tuple[str, ...]
    program: str
    cwd: str
    env: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Launches:
    """Makes them. ``bwrap`` runs modules inside, None for plain ones; ``networks`` are those that they may ask for.

    ``what`` a module is here and who runs it (``by``) are for errors.
    """

    bwrap: str | None
    networks: frozenset[str]
    what: str = "container"
    by: str = "the process runtime"

    def of(self, spec: ContainerSpec, *, mark: str, python: Path | None) -> Launch:
        """What to start, if ``spec`` can be started at all; raises PermanentError otherwise. Its workspace may be
        made later. ``python`` is the module's own environment.
        """
        where = f"{self.what} {spec.name}"
        base = bubblewrap.BASE if self.bwrap else f"{spec.workspace.absolute()}/"
        home = "/tmp" if self.bwrap else None
        env = start.environment(spec, base=base, mark=mark, home=home, python=python)
        if self.bwrap:
            env["PATH"] = bubblewrap.visible_path(spec, env["PATH"], python)
        program = start.check(spec, env, where=where, by=self.by)
        if spec.network not in self.networks:
            offered = ", ".join(sorted(self.networks))
            raise PermanentError(f"{where}: there is no network {spec.network!r} here, only {offered}.")
        if self.bwrap:
            argv, program = bubblewrap.arguments(spec, self.bwrap, program, python), self.bwrap
        elif spec.resources.memory and spawning.HAS_LIMITS:
            argv, program = start.limited(spec, program), start.SHELL
        else:
            argv = [*spec.argv]
        return Launch(
            mark=mark,
            isolated=self.bwrap is not None,
            argv=tuple(argv),
            program=program,
            cwd="/" if self.bwrap else str((spec.source or spec.workspace).absolute()),
            env=env,
        )
