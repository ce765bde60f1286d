"""For all tests: signals do what they do by default, also where the run was started by nohup."""

import signal

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # which what tests start would inherit, and Ion heeds
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Fixtures of one server each for all tests of a process, wherever these are.
pytest_plugins = ["tests.support.containers"]
