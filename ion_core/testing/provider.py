"""The provider kit: ``docs/contracts/provider.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Finding, Location, PlainOpening, Provider, Reach
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.contracts.settings import Section, Settings, Unfit
from ion_core.errors import ConfigError, NotSetUpHere, StateError, TransientError
from ion_core.testing.kit import Conformance, needs, refused, undeclared

SECTION = Section(key="kit.of-providers")
CANARY = " ¶kit:canary//%zz?¶ "
"""No name, no number, no path and no address."""


class ProviderConformance(Conformance):
    """Every rule of what a plugin registers. Subclass it, give it the fixture and the hooks::

        class TestMyProvider(ProviderConformance):
            @pytest.fixture
            def provider(self):
                return next(iter(my_plugin.ion_blob_stores()))

            def section(self, tmp_path):        # what stands in the configuration beside `provider:`
                return {"path": str(tmp_path / "blobs")}

            def unusable(self, tmp_path):       # None where no settings can fail to open
                return {"path": "/dev/null/blobs"}

            not_set_up = None                   # settings say all that it takes to reach it

    ``patience``  seconds to wait for it to open (30: the contract's bound).
    """

    contract = "provider"
    patience = 30.0
    section: Callable[..., Mapping[str, Any]] | None = undeclared(
        "section", "def section(self, tmp_path): settings it can be opened with, as in the configuration"
    )
    unusable: Callable[..., Mapping[str, Any]] | None = undeclared(
        "unusable", "def unusable(self, tmp_path): valid settings it cannot be opened with"
    )

    not_set_up: Callable[..., Mapping[str, Any]] | None = undeclared(
        "not_set_up",
        "def not_set_up(self, tmp_path, monkeypatch): settings whose provider takes what settings do not name, such as "
        "a file of the user's, after this machine was made to lack it",
    )

    def settings(self, provider: Provider[Any], tmp_path: Path, **more: Any) -> BaseModel:
        assert self.section is not None, "section: every provider has settings it can be opened with"
        return provider.settings.model_validate({**self.section(tmp_path), **more})

    async def test_a_name_is_lower_case(self, provider: Provider[Any]) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", provider.name)

    async def test_the_contract_is_of_our_major_version(self, provider: Provider[Any]) -> None:
        assert re.fullmatch(r"\d+\.\d+", provider.contract)
        assert provider.contract.split(".")[0] == CONTRACT_VERSION.split(".")[0]

    async def test_the_contract_is_no_newer_than_ours(self, provider: Provider[Any]) -> None:
        wanted, ours = [[int(part) for part in it.split(".")] for it in (provider.contract, CONTRACT_VERSION)]
        assert wanted <= ours, f"is written for contract {provider.contract}, this ion-core has {CONTRACT_VERSION}"

    async def test_unknown_settings_are_refused(self, provider: Provider[Any], tmp_path: Path) -> None:
        self.settings(provider, tmp_path)
        with refused(ValidationError, naming="no_such_setting"):
            self.settings(provider, tmp_path, no_such_setting=1)

    async def test_settings_can_be_described(self, provider: Provider[Any]) -> None:
        schema = provider.settings.model_json_schema()
        assert schema["additionalProperties"] is False
        undescribed = [name for name, item in schema.get("properties", {}).items() if not item.get("description")]
        assert not undescribed, f"settings without a description: {undescribed}"

    async def test_a_location_is_told_without_secrets(self, provider: Provider[Any], tmp_path: Path) -> None:
        settings = self.settings(provider, tmp_path)
        tell = getattr(settings, "location", None)
        if not callable(tell):
            return  # then nothing is told of it
        told = tell()
        assert isinstance(told, Location), "location() returns an ion_core.contracts.provider.Location"
        assert told.where.strip(), "where it is, in words"
        assert told.reach is None or isinstance(told.reach, Reach)
        shown = [name for name, secret in secrets_of(settings) if secret in told.where]
        assert not shown, f"where it is shows what is secret: {shown}"

    async def test_what_can_be_opened_has_no_errors(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.section is not None
        settings = provider.settings.model_validate(self.section(tmp_path), context={"section": SECTION})
        look = getattr(settings, "findings", None)
        for finding in look() if callable(look) else ():
            assert isinstance(finding, Finding), "findings() gives ion_core.contracts.provider.Finding"
            assert finding.severity != "error", f"it can be opened with these settings: {finding}"
            assert SECTION.key in finding.where, f"begin with settings.section.where(key): {finding}"
            shown = [name for name, secret in secrets_of(settings) if secret in str(finding)]
            assert not shown, f"a finding shows what is secret: {shown}"

    async def test_capabilities_that_are_told_are_those_it_has(self, provider: Provider[Any], tmp_path: Path) -> None:
        settings = self.settings(provider, tmp_path)
        tell = getattr(settings, "capabilities", None)
        if not callable(tell):
            return  # then it is asked itself, once it is open
        told = tell()
        assert isinstance(told, RuntimeCapabilities), "capabilities() gives RuntimeCapabilities or ExecutorCapabilities"
        opening = provider.open(settings)
        opened = await self.within(opening.__aenter__(), "opening")
        try:
            assert told == opened.capabilities, "what settings tell is what it has once it is open"
        finally:
            await self.within(opening.__aexit__(None, None, None), "closing")

    async def test_settings_know_their_section(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.section is not None
        settings = provider.settings.model_validate(self.section(tmp_path), context={"section": SECTION})
        assert isinstance(settings, Settings), "settings derive from ion_core.contracts.settings.Settings"
        assert settings.section == SECTION

    async def test_modules_that_settings_name_are_told(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.section is not None
        settings = provider.settings.model_validate(self.section(tmp_path), context={"section": SECTION})
        tell = getattr(settings, "modules", None)
        if not callable(tell):
            return  # then they name none
        told = tell()
        assert isinstance(told, Mapping), "modules() returns the names of modules by key"
        for key, name in told.items():
            assert isinstance(name, str), f"{key} is the name of a module: {name!r}"
            assert name in _at(settings, key), f"{key}: {name!r} does not stand there"

    async def test_unfit_shows_no_value(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.section is not None
        for said in _unfit(provider.settings, self.section(tmp_path)):
            shown = {CANARY[n : n + 6] for n in range(len(CANARY) - 5)}
            assert not any(part in re.sub(r" \(got .*\)$", "", said) for part in shown), (
                f"Unfit is told of secrets too: show the value in a (got …) at the end, or not at all: {said}"
            )

    @needs("not_set_up")
    async def test_what_a_machine_lacks_is_told_apart(
        self, provider: Provider[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.not_set_up is not None
        given = self.not_set_up(tmp_path, monkeypatch)
        settings = provider.settings.model_validate(given, context={"section": SECTION})
        look = getattr(settings, "findings", None)
        errors = [it for it in (look() if callable(look) else ()) if it.severity == "error"]
        assert not errors, f"these settings may be right where they are served: {errors}"
        with refused(NotSetUpHere, naming=SECTION.key, of="opening"):
            await self.within(provider.open(settings).__aenter__(), "refusing to open")

    async def test_a_plain_opening_is_the_same_store(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.section is not None
        if not provider.plain:
            return  # then steps open it as everybody does
        module, _, function = provider.plain.partition(":")
        plainly: PlainOpening | None = getattr(import_module(module), function, None)
        assert callable(plainly), f"there is no {provider.plain}"
        values = self.section(tmp_path)
        model = provider.settings.model_validate(values, context={"section": SECTION})
        assert plainly(SECTION, {**values, "no_such_setting": 1}) is None, "it is not known what that would mean"
        if (found := plainly(SECTION, values)) is None:
            return  # then steps open it as everybody does
        settings, opens = found
        assert settings.section == SECTION
        assert _location(settings) == _location(model)
        for _ in range(2):
            opening = opens(settings)
            opened = await self.within(opening.__aenter__(), "opening plainly")
            assert opened is not None
            await self.within(opening.__aexit__(None, None, None), "closing")

    async def test_it_opens_again_after_closing(self, provider: Provider[Any], tmp_path: Path) -> None:
        settings = self.settings(provider, tmp_path)
        for _ in range(2):
            opening = provider.open(settings)
            opened = await self.within(opening.__aenter__(), "opening")
            assert opened is not None
            await self.within(opening.__aexit__(None, None, None), "closing")

    @needs("unusable")
    async def test_what_cannot_be_opened_is_refused(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.unusable is not None
        settings = provider.settings.model_validate(self.unusable(tmp_path))
        with refused((ConfigError, TransientError, StateError), of="opening"):
            await self.within(provider.open(settings).__aenter__(), "refusing to open")

    @needs("unusable")
    async def test_a_refusal_names_its_section(self, provider: Provider[Any], tmp_path: Path) -> None:
        assert self.unusable is not None
        settings = provider.settings.model_validate(self.unusable(tmp_path), context={"section": SECTION})
        try:
            await self.within(provider.open(settings).__aenter__(), "refusing to open")
        except ConfigError as error:
            unnamed = [problem for problem in error.problems if SECTION.key not in problem]
            assert not unnamed, f"begin with settings.section.where(key): {unnamed}"
        except (TransientError, StateError):
            return  # these are about what is out there
        else:
            raise AssertionError("it opened")


def _at(settings: Any, key: str) -> Any:
    """What stands at ``key``, such as ``allow.root[0]`` or ``mounts.detect``; of a mapping its name too."""
    found = settings
    *above, last = re.findall(r"[^.\[\]]+", key)
    for part in above:
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    if isinstance(found, Mapping):
        return {last} & found.keys()
    return {found[int(last)] if isinstance(found, Sequence) else getattr(found, last)}


def _unfit(model: type[BaseModel], given: Mapping[str, Any]) -> Iterator[str]:
    """What validators say by ``Unfit`` of a value that hardly any setting can have, tried for each."""
    for name, field in model.model_fields.items():
        for value in (CANARY, [CANARY], {"kit": CANARY}, {"kit": [CANARY]}):
            try:
                model.model_validate({**given, field.alias or name: value})
            except ValidationError as error:
                for it in error.errors():
                    if isinstance(found := it.get("ctx", {}).get("error"), Unfit):
                        yield str(found)


def _location(settings: Any) -> Location | None:
    tell = getattr(settings, "location", None)
    return tell() if callable(tell) else None


def secrets_of(settings: BaseModel) -> list[tuple[str, str]]:
    """Secrets of the settings by name, and passwords in them that are addresses."""
    found = []
    for name, value in settings:
        if isinstance(value, SecretStr) and (secret := value.get_secret_value()):
            password = urlsplit(secret).password if "://" in secret else None
            found += [(name, secret), *([(name, password)] if password else [])]
        elif isinstance(value, BaseModel):
            found += [(f"{name}.{inner}", secret) for inner, secret in secrets_of(value)]
    return found
