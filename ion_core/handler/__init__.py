"""The handler: what surrounds a module. Its preparer fills the workspace, its committer keeps what the module left."""

from ion_core.handler.api import HandlerApi
from ion_core.handler.committer import Committed
from ion_core.handler.handler import Handler
from ion_core.handler.session import Session
from ion_core.handler.workspace import Workspace

__all__ = ["Committed", "Handler", "HandlerApi", "Session", "Workspace"]
