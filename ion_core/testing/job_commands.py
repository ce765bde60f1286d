"""The executor kit's commands: what its modules do besides those of the runtime kit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ion_core.testing.programs import BASE, READY, Command, Commands, shell


class JobCommands(Commands):
    """What the kit's modules do besides. An executor without ``/bin/sh`` overrides these too."""

    def leaves(self, files: Mapping[str, bytes], *, hang: bool = False) -> Command:
        """Writes these files of the workspace, whose directories are there, says READY and exits with 0, or hangs."""
        script = "".join(f"printf '{_octal(content)}' > {BASE}/{name}; " for name, content in files.items())
        return shell(f"{script}echo {READY}; {_FOR_EVER if hang else 'exit 0'}")

    def prints_arguments(self) -> Command:
        """A line for each argument that it is given besides."""
        return (*shell("printf '%s\\n' \"$@\""), "sh")

    def prints_names_of_env(self) -> Command:
        """The name of every variable, a line each."""
        return shell("env | cut -d= -f1")

    def prints_names_of_files(self) -> Command:
        """The path of every file in the workspace, from there, a line each."""
        return shell(f"cd {BASE} && find . -type f | cut -c3-")

    def looks_for(self, text: str, *, below: str = BASE) -> Command:
        """Prints ``seen in …`` where ``text`` is in its environment, its arguments, or a new file below that directory.

        The last line is ``looked``. It does not contain ``text`` itself.
        """
        half = len(text) // 2
        halves = (_octal(it.encode()) for it in (text[:half], text[half:]))
        pattern = "".join(f"printf '{it}'; " for it in halves)
        files = "\\( -path /proc -o -path /sys -o -path /dev \\) -prune -o -mmin -60 -type f -size -1024k -print0"
        seen = 'grep -lF -e "$p" -- "$@" 2>/dev/null | sed "s/^/seen in /"'
        return shell(
            f'p="$({pattern})"; case "$(env)" in *"$p"*) echo seen in env;; esac; '
            'case "$(tr "\\0" " " < /proc/$$/cmdline)" in *"$p"*) echo seen in arguments;; esac; '
            f"export p; find {below} {files} 2>/dev/null | xargs -0 sh -c '{seen}' sh; echo looked"
        )

    def touches(self, path: Path) -> Command:
        """Makes that file outside of its workspace, again and again, for ever, whatever SIGTERM and SIGHUP say."""
        return shell(f"trap '' TERM HUP; echo {READY}; while :; do echo tick > '{path}'; sleep 0.05; done")

    def leaves_a_child_touching(self, path: Path) -> Command:
        """Exits with 0 once its child, which ignores SIGTERM and SIGHUP, makes that file again and again."""
        child = f"trap '' TERM HUP; while :; do echo tick > '{path}'; sleep 0.05; done"
        return shell(f"({child}) & while [ ! -e '{path}' ]; do sleep 0.05; done")

    def takes_memory(self) -> Command:
        """More than 64 MiB: what has no end of a line, ``tail`` keeps as a whole."""
        return shell("head -c 268435456 /dev/zero | tail")


_FOR_EVER = "while :; do sleep 1; done"


def _octal(content: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in content)
