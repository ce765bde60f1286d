"""``ion-core module remove`` and ``rename``: the entry of the configuration, its queue and its cases go together."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ion_core.app import App
from ion_core.cli.module import changing
from ion_core.config.tree import Problems, parse
from ion_core.contracts.messaging import RetryPolicy
from ion_core.errors import UsageError
from ion_core.events import Context, Event, encode_event
from ion_core.scaffold import with_renamed_module, without_module
from ion_core.state import State
from tests.cli.conftest import ion as ion
from tests.cli.running import PIPELINE, Ion
from tests.unit.test_scaffold import EXAMPLES

COMMENTED = """\
# the pipeline
modules: # three

  # takes all
  a:
    command: x # not y
    subscribes: [t]
    # inside a

  # about b
  'b': {command: x, subscribes: [t]}

  c:
    command: |
      x
      # no comment
    subscribes: [t]

# state
state: s
"""


def names(ion: Ion) -> dict[str, dict[str, int] | None]:
    return {it["name"]: it["queue"] for it in ion("module", "list", "--json").json}


def queue(ready: int = 0, dead: int = 0) -> dict[str, int]:
    return {"ready": ready, "delayed": 0, "unsettled": 0, "dead": dead}


def publish(ion: Ion, *ids: str) -> None:
    for event_id in ids:
        ion("event", "publish", "start", "--file", "note.txt", "--event-id", event_id, "--correlation-id", event_id)


async def die(app: App) -> None:
    async with (await app.broker()).subscribe("up", prefetch=1) as deliveries:
        await (await anext(aiter(deliveries))).dead_letter("no good")


def test_a_removed_module_leaves_every_comment_around_it() -> None:
    made = without_module(COMMENTED.encode(), "a", where="f").decode()
    assert made == COMMENTED.replace("  a:\n    command: x # not y\n    subscribes: [t]\n    # inside a\n\n", "\n"), (
        made
    )
    assert "'b'" not in without_module(COMMENTED.encode(), "b", where="f").decode()
    assert (
        without_module(COMMENTED.encode(), "c", where="f").decode().endswith("subscribes: [t]}\n\n# state\nstate: s\n")
    )


@pytest.mark.parametrize("text", EXAMPLES)
def test_any_module_can_be_removed_or_renamed_and_nothing_else_changes(text: str) -> None:
    def plain(content: bytes) -> dict[str, object]:
        found = parse(content, "f", Problems()).at(("modules",))
        return {name: node.key_place for name, node in (found.value or {}).items()} if found is not None else {}

    before = list(plain(text.encode()))
    left = text.encode()
    for name in before:
        renamed = with_renamed_module(text.encode(), name, "007", where="f")
        assert list(plain(renamed)) == ["007" if it == name else it for it in before]
        without, count = re.subn(rf"(?m)^ *formerly: \[{name}\]\r?\n|formerly: \[{name}\], ", "", renamed.decode())
        assert count == 1
        lines = zip(text.splitlines(), without.splitlines(), strict=True)
        assert len([old for old, new in lines if old != new]) == 1
        back = with_renamed_module(renamed, "007", name, where="f").decode()
        expected = renamed.decode().replace("007", name).replace(f"formerly: [{name}]", 'formerly: ["007"]')
        assert back == expected
        left = without_module(left, name, where="f")
    assert plain(left) == {}
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in left.decode().splitlines() if line.startswith("#")] == comments


def test_what_is_written_in_one_line_is_left_to_hands() -> None:
    text = b"modules: {a: {command: x, subscribes: [t]}, b: {command: x, subscribes: [t]}}\n"
    with pytest.raises(UsageError, match=r"f:1:11: modules.a: .* by hand. Nothing was changed"):
        without_module(text, "a", where="f")
    shared = b"modules:\n  a: &a {command: x, subscribes: [t]}\n  b: *a\n"
    with pytest.raises(UsageError, match="by hand"):
        without_module(shared, "a", where="f")
    assert with_renamed_module(shared, "a", "c", where="f") == shared.replace(b"a: &a", b"c: &a")
    braces = b"modules: {a: {formerly: [x], command: y, subscribes: [t]}}"
    assert (
        with_renamed_module(braces, "a", "b", where="f")
        == braces.replace(b"{a: ", b"{b: ").replace(b"[x]", b"[x, a]") + b"\n"
    )
    with pytest.raises(UsageError, match="is there already"):
        with_renamed_module(text, "a", "b", where="f")


def test_a_renamed_module_takes_its_events_and_cases_along(ion: Ion) -> None:
    publish(ion, "dead", "waits")
    ion.in_app(die)
    case = ion.home / "cases/up/first"
    case.mkdir(parents=True)
    renamed = ion("module", "rename", "up", "lift", "--yes", "--json")
    assert renamed.code == 0, renamed.err
    assert renamed.json["moved"] == 2
    assert (ion.home / "ion.yaml").read_text() == PIPELINE.replace("  up:\n", "  lift:\n    formerly: [up]\n")
    assert names(ion) == {"lift": queue(ready=1, dead=1), "fails": queue(), "takes": queue()}
    assert (ion.home / "cases/lift/first").is_dir()
    assert not case.exists()
    ion.process("serve", "--until-idle")
    assert "lift: committed" in ion("trace", "flow", "waits").out


def test_what_a_module_did_under_a_former_name_is_its_own(ion: Ion) -> None:
    """Dead, retried and committed: in one line, as a tree, by its files, logs and commits."""
    publish(ion, "one")
    ion.process("serve", "--until-idle")
    [letter] = ion("dlq", "list", "--json").json
    assert letter["module"] == "fails"
    for old, new in (("fails", "breaks"), ("up", "lift"), ("breaks", "bursts")):
        assert ion("module", "rename", old, new, "--yes").code == 0
    [dead] = ion("trace", "list", "--json").json
    assert (dead["outcome"], dead["jobs"]) == ("dead", {"committed": 2, "dead-lettered": 1})
    (ion.home / "mended").touch()
    assert ion("dlq", "redrive", "--all").code == 0
    ion.process("serve", "--until-idle")
    [done] = ion("trace", "list", "--module", "bursts", "--json").json
    assert (done["outcome"], done["jobs"]) == ("done", {"committed": 3})
    assert ion("trace", "list", "--module", "fails", "--json").json == [done]
    assert ion("trace", "list", "--failed", "--json").json == []
    tree = ion("trace", "flow", "one").out
    assert "lift (then up): committed" in tree
    assert "bursts (then fails): committed" in tree
    assert "pending" not in tree
    assert "no module" not in tree
    files = [it["name"] for it in ion("files", "--module", "lift", "--json").json]
    assert files == ["note.txt"]
    assert "worked hard" in ion("logs", "one", "--module", "lift").out
    assert ion("event", "republish", "--type", "start", "--since", "1h", "--dry-run", "--json").json["modules"] == [
        {"module": "lift", "events": 0, "committed": 1, "waiting": 0}
    ]
    assert ion("replay", "one").code == 0


def test_a_former_name_is_that_of_one_module(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(
        PIPELINE.replace("  up:\n", "  up:\n    formerly: [takes, x]\n").replace(
            "  fails:\n", "  fails:\n    formerly: [x, A B]\n"
        )
    )
    said = ion("check").err
    assert 'ion.yaml:3:16: modules.up.formerly[0]: "takes" is a module of this configuration.' in said
    assert 'ion.yaml:9:16: modules.fails.formerly[0]: "x" is a former name of up too.' in said
    assert "modules.fails.formerly[1]" in said


def test_one_that_was_cut_short_is_finished_by_the_same_again(ion: Ion) -> None:
    publish(ion, "waits")
    config = ion.home / "ion.yaml"
    config.write_text(PIPELINE.replace("  up:\n", "  lift:\n"))  # and then it was killed
    assert ion("module", "rename", "up", "lift", "--yes").code == 0
    assert names(ion)["lift"] == queue(ready=1)
    assert "up" not in names(ion)
    again = ion("module", "rename", "up", "lift", "--yes")
    assert again.code == 2
    assert "no module called 'up', and nothing is left of one" in again.err


def test_what_another_configuration_has_waiting_is_not_taken_for_the_rest_of_a_rename(ion: Ion) -> None:
    async def declare(app: App) -> None:
        broker = await app.broker()
        await broker.declare("theirs", topics=["other"], retry=RetryPolicy(retries=0))
        event = Event(context=Context(name="x", event_id="e", correlation_id="c"), type="other")
        await broker.publish("other", encode_event(event), headers={})

    ion.in_app(declare)
    refused = ion("module", "rename", "theirs", "up", "--yes")
    assert refused.code == 1
    assert "up does not take what waits in theirs: other (1). Nothing was moved." in refused.err
    assert names(ion)["theirs"] == queue(ready=1)


def test_what_is_done_and_waits_to_be_acknowledged_is_not_done_again_under_another_name(ion: Ion) -> None:
    publish(ion, "done")
    ion.process("serve", "--until-idle")
    publish(ion, "done")  # as a crash after the commit leaves it
    refused = ion("module", "rename", "up", "lift", "--yes")
    assert refused.code == 1
    assert "has done 1 of what is in its queue" in refused.err
    assert (ion.home / "ion.yaml").read_text() == PIPELINE
    ion.process("serve", "--until-idle")
    assert ion("module", "rename", "up", "lift", "--yes").code == 0


def test_nor_is_it_where_the_file_was_changed_by_hand_and_what_waits_is_moved(ion: Ion) -> None:
    publish(ion, "done")
    ion.process("serve", "--until-idle")
    publish(ion, "done")
    (ion.home / "ion.yaml").write_text(PIPELINE.replace("  up:", "  lift:"))
    refused = ion("module", "move", "up", "lift", "--yes")
    assert refused.code == 1
    assert "has done 1 of what is in its queue" in refused.err
    assert names(ion)["up"]["ready"] == 1


def test_what_is_accepted_while_a_module_is_removed_is_kept(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    written = changing._write
    ion.process("serve", "--until-idle")  # there is a queue

    def and_published(*args: Any) -> Any:
        ion.process("event", "publish", "start")
        return written(*args)

    monkeypatch.setattr(changing, "_write", and_published)
    assert ion("module", "remove", "up", "--yes").code == 0
    assert names(ion)["up"] == queue(ready=1)


def test_an_event_that_was_dropped_as_a_dead_letter_runs_when_it_is_published_for_a_module_of_that_name(
    ion: Ion,
) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(PIPELINE.replace("  up:\n", "  up:\n    retries: 0\n    timeout: 1ms\n"))
    publish(ion, "again")
    ion.process("serve", "--until-idle")
    assert names(ion)["up"] == queue(dead=1)
    assert ion("module", "remove", "up", "--drop", "--yes").code == 0
    config.write_text(PIPELINE)
    publish(ion, "again")
    ion.process("serve", "--until-idle")
    assert "up: committed" in ion("trace", "flow", "again").out


def test_a_removed_module_collects_no_more_and_what_waits_is_kept_unless_it_is_to_be_dropped(ion: Ion) -> None:
    publish(ion, "waits")
    removed = ion("module", "remove", "up", "--yes")
    assert removed.code == 0, removed.err
    assert "In it: 1 waiting" in removed.err
    assert names(ion) == {"fails": queue(), "takes": queue(), "up": queue(ready=1)}
    ion("event", "publish", "start")
    assert names(ion)["up"] == queue(ready=1)

    dropped = ion("module", "remove", "takes", "--yes", "--json")  # there is nothing in its queue
    assert dropped.json == {"module": "takes", "queue": queue(), "dropped": True}
    assert set(names(ion)) == {"fails", "up"}


def test_with_drop_a_queue_goes_with_all_that_is_in_it(ion: Ion) -> None:
    publish(ion, "waits")
    assert ion("module", "remove", "up", "--drop", "--yes").code == 0
    assert set(names(ion)) == {"fails", "takes"}


@pytest.mark.parametrize("command", [("remove", "up"), ("rename", "up", "lift")])
def test_nothing_is_changed_while_somebody_works_or_nobody_says_yes(ion: Ion, command: tuple[str, ...]) -> None:
    publish(ion, "waits")
    refused = ion("module", *command)
    assert refused.code == 2
    assert "say --yes" in refused.err
    with State.open(ion.home / ".ion").locked():
        refused = ion("module", *command, "--yes")
        assert refused.code == 75
        assert f"in use by another `ion-core`, pid {os.getpid()}. Stop that one first" in refused.err
        assert "--state-dir" not in refused.err  # there is another queue there: what waits here would be left behind

    async def held(app: App) -> None:
        async with (await app.broker()).subscribe("up", prefetch=1) as deliveries:
            await anext(aiter(deliveries))
            refused = await asyncio.to_thread(ion.process, "module", *command, "--yes")
            assert refused.code == 1
            assert "a dispatcher holds 1 of its events" in refused.err

    ion.in_app(held)
    assert (ion.home / "ion.yaml").read_text() == PIPELINE
    assert names(ion)["up"] == queue(ready=1)


def test_what_cannot_be_is_said_and_changes_nothing(ion: Ion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "Did you mean 'takes'?" in ion("module", "remove", "take", "--yes").err
    assert "must be 1 to 63 lower-case" in ion("module", "rename", "up", "Up", "--yes").err
    assert "modules.takes: is there already" in ion("module", "rename", "up", "takes", "--yes").err
    monkeypatch.setenv("ION_MODULES__UP__CONCURRENCY", "2")  # the new name would leave it without a module
    refused = ion("module", "rename", "up", "lift", "--yes")
    assert refused.code == 78
    assert "ION_MODULES__UP__CONCURRENCY" in refused.err
    assert (ion.home / "ion.yaml").read_text() == PIPELINE


def test_other_places_that_have_the_old_name_are_named(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(PIPELINE.replace("subscribes: [start]", "subscribes: [start]\n    env: {WHO: up}"))
    assert "ion.yaml:7:16: modules.lift.env.WHO: still says up" in ion("module", "rename", "up", "lift", "--yes").err
