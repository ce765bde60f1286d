"""What a valid configuration still has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.config import Config, check_graph, check_holding, check_names, check_runtimes, check_told, told_limit
from ion_core.contracts.messaging import HoldLimit
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.contracts.settings import Settings
from ion_core.errors import PluginFailed

Load = Callable[..., Config]

NOTHING = RuntimeCapabilities(
    images=False,
    isolates=False,
    inputs_read_only=False,
    memory_limit=False,
    cpu_limit=False,
    pids_limit=False,
    gpus=False,
    handler_api=False,
    networks=frozenset({"none"}),
)
EVERYTHING = replace(NOTHING, builds=True, named_networks=True, networks=frozenset({"none", "bridge", "host"}))
EVERYTHING = replace(EVERYTHING, images=True, memory_limit=True, cpu_limit=True, pids_limit=True, gpus=True)
EVERYTHING = replace(EVERYTHING, shm_size=True)


def graph(load: Load, **modules: str) -> list[str]:
    lines = [f"  {name}: {{command: x, {edges}}}" for name, edges in modules.items()]
    return [f"{it.severity} {it}" for it in check_graph(load("modules:\n" + "\n".join(lines) + "\n"))]


def test_ends_and_beginnings_are_information(load: Load) -> None:
    assert graph(load, one="subscribes: [a], publishes: [b]", two="subscribes: [b], publishes: [c]") == [
        'info ion.yaml:3:50: modules.two.publishes[0]: nobody takes "c": flows end there',
        'info ion.yaml:2:34: modules.one.subscribes[0]: no module emits "a": it comes from outside',
    ]


def test_a_type_that_is_nearly_one_that_is_taken_is_a_warning(load: Load) -> None:
    first = graph(load, one="subscribes: [a], publishes: [face.detectd]", two="subscribes: [face.detected]")[0]
    assert first == (
        'warning ion.yaml:2:50: modules.one.publishes[0]: nobody takes "face.detectd". Did you mean "face.detected"?'
    )


def test_a_circle_is_a_warning_that_names_the_hop_limit(load: Load) -> None:
    findings = graph(
        load,
        start="subscribes: [x], publishes: [a]",
        one="subscribes: [a], publishes: [b]",
        two="subscribes: [b], publishes: [c]",
        three="subscribes: [c], publishes: [a]",
    )
    assert [it for it in findings if it.startswith("warning")] == [
        "warning ion.yaml:3:49: modules.one.publishes: modules start each other in a circle: one → two → three → one. "
        "An event 64 modules from the first starts no more."
    ]


def test_a_circle_that_nothing_leads_into_is_said_to_be_one(load: Load) -> None:
    findings = graph(load, one="subscribes: [a], publishes: [a]", two="subscribes: [b], publishes: [a, c]")
    assert sum("circle: one → one." in it for it in findings) == 1
    assert not any("only itself" in it for it in findings)
    findings = graph(load, one="subscribes: [a], publishes: [b]", two="subscribes: [b], publishes: [a]")
    assert sum("only itself, or somebody outside, starts it: one, two" in it for it in findings) == 1


def test_a_configuration_without_modules_is_a_warning(load: Load) -> None:
    (finding,) = check_graph(load("state: x\n"))
    assert (finding.severity, finding.text) == ("warning", "there are none: no event starts anything")


NAMING = """runtimes:
  default: {provider: cart}
  other:
    provider: cart
    allow:
      root: [detect, READERS]
      mounts: [blur]
modules:
  detect: {command: x, subscribes: [a], runtime: other}
  blur: {command: x, subscribes: [b], formerly: [smear]}
services:
  gate: {listen: here, token: t, readers: [detect, READERS]}
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("detct", 'there is no module "detct". Did you mean "detect"?'),
        ("smear", 'there is no module "smear". It is called "blur" now.'),
        ("nobody", 'there is no module "nobody". Modules: detect, blur.'),
    ],
)
def test_settings_that_name_no_module_are_an_error_wherever_they_stand(load: Load, name: str, text: str) -> None:
    config = load(NAMING.replace("READERS", name))
    errors = [
        f"error ion.yaml:6:22: runtimes.other.allow.root[1]: {text}",
        f"error ion.yaml:12:52: services.gate.readers[1]: {text}",
    ]
    assert [f"{it.severity} {it}" for it in check_names(config)] == [
        *errors,
        'warning ion.yaml:7:16: runtimes.other.allow.mounts[0]: has no effect on module "blur", which runs under '
        'runtime "default" (cart)',
    ]
    assert [f"{it.severity} {it}" for it in check_told(config)] == errors, "serve says it before it opens anything"


def test_settings_that_name_modules_that_there_are_are_fine(load: Load) -> None:
    config = load(NAMING.replace("READERS", "detect").replace("[blur]", "[]"))
    assert check_names(config) == []


def test_a_plugin_that_raises_when_it_is_asked_for_modules_is_named(load: Load) -> None:
    config = load(NAMING.replace("READERS", '"!"'))
    with pytest.raises(PluginFailed, match=r"runtimes\.other: the plugin .* raised KeyError .* asked for modules"):
        check_names(config)


LIMIT = HoldLimit(longest=timedelta(minutes=30), remedy="Set it to {}.".format)
LONG = """drain_timeout: 1m
modules:
  short: {command: x, subscribes: [a]}
  near: {command: x, subscribes: [a], timeout: 29m}
  over: {command: x, subscribes: [a], timeout: 29m1s}
  long: {command: x, subscribes: [a], timeout: 2h}
"""


def test_modules_that_take_longer_than_the_broker_holds_an_event_are_warned_of(load: Load) -> None:
    over, long = check_holding(load(LONG), LIMIT)
    assert (over.severity, long.severity) == ("warning", "warning")
    assert over.where == "ion.yaml:5:48: modules.over.timeout"
    assert str(long) == (
        "ion.yaml:6:48: modules.long.timeout: an event may be held for 2h1m (with drain_timeout), but sqlite takes it "
        "back after 30m and gives it out again, perhaps to another dispatcher, which runs it too. Set it to 2:01:00."
    )


def test_nothing_is_too_long_where_the_broker_has_no_limit(load: Load) -> None:
    config = load(LONG)
    assert told_limit(config) is None
    assert check_holding(config, told_limit(config)) == []


def test_a_limit_is_what_the_settings_of_the_broker_tell(load: Load) -> None:
    class Telling(Settings):
        def max_hold(self) -> HoldLimit:
            return LIMIT

    config = load(LONG)
    assert told_limit(replace(config, messaging=replace(config.messaging, settings=Telling()))) is LIMIT


def test_a_large_graph_is_checked_in_time(load: Load) -> None:
    modules = {f"m{n}": f"subscribes: [t{n}], publishes: [t{(n + 1) % 300}]" for n in range(300)}
    findings = graph(load, **modules)
    assert sum("circle" in it for it in findings) == 1


@pytest.mark.parametrize(
    ("module", "offered", "expected"),
    [
        (
            "command: x",
            EVERYTHING,
            '2:3: modules.m: image or build is required: the runtime "default" (process) runs images only',
        ),
        (
            "command: x",
            replace(EVERYTHING, builds=False),
            '2:3: modules.m: image is required: the runtime "default" (process) runs images only',
        ),
        (
            "image: x, build: image",
            replace(EVERYTHING, builds=False),
            '2:24: modules.m.build: the runtime "default" (process) builds no images. Build it yourself',
        ),
        ("build: image", NOTHING, "2:3: modules.m: command is required: the runtime"),
        (
            "command: x, network: bridge",
            NOTHING,
            '2:28: modules.m.network: the runtime "default" (process) gives this module no network "bridge", only '
            "none. Choose one of these, or another runtime.",
        ),
        (
            "image: x, network: host",
            replace(EVERYTHING, networks=frozenset({"none", "bridge"})),
            '2:26: modules.m.network: the runtime "default" (process) gives this module no network "host", only none, '
            "bridge, the name of a network. Choose one of these, or another runtime; or allow it to this module by "
            "name, if the settings of the runtime can.",
        ),
        (
            "image: x, network: lan",
            replace(EVERYTHING, named_networks=False),
            '2:26: modules.m.network: the runtime "default" (process) gives this module no network "lan", only none, '
            "bridge, host. Choose one",
        ),
        ("image: x", NOTHING, '2:3: modules.m: command is required: the runtime "default" (process) runs no images.'),
        ("command: x, resources: {memory: 1MiB}", NOTHING, "2:39: modules.m.resources.memory: the runtime"),
        ("command: x, resources: {cpus: 1}", NOTHING, "2:37: modules.m.resources.cpus: the runtime"),
        ("command: x, resources: {pids: 1}", NOTHING, "2:37: modules.m.resources.pids: the runtime"),
        ("command: x, resources: {shm: 1MiB}", NOTHING, "2:36: modules.m.resources.shm: the runtime"),
        ("command: x, resources: {gpus: [a]}", NOTHING, "2:37: modules.m.resources.gpus: the runtime"),
    ],
)
def test_what_a_runtime_does_not_offer_is_an_error(
    module: str, offered: RuntimeCapabilities, expected: str, load: Load, tmp_path: Path
) -> None:
    image(tmp_path / "image")
    (finding,) = check_runtimes(load(f"modules:\n  m: {{{module}, subscribes: [a]}}\n"), {"default": offered})
    assert finding.severity == "error"
    assert str(finding).startswith(f"ion.yaml:{expected}")


def image(directory: Path) -> None:
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM scratch\n", encoding="utf-8")


def test_one_name_for_images_of_two_directories_is_an_error(load: Load, tmp_path: Path) -> None:
    image(tmp_path / "one")
    image(tmp_path / "two")
    modules = [("a", "one"), ("b", "one"), ("c", "two")]
    lines = [f"  {name}: {{image: x, build: {build}, subscribes: [a]}}\n" for name, build in modules]
    (finding,) = check_runtimes(load("modules:\n" + "".join(lines)), {"default": EVERYTHING})
    assert str(finding) == (
        'ion.yaml:4:14: modules.c.image: "x" is also the image that modules.a builds from another directory. '
        "Give each a name, or leave it out."
    )


def test_what_a_runtime_offers_or_cannot_enforce_is_no_error(load: Load, tmp_path: Path) -> None:
    image(tmp_path / "image")
    assert check_runtimes(load("modules: {m: {build: image, subscribes: [a]}}"), {"default": EVERYTHING}) == []
    assert (
        check_runtimes(load("modules: {m: {image: x, subscribes: [a], network: lan}}"), {"default": EVERYTHING}) == []
    )
    to_m = replace(EVERYTHING, networks=frozenset({"none"}), networks_for={"m": frozenset({"host"})})
    plain = load("modules: {m: {image: x, subscribes: [a], network: host}}")
    assert check_runtimes(plain, {"default": to_m}) == []
    assert check_runtimes(plain, {"default": replace(to_m, networks_for={"n": frozenset({"host"})})}) != []
    config = load(
        "modules: {m: {image: x, command: y, subscribes: [a], network: none, "
        "resources: {memory: 1MiB, cpus: 1, pids: 5, shm: 1GiB, gpus: [a]}}}"
    )
    assert check_runtimes(config, {"default": EVERYTHING}) == []
    assert check_runtimes(config, {}) == []
    plain = load("modules: {m: {image: x, command: y, subscribes: [a], network: none}}")
    assert check_runtimes(plain, {"default": NOTHING}) == []
