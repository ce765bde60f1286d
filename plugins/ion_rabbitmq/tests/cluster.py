"""Three RabbitMQ nodes as one cluster, each in a network namespace of its own, so that one can be cut off.

A switch, in a namespace too, joins them and us. Namespaces last as long as a process in them: none has a name, and all
that was made here is gone once those processes are. It needs root, and ``ip`` of iproute2.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ion_rabbitmq.testing import Place, RabbitServer, free_port

NODES = 3
NETWORKS = "198.18"
"""Set aside for trying network devices (RFC 2544): routed nowhere."""
OURS = 254
APART = 0
"""The node that tests freeze or cut off."""
NOTICED_WITHIN = 15
"""Seconds without a sign of life, or a quarter more, after which the others take a node for gone (``net_ticktime``)."""
RETURNS_AGAIN_AFTER = 10_000
"""Milliseconds after which a retry is given back to its module's queue once more, where that had no leader at first.

RabbitMQ's own is three minutes, which a test would have to wait for.
"""
HEALS_WITHIN = 90.0
NOBODYS = "02:00:00:00:00:01"


class Namespace:
    """A network of its own, for as long as it is held."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(  # ends when we do
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo made && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"made\n", "no network namespace can be made. That takes root."
        self.pid = self._holder.pid

    @property
    def within(self) -> Sequence[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def close(self) -> None:
        self._holder.communicate()


class Switch:
    """Joins namespaces, and this machine, in one network."""

    def __init__(self) -> None:
        taken = _said("ip", "-4", "address", "show")
        free = [it for n in range(256) if f" {(it := f'{NETWORKS}.{n}')}." not in taken]
        self.network = random.choice(free)
        self._namespace = Namespace()
        _run(*self._namespace.within, "ip", "link", "add", "switch", "type", "bridge")
        _run(*self._namespace.within, "ip", "link", "set", "switch", "up")
        self.plug(OURS, pid=os.getpid())

    def address(self, number: int) -> str:
        return f"{self.network}.{number}"

    def plug(self, number: int, *, pid: int, within: Sequence[str] = ()) -> None:
        """Join the namespace of that process, which ``within`` enters, and give it its address."""
        there, here = f"ion-{self.network.rpartition('.')[2]}-{number}", f"port{number}"
        ours = self._namespace.within
        _run(*ours, "ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(pid))
        _run(*ours, "ip", "link", "set", here, "master", "switch", "up")
        _run(*within, "ip", "address", "add", f"{self.address(number)}/24", "dev", there)
        _run(*within, "ip", "link", "set", there, "up")

    def pull(self, number: int) -> None:
        """Nothing passes, and nobody is told."""
        _run(*self._namespace.within, "ip", "link", "set", f"port{number}", "down")

    def push(self, number: int) -> None:
        _run(*self._namespace.within, "ip", "link", "set", f"port{number}", "up")

    def close(self) -> None:
        self._namespace.close()


class RabbitCluster:
    """Nodes are numbered from 0. Each test leaves all of them up and joined."""

    def __init__(self, home: Path) -> None:
        self._switch = Switch()
        mapper_port = free_port()
        self._namespaces: list[Namespace] = []
        self.nodes: list[RabbitServer] = []
        for number in range(NODES):
            namespace = Namespace()
            self._namespaces.append(namespace)
            self._switch.plug(number + 1, pid=namespace.pid, within=namespace.within)
            address = self._switch.address(number + 1)
            place = Place(address=address, mapper_port=mapper_port, within=namespace.within)
            self.nodes.append(RabbitServer(home / str(number + 1), place=place))
        first = self.nodes[0].node
        for node in self.nodes:  # a node that looks for more than one who runs waits for the others
            members = ",".join(f"'{it}'" for it in dict.fromkeys([first, node.node]))
            node.configure(
                kernel={"net_ticktime": NOTICED_WITHIN},
                loopback_users="[]",
                cluster_nodes=f"{{[{members}],disc}}",
                cluster_partition_handling="autoheal",  # a frozen node that goes on has to join again by itself
                dead_letter_worker_publisher_confirm_timeout=RETURNS_AGAIN_AFTER,
            )
            cookie = node.home / ".erlang.cookie"
            cookie.write_text("ion")
            cookie.chmod(0o400)

    def others(self) -> list[RabbitServer]:
        """All but the one that tests freeze or cut off."""
        return [node for number, node in enumerate(self.nodes) if number != APART]

    def urls(self, *, first: int) -> list[str]:
        """Of all nodes, beginning with that one."""
        return [self.nodes[(first + n) % NODES].url for n in range(NODES)]

    def start(self) -> None:
        """Returns once all have joined. The first one alone at first: it is whom the others join."""
        self.nodes[0].start()
        for node in self.nodes[1:]:
            node.begin()
        for node in self.nodes[1:]:
            node.answers()
        assert all(map(self._knows_all, self.nodes)), self.nodes[0].ctl("cluster_status")

    def healed(self) -> None:
        """Returns once all nodes know of each other, and of no partition.

        They come to that by themselves; starting the one anew that was apart is a minute faster.
        """
        if all(map(self._knows_all, self.nodes)):
            return
        self.nodes[APART].kill()
        self.nodes[APART].start()
        deadline = time.monotonic() + HEALS_WITHIN
        while not all(map(self._knows_all, self.nodes)):
            assert time.monotonic() < deadline, self.nodes[0].ctl("cluster_status")

    def goes_without(self, number: int) -> None:
        """Returns once the others have taken a node for gone."""
        deadline = time.monotonic() + HEALS_WITHIN
        while (
            self.nodes[number].node
            in json.loads(self.others()[0].ctl("cluster_status", "--formatter", "json"))["running_nodes"]
        ):
            assert time.monotonic() < deadline, "the others do not notice that a node is frozen"

    def _knows_all(self, node: RabbitServer) -> bool:
        try:
            known = json.loads(node.ctl("cluster_status", "--formatter", "json"))
        except AssertionError:  # it is restarting
            return False
        return set(known["running_nodes"]) == {node.node for node in self.nodes} and not known["partitions"]

    def cut_off(self, number: int) -> None:
        """From everybody, silently."""
        self._switch.pull(number + 1)

    def joined_again(self, number: int) -> None:
        self._switch.push(number + 1)

    def cut_off_from_nodes(self, number: int) -> None:
        """From the other nodes, silently, not from clients: what it sends to them reaches nobody, and the reverse."""
        for one, other in self._pairs(number):
            neighbour = ["neighbour", "replace", self._switch.address(other + 1), "lladdr", NOBODYS, "nud", "permanent"]
            _run(*self._namespaces[one].within, "ip", *neighbour, "dev", self._device(one))

    def joined_again_with_nodes(self, number: int) -> None:
        for one, other in self._pairs(number):
            neighbour = ["neighbour", "delete", self._switch.address(other + 1), "dev", self._device(one)]
            _run(*self._namespaces[one].within, "ip", *neighbour)

    def _pairs(self, number: int) -> Iterator[tuple[int, int]]:
        for other in set(range(NODES)) - {number}:
            yield from ((number, other), (other, number))

    def _device(self, number: int) -> str:
        return f"ion-{self._switch.network.rpartition('.')[2]}-{number + 1}"

    def remove(self) -> None:
        with contextlib.ExitStack() as stack:
            for it in (self._switch, *self._namespaces):
                stack.callback(it.close)
            for node in self.nodes:
                stack.callback(node.remove)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
