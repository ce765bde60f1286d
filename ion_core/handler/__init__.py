"""The handler: what surrounds a module. Its preparer fills the workspace, its committer keeps what the module left.

What the face has is imported when it is asked for: a step that is started for each job needs little of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ion_core.handler.api import HandlerApi
    from ion_core.handler.committer import Committed
    from ion_core.handler.handler import Handler
    from ion_core.handler.session import Session
    from ion_core.handler.workspace import Workspace

__all__ = ["Committed", "Handler", "HandlerApi", "Session", "Workspace"]

_FILES = {
    "Committed": "committer",
    "Handler": "handler",
    "HandlerApi": "api",
    "Session": "session",
    "Workspace": "workspace",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
