"""The same pipelines through every backend: with what they are run, nobody sees in what they leave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.hookspecs import hookimpl
from ion_core.registry import Kind, load_plugins
from tests.everywhere.backends import BACKENDS, RUNTIME, Combination, backends, product, with_each
from tests.everywhere.comparing import comparable, differences
from tests.everywhere.covering import covering
from tests.everywhere.equivalence import compare, problems
from tests.everywhere.running import Left, Run
from tests.everywhere.site import Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def everything() -> list[Combination]:
    return list(product(backends(load_plugins())))


@pytest.mark.timeout(1800)
def test_each_backend_leaves_the_same_documents_files_and_dead_letters(
    site: Site, everything: list[Combination], tmp_path: Path
) -> None:
    told: list[str] = []
    results = compare(with_each(everything), site, tmp_path, told=told.append)
    print(*told, sep="\n")
    assert not list(problems(results)), "\n".join([*told, *problems(results)])


@pytest.mark.timeout(600)
def test_what_all_are_compared_to_is_what_the_pipelines_are_to_leave(
    site: Site, everything: list[Combination], tmp_path: Path
) -> None:
    run = Run(everything[0], site, tmp_path / "first")
    run.make()
    left = run.run()
    kinds = Counter((it["context"]["documentType"], it["context"]["name"]) for it in left.documents)
    jobs = {"unpack": 1, "count": 2, "turn": 2, "sign": 2, "choose": 2, "stubborn": 1, "bind": 1, "lend": 1}
    faces = {"detect": 1, "blur": 1, "catalogue": 1}
    assert {name: count for (kind, name), count in kinds.items() if kind == "commit"} == jobs | faces
    attempts = {name: count for (kind, name), count in kinds.items() if kind == "modulelogs"}
    assert attempts == jobs | faces | {"stubborn": 3, "broken": 2, "smuggle": 1}
    insights = {name for kind, name in kinds if kind == "insight"}
    assert insights == {"unpack", "count", "bind", "lend", "detect", "catalogue"}
    assert sorted(it["module"] for it in left.dead_letters) == ["broken", "smuggle"]
    assert {"unpack/shelf-1/pages/numbers/\u00fcn\u00ef-\u2713.txt", "unpack/shelf-1/tool"} <= left.files.keys()
    [said] = (run.home / "fetched").glob("lend/*/said.txt")
    assert said.read_text() == "a tool\n", "what may be executed can be"
    [told] = (run.home / "fetched").glob("bind/*/told.json")
    assert [it["type"] for it in json.loads(told.read_text())["events"]] == ["page.signed", "page.signed"]
    assert list(differences(comparable(left), comparable(left))) == []


@pytest.mark.timeout(600)
def test_what_ion_refuses_is_in_no_combination(site: Site, everything: list[Combination], tmp_path: Path) -> None:
    pods = next(it for it in everything if it.runtime.provider == "kubernetes")
    refused = Combination(pods.broker, pods.runtime, everything[0].blobs, everything[0].documents)
    assert not refused.is_possible()
    run = Run(refused, site, tmp_path / "refused")
    run.make()
    run.ion("check", code=78)


class Parcel:
    @hookimpl
    def ion_executors(self) -> list[Provider[object]]:
        return [Provider(name="parcel", settings=Settings, open=print, contract="1.2")]  # type: ignore[arg-type]


def test_a_new_provider_is_not_left_out_in_silence() -> None:
    registry = load_plugins(extra=[Parcel()])
    with pytest.raises(AssertionError, match=r'"parcel" of .* Add to BACKENDS in tests/everywhere/backends\.py'):
        backends(registry)


def test_a_provider_that_is_not_installed_is_left_out() -> None:
    found = backends(load_plugins(environ={"ION_PLUGINS": "off"}))
    assert {it.name for it in found[RUNTIME]} == {"process", "bubblewrap", "subprocess"}
    assert {len(it) for kind, it in found.items() if kind is not RUNTIME} == {1}


@pytest.mark.parametrize(("together", "most"), [(1, 15), (2, 5)])
def test_few_combinations_have_them_all(everything: list[Combination], together: int, most: int) -> None:
    few = with_each(everything, together)
    assert few[0] == everything[0]
    assert few == with_each(everything, together)
    wanted = {them for it in everything for them in combinations(it.all, together)}
    assert {them for it in few for them in combinations(it.all, together)} == wanted
    assert {it for combination in few for it in combination.all} == set(BACKENDS)
    assert len(few) < len(everything) / most


def test_what_stands_together_is_counted_by_its_places() -> None:
    rows = [(a, b, c) for a in "xy" for b in "xy" for c in "xy"]
    assert covering(rows, 1) == [("x", "x", "x"), ("y", "y", "y")]
    assert len(covering(rows)) == 4


CONTEXT = {"documentType": "commit", "name": "m", "eventId": "e1"}
COMMIT = {"id": "e1", "context": CONTEXT, "attempt": 1, "token": "abc123"}


def left(**changed: object) -> Left:
    letter = {"id": "17", "module": "m", "eventId": "e1", "diedAt": "12:00", "reason": "exit code 1"}
    outputs = [{"name": "x", "key": f"f/e1/m/1-{changed.get('token', 'abc123')}/x"}]
    return Left([{**COMMIT, "outputs": outputs, **changed}], [letter], {"m/e1/x": "00"})


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"id": "e2"}, "commit of m for e1: [0].id is 'e2' instead of 'e1'"),
        ({"attempt": 2}, "commit of m for e1: [0].attempt is 2 instead of 1"),
        ({"more": [1]}, "commit of m for e1: [0].more is [1] instead of None"),
        ({"startedAt": ""}, "commit of m for e1: [0].startedAt is '' instead of 'TIME'"),
    ],
)
def test_what_differs_is_told(changed: dict[str, object], line: str) -> None:
    one = comparable(left(startedAt="12:01"))
    assert list(differences(one, comparable(left(**{"startedAt": "12:02", **changed})))) == [line]
    assert list(differences(one, {})) == [f"{name}: is missing" for name in sorted(one)]


def test_times_tokens_and_where_it_ran_do_not_count() -> None:
    one = comparable(left(startedAt="12:01", image=None))
    other = comparable(left(startedAt="12:02", image="x@sha256:0", token="def456"))
    assert list(differences(one, other)) == []


def test_a_run_that_fails_is_told_and_ends_no_other(
    site: Site, everything: list[Combination], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(run: Run) -> Left:
        if run.combination == second:
            raise AssertionError("exit code 70")
        return left()

    monkeypatch.setattr(Run, "run", run)
    monkeypatch.setattr(Run, "make", lambda run: None)
    first, second, third = [it for it in everything if it.runtime.name == "process"][:3]
    told: list[str] = []
    results = compare([first, second, third], site, tmp_path, told=told.append)
    assert [it.problem for it in results] == ["", "failed: exit code 70", ""]
    assert [line.split()[-1] for line in told[1:]] == ["same", "70", "same"]
    assert [it.partition(":")[0] for it in problems(results)] == [second.name]


def test_kinds_that_a_combination_has_are_those_of_a_configuration() -> None:
    """But for services, which run beside all of it, and observers, who have no say in it."""
    assert {it.kind for it in BACKENDS} == set(Kind) - {Kind.SERVICE, Kind.OBSERVER, Kind.EXECUTOR}
