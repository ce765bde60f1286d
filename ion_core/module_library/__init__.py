"""The module library: what a module may copy to its side so as not to write files by hand. It imports nothing of Ion.

``ion_module.py`` and ``ion_module.sh`` are each one file, copied as they are by ``ion-core module init`` and printed by
``ion-core module library``.
"""

from __future__ import annotations

LIBRARY = {"python": "ion_module.py", "sh": "ion_module.sh"}
"""The file for each language that has one."""


def library(language: str) -> str:
    """The text of the file for ``language``, one of LIBRARY."""
    from importlib import resources

    return resources.files(__name__).joinpath(LIBRARY[language]).read_text(encoding="utf-8")
