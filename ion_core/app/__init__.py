"""The composition root, the one room that knows all others: opens what a configuration names, and serves it."""

from ion_core.app.dispatching import Dispatching
from ion_core.app.opening import App
from ion_core.app.serving import Watch, serve
from ion_core.app.several import serve_with_workers
from ion_core.app.strays import StrayQueue, stray_queues

__all__ = ["App", "Dispatching", "StrayQueue", "Watch", "serve", "serve_with_workers", "stray_queues"]
