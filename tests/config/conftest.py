from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import Field, field_validator, model_validator

from ion_core.config import Config, load_config
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import ConfigPath, Duration, Secret, Settings, Unfit
from ion_core.errors import ConfigError
from ion_core.hookspecs import hookimpl
from ion_core.registry import Registry, load_plugins

Load = Callable[..., Config]
Problems = Callable[..., list[str]]


class Credentials(Settings):
    user: str = "guest"
    password: Secret | None = None


class ParcelSettings(Settings):
    """Settings of every sort, as a plugin might have them."""

    url: str = Field(default="parcel://localhost", pattern=r"^parcel://")
    login: Credentials = Credentials()
    servers: tuple[Credentials, ...] = ()
    port: int = Field(default=7, ge=1, le=65535)
    either: int | bool = 1
    path: ConfigPath = Path("parcels")
    wait: Duration = timedelta(seconds=1)
    tag: str = Field(default="x", alias="label", max_length=8)

    host: str = "here"

    @field_validator("host")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "here":
            raise ValueError(f"nobody knows {value[::-1]}")
        return value

    mark: str = "m-1"

    @field_validator("mark")
    @classmethod
    def _marked(cls, value: str) -> str:
        if not value.startswith("m-"):
            raise Unfit(f'must begin with m- and not with mark-me (got "{value}")')
        return value

    @model_validator(mode="after")
    def _fits(self) -> ParcelSettings:
        if self.port == 666:
            raise ValueError(f"{self.url} is not reached at port 666. Use another.")
        if self.port == 667:
            raise KeyError(self.url)
        return self


class GateSettings(Settings):
    listen: str
    token: Secret
    readers: tuple[str, ...] = ()

    def modules(self) -> Mapping[str, str]:
        return {f"readers[{n}]": name for n, name in enumerate(self.readers)}


class CartSettings(Settings):
    allow: Mapping[str, tuple[str, ...]] = {}

    def modules(self) -> Mapping[str, str]:
        if any("!" in names for names in self.allow.values()):
            raise KeyError("!")
        return {f"allow.{key}[{n}]": name for key, names in self.allow.items() for n, name in enumerate(names)}


class Parcels:
    """A plugin that brings a blob store, a runtime and a service."""

    @hookimpl
    def ion_blob_stores(self) -> Iterable[Provider[object]]:
        return [Provider(name="parcel", settings=ParcelSettings, open=print, contract="1.0")]  # type: ignore[arg-type]

    @hookimpl
    def ion_container_runtimes(self) -> Iterable[Provider[object]]:
        return [Provider(name="cart", settings=CartSettings, open=print, contract="1.0")]  # type: ignore[arg-type]

    @hookimpl
    def ion_services(self) -> Iterable[Provider[object]]:
        return [Provider(name="gate", settings=GateSettings, open=print, contract="1.0")]  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_plugins(extra=[Parcels()], entry_points=False)


@pytest.fixture
def load(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a configuration from its text, named ``ion.yaml`` in the working directory."""
    monkeypatch.chdir(tmp_path)

    def load(
        text: str, *, environ: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
    ) -> Config:
        Path("ion.yaml").write_text(dedent(text), encoding="utf-8")
        return load_config("ion.yaml", registry=registry, environ=environ or {}, overrides=overrides)

    return load


@pytest.fixture
def problems(load: Load) -> Problems:
    """The lines of the error that loading a text raises."""

    def problems(text: str, **how: Mapping[str, str]) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **how)
        return list(caught.value.problems)

    return problems
