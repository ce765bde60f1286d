"""Python environments of modules: made once for what their requirements say, kept by content, removed when unused."""

from ion_core.python_environments.kept import Look, Unused, lock_of, look, remove_unused
from ion_core.python_environments.making import Environments
from ion_core.python_environments.search import BASE_PYTHON, search_path, visible_prefixes

__all__ = [
    "BASE_PYTHON",
    "Environments",
    "Look",
    "Unused",
    "lock_of",
    "look",
    "remove_unused",
    "search_path",
    "visible_prefixes",
]
