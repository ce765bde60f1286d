"""What a configuration has to say where modules run as whole jobs of an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ion_core.config import Config, check_runtimes
from ion_core.contracts.executor import ExecutorCapabilities
from ion_core.contracts.provider import Reach

Load = Callable[..., Config]

MODULE = "modules: {one: {command: [x], subscribes: [a]}}\n"


def offers(reach: Reach, *, warm: bool = True) -> dict[str, ExecutorCapabilities]:
    return {
        "default": ExecutorCapabilities(
            images=False,
            isolates=False,
            inputs_read_only=False,
            memory_limit=False,
            cpu_limit=False,
            pids_limit=False,
            gpus=False,
            handler_api=False,
            networks=frozenset({"none"}),
            warm=warm,
            reach=reach,
        )
    }


def found(config: Config, capabilities: dict[str, ExecutorCapabilities]) -> list[str]:
    return [str(finding) for finding in check_runtimes(config, capabilities)]


def test_stores_that_jobs_do_not_reach_are_refused_with_what_would_do(load: Load) -> None:
    config = load("storage:\n  documents: {provider: sqlite, path: a.sqlite}\n" + MODULE)
    documents, blobs = found(config, offers(Reach.NETWORK))
    assert documents.startswith("ion.yaml:2:3: storage.documents: sqlite keeps documents for this machine alone (")
    assert 'jobs of runtime "default" (process) run on other machines: they would not find them.' in documents
    assert documents.endswith("such as in a bucket (provider: fsspec).")
    assert blobs.startswith("ion.yaml:1:1: storage.blobs: local keeps files for this machine alone (")
    assert "a directory that all of them have mounted" in blobs


def test_stores_of_this_process_do_not_do_for_jobs_of_this_machine(load: Load) -> None:
    config = load("storage: {documents: {provider: memory}, blobs: {provider: memory}}\n" + MODULE)
    assert len(found(config, offers(Reach.MACHINE))) == 2
    assert "run in other processes" in found(config, offers(Reach.MACHINE))[0]
    assert found(config, offers(Reach.PROCESS)) == []


def test_stores_of_this_machine_do_for_jobs_of_this_machine(load: Load) -> None:
    assert found(load(MODULE), offers(Reach.MACHINE)) == []


@pytest.mark.parametrize("warm", [True, False])
def test_jobs_are_made_ahead_only_where_the_engine_can(warm: bool, load: Load) -> None:
    config = load("modules: {one: {command: [x], subscribes: [a], warm: 1}}\n")
    problems = found(config, offers(Reach.MACHINE, warm=warm))
    assert problems == (
        []
        if warm
        else [
            'ion.yaml:1:54: modules.one.warm: the runtime "default" (process) makes no jobs ahead of their events. '
            "Remove it, or choose another runtime."
        ]
    )
