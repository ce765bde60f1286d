"""A container on the user's own terminal: ``podman run`` against the same service, hardened as any other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ion_core.containers.hardened import CPU_PERIOD
from ion_core.contracts.runtime import Foreground
from ion_core.errors import PermanentError
from ion_podman.spec import Wanted

_PODMANS_OWN = ("PATH", "HOME", "TMPDIR", "TERM", "LANG", "XDG_", "CONTAINER", "DOCKER_", "REGISTRY_", "SSH_", "_")
"""Beginnings of variables that Podman's own command heeds: those of a container may not be in its environment."""


def foreground(wanted: Wanted, socket: str, environ: Mapping[str, str], *, terminal: bool) -> Foreground:
    """Raises PermanentError where there is no ``podman`` command, or a variable cannot be given to it."""
    podman = shutil.which("podman", path=environ.get("PATH"))
    if podman is None:
        raise PermanentError("podman: there is no command podman on the PATH; the service alone has no terminal.")
    env = dict(wanted.spec.env)
    for name, value in env.items():
        if name.startswith(_PODMANS_OWN) and environ.get(name) != value:
            raise PermanentError(
                f"podman: the variable {name} of module {wanted.module!r} means something to the podman command too, "
                "so it cannot be given for a container on a terminal. Leave it out, or set it in the shell."
            )
    argv = [podman, "--remote", "--url", f"unix://{socket}", "run", *_arguments(wanted, terminal), wanted.image.id]
    return Foreground(argv=(*argv, *(wanted.spec.argv or wanted.spec.args)), env={**environ, **env}, cwd=Path.cwd())


def _arguments(wanted: Wanted, terminal: bool) -> Iterator[str]:
    """What ``Wanted.to_json`` asks for, as the command has it."""
    spec, settings = wanted.spec, wanted.settings
    yield from ("--rm", "--interactive", *(["--tty"] if terminal else []), "--name", spec.name, "--pull", "never")
    yield from (f"--label={name}={value}" for name, value in spec.labels.items())
    yield from (f"--env={name}" for name in spec.env)  # its value is in the command's own environment
    yield from (f"--env={name}={value}" for name, value in wanted.env.items() if name not in spec.env)
    yield from ("--http-proxy=false", "--user", wanted.user, "--umask", "0022", "--image-volume", "ignore")
    yield from ("--restart", "no", "--sdnotify", "ignore")
    if wanted.privileged:
        yield "--privileged"
    else:
        yield from ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only")
        yield "--read-only-tmpfs=false"
    for source, target, writable in wanted.binds():
        yield f"--volume={source}:{target}:{'rw' if writable else 'ro'},rbind,nosuid,nodev"
    yield from (f"--tmpfs={path}:rw,nosuid,nodev,mode=1777,size={settings.tmp}" for path in wanted.tmpfs())
    if spec.resources.shm is not None:
        yield f"--shm-size={spec.resources.shm}b"
    yield from (f"--memory={wanted.memory}", f"--memory-swap={wanted.memory}", f"--pids-limit={wanted.pids}")
    if wanted.cpu_quota:
        yield from (f"--cpu-period={CPU_PERIOD}", f"--cpu-quota={wanted.cpu_quota}")
    yield from (f"--device={name}" for name in spec.resources.gpus)
    wanted.network()  # refuses what is not allowed
    yield f"--network={spec.network}"
    if wanted.keeps_id:
        yield "--userns=keep-id"
    if settings.nofile is not None:
        yield from (f"--ulimit=nofile={settings.nofile}", f"--ulimit=nproc={wanted.pids}")
    if spec.command:
        yield "--entrypoint="
