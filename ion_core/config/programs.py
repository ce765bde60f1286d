"""Checks of what modules run as processes: their programs, and the Python environments that are made for them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ion_core.config.load import Config
from ion_core.contracts.provider import Finding
from ion_core.errors import ConfigError
from ion_core.modules import Module
from ion_core.opening import Chosen
from ion_core.python_environments import look, search_path


@dataclass(frozen=True, kw_only=True)
class ModulePython:
    """The Python environment of a module that runs as a process: where it is, or will be, and whether it is made."""

    module: str
    requirements: Path | None
    environment: Path
    made: bool


def runs_processes(chosen: Chosen) -> bool:
    """Whether it runs modules as processes of this machine: what they need is looked for here."""
    return chosen.provider.name in ("process", "subprocess")


def environments_directory(chosen: Chosen) -> Path | None:
    """Where a runtime keeps the Python environments of modules; None for one that has none."""
    found = getattr(chosen.settings, "environments", None) if runs_processes(chosen) else None
    return found.absolute() if isinstance(found, Path) else None


def python_environments(config: Config) -> list[ModulePython]:
    """Those of all modules that have one of their own. Raises ConfigError for requirements that cannot be read."""
    found = []
    for module in _processes(config):
        directory = environments_directory(config.runtimes[module.runtime])
        if module.python is None or module.python.ion or directory is None:
            continue
        try:
            it = look(directory, module.python.requirements)
        except OSError as error:
            where = config.where("modules", module.name, "python", "requirements")
            raise ConfigError(f"{where}: cannot be read: {error.filename}: {error.strerror}.") from error
        requirements = module.python.requirements
        found.append(ModulePython(module=module.name, requirements=requirements, environment=it.path, made=it.made))
    return found


def check_python(config: Config) -> list[Finding]:
    """Environments that are still to be made, and requirements beside a module that nobody installs."""
    findings = [
        Finding(
            severity="info",
            where=config.where("modules", it.module, "python"),
            text="its environment is not made yet: that is done when it first runs, and may take a while",
        )
        for it in python_environments(config)
        if not it.made
    ]
    installed = {it.python.requirements for it in config.modules.values() if it.python is not None}
    for module in _processes(config):
        file = Path(module.source or "", "requirements.txt")
        if module.source is not None and module.python is None and file not in installed and file.is_file():
            where = config.where("modules", module.name, "source")
            text = f"{file} is there, and nobody installs it. Add python: {{requirements: …}}, naming it"
            findings.append(Finding(severity="warning", where=where, text=text))
    return findings


def _processes(config: Config) -> list[Module]:
    """Modules that run here as processes."""
    chosen = config.runtimes
    return [it for it in config.modules.values() if it.runtime in chosen and runs_processes(chosen[it.runtime])]


def check_programs(config: Config, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Commands whose program or script is not on this machine, of modules that run here as processes: warnings."""
    return [
        Finding(severity="warning", where=config.where("modules", module.name, "command"), text=text)
        for module in _processes(config)
        if (text := _no_program(module, environ) or _no_script(module))
    ]


def _no_program(module: Module, environ: Mapping[str, str]) -> str | None:
    python = module.python
    if not module.command or (python is not None and python.requirements is not None):
        return None  # what will be in its environment nobody knows before
    name, start = module.command[0], module.source
    path = search_path(environ, ion=python is not None and python.ion)
    if os.sep not in name and shutil.which(name, path=path):
        return None
    if start is None and not Path(name).is_absolute():  # beside it there is nothing but the workspace
        return f'there is no program "{name}" on the PATH. Install it, or set source if it is a file of the module'
    program = Path(start or "/", name)
    if program.is_file() and os.access(program, os.X_OK):
        return None
    if program.is_file():
        return f"the program {program} is not executable. Make it so (chmod +x), or name what runs it first"
    return f'there is no program "{name}" {f"in {start}" if os.sep in name else f"on the PATH or in {start}"}'


def _no_script(module: Module) -> str | None:
    """Of what is known to run a file, where it is told in a way that is known."""
    interpreter = Path(module.command[0]).name if module.command else ""
    flags = next((flags for names, flags in _RUN_A_FILE if re.fullmatch(names, interpreter)), None)
    if flags is None:
        return None
    script = next((it for it in module.command[1:] if not re.fullmatch(flags, it)), "-")
    if script.startswith("-") or os.path.lexists(Path(module.source or "/", script)):
        return None
    if module.source is not None or Path(script).is_absolute():
        return f'{interpreter} is to run "{script}", and there is no such file{_within(module.source, script)}'
    if Path(script).parts[:1] in (("in",), ("out",)):
        return None  # of the event, or its own
    return f'{interpreter} is to run "{script}", which is in no workspace. Set source to the directory that it is in'


def _within(source: Path | None, script: str) -> str:
    return "" if source is None or Path(script).is_absolute() else f" in {source}"


_RUN_A_FILE = (
    (r"(python|pypy)[0-9.]*", r"-[BEIOSbdsuvx]+"),
    (r"(ba|da|k|z)?sh", r"-[aefuvx]+"),
    (r"node|ruby|perl|php|Rscript|lua|julia", r"(?!)"),
)
"""Programs whose first argument is a file that they run, and flags that may stand before it and take no value."""
