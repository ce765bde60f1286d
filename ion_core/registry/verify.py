"""Registers one plugin and refuses what pluggy would take without a word."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from ion_core import hookspecs
from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import ObserverSettings, Offer, Provider
from ion_core.registry.installed import Source
from ion_core.registry.observing import GIVEN_SETTINGS, has
from ion_core.registry.registry import HOOKS, OWN_KEYS, Kind, LoadedPlugin

if TYPE_CHECKING:
    import click

COMMANDS_HOOK = "ion_commands"

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_PLAIN = re.compile(r"\w+(\.\w+)*:\w+")
_VERSION = re.compile(r"(\d+)\.(\d+)")


class Unusable(Exception):
    """Why a plugin cannot be used, as a sentence without its subject."""


def load(source: Source) -> LoadedPlugin:
    """Import the plugin and call its registering hooks. Raises Unusable, or whatever the plugin raised."""
    module = source.load()
    hooks = pluggy.PluginManager(hookspecs.PROJECT)
    hooks.add_hookspecs(hookspecs)
    _check_hooks(module, hooks)
    try:
        hooks.register(module, name=source.distribution)
    except pluggy.PluginValidationError as error:
        raise Unusable(" ".join(str(error).split())) from error
    plugin = LoadedPlugin(
        distribution=source.distribution,
        version=source.version,
        entry_point=source.entry_point,
        hooks=hooks,
        providers={kind: _offers(hooks, hook) for hook, kind in HOOKS.items()},
        commands=_commands(hooks),
    )
    _check_observing(plugin)
    return plugin


def _check_hooks(plugin: object, hooks: pluggy.PluginManager) -> None:
    """What pluggy would take without a word: misspelt, unmarked and asynchronous hooks."""
    known = (*HOOKS, COMMANDS_HOOK, *GIVEN_SETTINGS)
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        marked = hooks.parse_hookimpl_opts(plugin, name)
        if marked is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85) if name.startswith("ion_") else []
            if near and inspect.isroutine(function):
                meant = "" if name in known else f" and there is no hook of that name; the nearest is {near[0]}"
                raise Unusable(f"{name} is not marked with ion_core.hookspecs.hookimpl{meant}")
            continue
        hook = marked.get("specname") or name
        if hook not in known:
            near = difflib.get_close_matches(hook, known, n=1, cutoff=0.0)
            raise Unusable(f'there is no hook "{hook}"; the nearest is {near[0]}')
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Unusable(f"{hook} is an async def; hooks only register and must be a plain def")


def _called(hooks: pluggy.PluginManager, hook: str) -> list[Any]:
    """What the plugin's ``hook`` registers; [] where it has none."""
    caller: pluggy.HookCaller = getattr(hooks.hook, hook)
    if not caller.get_hookimpls():
        return []
    try:
        results = caller()
        if not results:
            raise Unusable(f"{hook} returns None; it must return an iterable, which may be empty")
        if inspect.iscoroutine(results[0]):
            results[0].close()
        if not isinstance(results[0], Iterable):
            raise Unusable(f"{hook} returns {type(results[0]).__name__}, which is no iterable")
        return list(results[0])
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{hook} raises {in_one_line(error)}") from error


def _offers(hooks: pluggy.PluginManager, hook: str) -> Sequence[Offer]:
    found: dict[str, Offer] = {}
    for offer in _called(hooks, hook):
        if problem := _problem(offer, HOOKS[hook]):
            raise Unusable(f"{hook}: {problem}")
        if offer.name in found:
            raise Unusable(f'{hook}: registers "{offer.name}" twice')
        found[offer.name] = offer
    return tuple(found.values())


def _check_observing(plugin: LoadedPlugin) -> None:
    """That there is one model at most for what its hooks are given, where they are given something."""
    found = plugin.providers[Kind.OBSERVER]
    if len(found) > 1:
        raise Unusable(f"ion_observer_settings: registers {len(found)}; the hooks of a plugin are given one, or none")
    if found and not any(has(plugin.hooks, hook) for hook in GIVEN_SETTINGS):
        raise Unusable("ion_observer_settings: there is no hook that observes, so nothing would be given the settings")
    for hook in GIVEN_SETTINGS if not found else ():
        if any("settings" in it.argnames for it in getattr(plugin.hooks.hook, hook).get_hookimpls()):
            raise Unusable(f"{hook} takes settings, and ion_observer_settings registers none")


def _problem(offer: Any, kind: Kind) -> str | None:
    """What is wrong with something a hook registered, or None."""
    from pydantic import BaseModel

    wanted = ObserverSettings if kind is Kind.OBSERVER else Provider
    if not isinstance(offer, wanted):
        said = f"{type(offer).__name__} {str(offer)[:80]!r}"
        return f"{said} is no ion_core.contracts.provider.{wanted.__name__}"
    # The annotations of an Offer say what its attributes are; a plugin may not have been checked against them.
    name, settings, contract = (vars(offer)[attribute] for attribute in ("name", "settings", "contract"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"the name {name!r} must be lower-case letters, digits and hyphens, a letter first"
    what = f'{"observer" if kind is Kind.OBSERVER else "provider"} "{name}"'
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        return f"{what}: settings must be a pydantic model (got {settings!r})"
    if settings.model_config.get("extra") != "forbid":
        return f'{what}: settings {settings.__name__} must have extra="forbid", as contracts.settings.Settings has'
    for key, does in OWN_KEYS[kind].items():
        if key in settings.model_fields:
            return f'{what}: settings {settings.__name__} must not have the key "{key}", which {does}'
    if isinstance(offer, Provider):
        if not callable(offer.open):
            return f"{what}: open must be callable (got {offer.open!r})"
        plain = vars(offer)["plain"]
        if not isinstance(plain, str) or not (plain == "" or _PLAIN.fullmatch(plain)):
            return f'{what}: plain must be a text such as "package.module:function" (got {plain!r})'
    version = _VERSION.fullmatch(contract) if isinstance(contract, str) else None
    if version is None:
        return f'{what}: contract must be a version such as "{CONTRACT_VERSION}" (got {contract!r})'
    asked, ours = [tuple(map(int, it.split("."))) for it in (contract, CONTRACT_VERSION)]
    if asked[0] == ours[0] and asked[1] <= ours[1]:
        return None
    update = f"Update {'ion-core' if asked > ours else 'the plugin'}"
    return f"{what}: is written for contract {contract}, this ion-core has {CONTRACT_VERSION}. {update}"


def _commands(hooks: pluggy.PluginManager) -> Sequence[click.Command]:
    found = _called(hooks, COMMANDS_HOOK)
    if found:
        import click

        for command in found:
            if not isinstance(command, click.Command) or not command.name:
                raise Unusable(f"{COMMANDS_HOOK}: {command!r} is no click.Command with a name")
    return tuple(found)


def in_one_line(error: BaseException) -> str:
    """Type and text of an error in one line of bounded length."""
    text = " ".join(str(error).split()).rstrip(".")
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:400]
