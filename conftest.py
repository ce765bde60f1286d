"""For all tests: signals do what they do by default, also where the run was started by nohup; the longest are first."""

import signal

import pytest

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # which what tests start would inherit, and Ion heeds
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Fixtures of one server each for all tests of a process, wherever these are.
pytest_plugins = ["tests.support.containers"]

_LONGEST = ("tests/chaos/*", "tests/everywhere/*", "test_wheels.py", "test_new_plugins.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes go first: as the last, one of the processes that share the tests would have it alone."""
    items.sort(key=lambda it: not any(it.path.match(longest) for longest in _LONGEST))
