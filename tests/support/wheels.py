"""Packages to install, made on the spot: no index is asked for them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def make_wheel(directory: Path, name: str, version: str = "1.0", *, says: str = "hello", more: str = "") -> Path:
    """A wheel of one module ``name``, with a function ``say`` that returns ``says``, and a program of its name.

    ``more`` is what else is in the module.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"def say():\n    return {says!r}\n\n\ndef main():\n    print(say())\n{more}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def make_requirements(directory: Path, *lines: str, wheels: Path) -> Path:
    """A requirements.txt that installs from ``wheels`` alone."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "requirements.txt"
    path.write_text("".join(f"{line}\n" for line in ("--no-index", f"--find-links {wheels}", *lines)))
    return path
