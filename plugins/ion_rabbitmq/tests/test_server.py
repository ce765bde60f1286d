"""The server that tests start, and what is left of it afterwards: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer


def names(server: RabbitServer) -> set[str]:
    return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in server.processes()}


def test_a_removed_server_leaves_no_process_and_others_alone(rabbit: RabbitServer, own_server: RabbitServer) -> None:
    own_server.start()
    others = rabbit.processes()
    assert {"beam.smp", "epmd"} <= names(own_server)
    assert not set(others) & set(own_server.processes())

    own_server.stop()
    assert "epmd" in names(own_server), "Erlang leaves it behind"
    own_server.remove()

    assert own_server.processes() == []
    assert rabbit.processes() == others
    assert not own_server.home.exists()


def test_a_server_that_does_not_start_leaves_no_process(own_server: RabbitServer) -> None:
    (own_server.home / "advanced.config").write_text("this is no Erlang")
    with pytest.raises(AssertionError, match="RabbitMQ does not start"):
        own_server.start()
    own_server.remove()
    assert own_server.processes() == []
