"""What a provider promises and what the core relies on: Protocols and their value types.

Two files hold what runtimes may share, since no plugin enters anything else: ``loopback`` and ``output``.

The prose of every rule is in ``docs/contracts/``; each rule is one test of ``ion_core.testing``.
"""

CONTRACT_VERSION = "1.6"
"""Version of the contracts as a whole: a provider written for another major version is refused."""
