"""The keys of the configuration file: what each may be, its default and what it is for."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import PythonEnvironment, Resources
from ion_core.contracts.settings import ByteSize, ConfigPath, Duration, Settings
from ion_core.events import type_problem
from ion_core.gathered import gathered_type
from ion_core.modules import MODULE_NAME, Gather, Module, OutputLimits

RESERVED_ENV = ("SHARED_SECRET", "HANDLER_PORT", "HANDLER_BASE_DIR")
"""What the handler itself tells a module through its environment."""

RECIPES = ("Containerfile", "Dockerfile")
"""What says how to build an image, in the directory it is built from; the first that is there."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _module_name(name: str) -> str:
    if not MODULE_NAME.fullmatch(name):
        raise ValueError("a name must be 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last")
    return name


def _event_type(name: str) -> str:
    if problem := type_problem(name):
        raise ValueError(problem)
    return name


def _env_name(name: str) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError("a variable's name must be letters, digits and underscores, no digit first")
    if name in RESERVED_ENV:
        raise ValueError(f"{name} is set by Ion itself. Choose another name.")
    return name


def _env_value(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number (got {str(value).lower()})")
    return value


def _arguments(value: Any) -> Any:
    """What is one text is split as a shell would; nothing in it is expanded."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into arguments: {error}. Write it as a list.") from None
    return value


def _argv(value: Any) -> Any:
    value = _arguments(value)
    if isinstance(value, list) and (not value or value[0] == ""):
        raise ValueError("must not be empty; it starts with the program to run")
    return value


def _directory(path: Path) -> Path:
    try:
        found = path.is_dir()
    except (OSError, ValueError):
        found = False
    if not found:
        raise ValueError(f'no such directory (got "{path}")')
    return path


def _file(path: Path) -> Path:
    try:
        found = path.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise ValueError(f'no such file (got "{path}")')
    return path


def _directory_of_an_image(path: Path) -> Path:
    _directory(path)
    if not any((path / name).is_file() for name in RECIPES):
        raise ValueError(f'there is no {" or ".join(RECIPES)} in it (got "{path}")')
    return path


Name = Annotated[
    str, AfterValidator(_module_name), WithJsonSchema({"type": "string", "pattern": f"^{MODULE_NAME.pattern}$"})
]
EventType = Annotated[str, AfterValidator(_event_type)]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
EnvName = Annotated[
    str, AfterValidator(_env_name), WithJsonSchema({"type": "string", "pattern": f"^{_ENV_NAME.pattern}$"})
]
EnvValue = Annotated[str, AfterValidator(_env_value), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Command = Annotated[
    tuple[Annotated[str, AfterValidator(_env_value)], ...],
    BeforeValidator(_argv),
    WithJsonSchema({"type": ["array", "string"], "items": {"type": ["string", "number", "boolean"]}, "minItems": 1}),
]
Arguments = Annotated[
    tuple[Annotated[str, AfterValidator(_env_value)], ...],
    BeforeValidator(_arguments),
    WithJsonSchema({"type": ["array", "string"], "items": {"type": ["string", "number", "boolean"]}}),
]
ProviderSection = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
"""``provider`` and that provider's own settings; validated into the settings model that it brings."""


class ResourcesSettings(Settings):
    """Limits of one container. What the module's runtime cannot limit is refused."""

    cpus: Number | None = Field(default=None, gt=0, le=4096, description="Processors, such as 0.5 or 2.")
    memory: ByteSize | None = Field(default=None, gt=0, description="Memory, such as 512MiB.")
    pids: Whole | None = Field(default=None, gt=0, le=2**22, description="Processes and threads.")
    shm: ByteSize | None = Field(default=None, gt=0, description="Size of /dev/shm, such as 1GiB; it counts as memory.")
    gpus: tuple[str, ...] = Field(default=(), description="GPUs by their CDI names, such as nvidia.com/gpu=0.")


class RetrySettings(Settings):
    """How long a failed job waits before it is tried again: initial * factor^n, at most maximum."""

    initial: PositiveDuration = Field(default=RetryPolicy.initial, description="Before the first retry.")
    factor: Number = Field(
        default=RetryPolicy.factor, ge=1, le=100, description="Each wait is this many times the last one."
    )
    maximum: PositiveDuration = Field(default=RetryPolicy.maximum, description="No wait is longer.")
    jitter: Number = Field(
        default=RetryPolicy.jitter,
        ge=0,
        le=1,
        description="Share by which each wait is varied, so that jobs spread out.",
    )


class LimitsSettings(Settings):
    """What one attempt may leave in out/. One more of anything fails the job."""

    max_files: Whole = Field(default=OutputLimits.max_files, gt=0, description="Files in out/data.")
    max_depth: Whole = Field(default=OutputLimits.max_depth, gt=0, description="Levels of directories in out/data.")
    max_output: ByteSize = Field(
        default=OutputLimits.max_output, gt=0, description="Size of all files in out/data together."
    )
    max_events: Whole = Field(default=OutputLimits.max_events, gt=0, description="Files in out/events.")
    max_insights: ByteSize = Field(default=OutputLimits.max_insights, gt=0, description="Size of out/insights.json.")


class PythonSettings(Settings):
    """Which python3 a module finds, where it runs as a plain process. In an image it is the image's."""

    requirements: Annotated[ConfigPath, AfterValidator(_file)] | None = Field(
        default=None,
        description="A requirements.txt: its packages are installed into an environment of the module's own, made when "
        "it first runs and kept until the file changes.",
    )
    environment: Literal["own", "ion"] = Field(
        default="own",
        description="own: an environment of the module's own. ion: the one that Ion is installed in.",
    )

    @field_validator("environment")
    @classmethod
    def _own_where_something_is_installed(cls, environment: str, info: ValidationInfo) -> str:
        if environment == "ion" and info.data.get("requirements") is not None:
            raise ValueError("nothing is installed into Ion's own environment: remove this, or requirements")
        return environment

    def to_environment(self) -> PythonEnvironment:
        return PythonEnvironment(requirements=self.requirements, ion=self.environment == "ion")


class GatherSettings(Settings):
    """What a gatherer waits for: it runs once all beneath its scope is done."""

    events: tuple[EventType, ...] = Field(
        min_length=1, description="Event types that it is given, all of a scope together.", examples=[["thumb.made"]]
    )
    within: EventType | None = Field(
        default=None,
        description="Type of the event that is the scope: one job for each. Default: the first event of the flow.",
    )
    by: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A pair of these events: one job for each of its values in the scope."
    )
    missing: Literal["wait", "go"] = Field(
        default=Gather.missing,
        description="wait: a dead letter beneath the scope holds it back until it is redriven or purged. go: it runs "
        "with what there is, and is told what is missing.",
    )
    if_none: Literal["run", "skip"] = Field(
        default=Gather.if_none, description="Whether it runs where there is nothing to gather."
    )

    def to_gather(self) -> Gather:
        return Gather(
            events=tuple(dict.fromkeys(self.events)),
            within=self.within,
            by=self.by,
            missing=self.missing,
            if_none=self.if_none,
        )


class ModuleSettings(Settings):
    """A container image (or command) with the event types it takes and may emit."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [it]} for it in ("subscribes", "gather")]})

    image: str | None = Field(
        default=None, min_length=1, description="The container image, for runtimes that run images."
    )
    build: Annotated[ConfigPath, AfterValidator(_directory_of_an_image)] | None = Field(
        default=None,
        description="Directory with a Containerfile: the image is built from it, for runtimes that run images.",
    )
    command: Command = Field(
        default=(),
        description="Program and arguments, as a list or as one text that is split like a shell would. With an image, "
        "in place of its ENTRYPOINT and CMD.",
    )
    args: Arguments = Field(
        default=(),
        description="Arguments behind command; without it, for the image's ENTRYPOINT in place of its CMD.",
    )
    source: Annotated[ConfigPath, AfterValidator(_directory)] | None = Field(
        default=None, description="Directory with the module's files: where command starts in a runtime without images."
    )
    python: PythonSettings | None = Field(
        default=None,
        description="Which python3 it finds as a plain process. Default: the one on the PATH, without Ion's packages.",
    )
    subscribes: Annotated[tuple[EventType, ...], Field(min_length=1)] | None = Field(
        default=None, description="Event types that start this module.", examples=[["photo.received"]]
    )
    gather: GatherSettings | None = Field(
        default=None, description="Instead of subscribes: start it once, when all beneath an event is done."
    )
    publishes: tuple[EventType, ...] = Field(
        default=(), description="Event types it may emit; any other fails the attempt."
    )
    runtime: str = Field(default="default", description="Where it runs: a name under runtimes.")
    timeout: PositiveDuration = Field(default=Module.timeout, description="How long one attempt may take.")
    retries: Whole = Field(
        default=RetryPolicy.retries, ge=0, le=1000, description="Tries after the first, then dead letter."
    )
    retry: RetrySettings = Field(default=RetrySettings(), description="How long to wait between tries.")
    concurrency: Whole = Field(default=1, ge=1, le=1000, description="Jobs of this module at a time in one `serve`.")
    warm: Whole = Field(
        default=0,
        ge=0,
        le=1000,
        description="Containers made ahead of their events, to start at once; no more than concurrency.",
    )
    reuse: bool = Field(
        default=False,
        description="Let its process go on after /done and ask for the next event: what it has loaded stays loaded.",
    )
    keep_failed: Whole = Field(
        default=Module.keep_failed,
        ge=0,
        le=1000,
        description="Workspaces of failed attempts that are kept to be looked at, the newest ones.",
    )
    oom: Literal["fail", "warn"] = Field(
        default=Module.oom,
        description="What becomes of an attempt that exits with 0 though a process of it was killed for memory.",
    )
    resources: ResourcesSettings = Field(default=ResourcesSettings(), description="Limits of its container.")
    network: str = Field(default="none", min_length=1, description="none, bridge, host or the name of a network.")
    env: dict[EnvName, EnvValue] = Field(default={}, description="Environment variables.")
    limits: LimitsSettings = Field(default=LimitsSettings(), description="What one attempt may leave in out/.")
    formerly: tuple[Name, ...] = Field(
        default=(),
        description="Names that it had before: what was done under them is its own. `module rename` adds one.",
    )

    @field_validator("warm")
    @classmethod
    def _no_more_than_are_used(cls, warm: int, info: ValidationInfo) -> int:
        concurrency = info.data.get("concurrency")  # None where that is wrong itself
        if concurrency is not None and warm > concurrency:
            raise ValueError(f"must be at most what concurrency is: more are never used at once (got {warm})")
        return warm

    def _types(self, name: str) -> tuple[str, ...]:
        """Those of a gatherer are its own, also under the names that it had."""
        if self.gather is not None:
            return tuple(gathered_type(it) for it in dict.fromkeys((name, *self.formerly)))
        return tuple(dict.fromkeys(self.subscribes or ()))

    def to_module(self, name: str) -> Module:
        retry, resources, limits = self.retry, self.resources, self.limits
        return Module(
            name=name,
            image=self.image,
            build=self.build,
            command=self.command,
            args=self.args,
            source=self.source,
            python=self.python.to_environment() if self.python else None,
            subscribes=self._types(name),
            gather=self.gather.to_gather() if self.gather else None,
            publishes=tuple(dict.fromkeys(self.publishes)),
            runtime=self.runtime,
            timeout=self.timeout,
            retry=RetryPolicy(retries=self.retries, **dict(retry)),
            concurrency=self.concurrency,
            warm=self.warm,
            reuse=self.reuse,
            keep_failed=self.keep_failed,
            oom=self.oom,
            resources=Resources(**dict(resources)),
            network=self.network,
            env=self.env,
            limits=OutputLimits(**dict(limits)),
            formerly=tuple(dict.fromkeys(self.formerly)),
        )


class OwnSettings(Settings):
    """What Ion itself reads in a section that chooses a provider; the rest is that provider's."""

    provider: str | None = Field(default=None, description="Which provider; the section says of what kind.")


class ServiceOwnSettings(OwnSettings):
    """The same of a service."""

    on_failure: Literal["stop", "restart"] = Field(
        default="stop",
        description="What becomes of one that fails while it serves. stop: running jobs are drained, then serve ends. "
        "restart: it is started again, later each time.",
    )


class StorageSettings(Settings):
    """Where files and documents are kept."""

    blobs: ProviderSection = Field(
        default={}, description="Where files are kept. Default: local, under the state directory."
    )
    documents: ProviderSection = Field(
        default={}, description="Where documents are kept. Default: sqlite, under the state directory."
    )


class FileSettings(Settings):
    """The whole file."""

    version: Literal[1] = Field(default=1, description="Version of this file's format.")
    messaging: ProviderSection = Field(
        default={}, description="What carries events. Default: sqlite, under the state directory."
    )
    runtimes: dict[Name, ProviderSection] = Field(
        default={},
        description="What runs modules, under names of your own; the one called default is process if not given.",
    )
    storage: StorageSettings = Field(default=StorageSettings(), description="Where files and documents are kept.")
    services: dict[Name, ProviderSection] = Field(
        default={},
        description="What runs beside the dispatcher; each is the provider of its name unless it has a provider key.",
    )
    observers: dict[Name, ProviderSection] = Field(
        default={},
        description="What observers of plugins, which are told what happens, are set to; each is the one of its name "
        "unless it has a provider key.",
    )
    modules: dict[Name, ModuleSettings] = Field(
        default={}, description="The steps of the pipeline, under names of your own."
    )
    state: ConfigPath = Field(
        default=Path(".ion"), description="Directory for everything Ion itself keeps on this machine."
    )
    drain_timeout: Duration = Field(
        default=timedelta(seconds=30), description="How long running jobs may take to end once a stop is asked for."
    )
    hidden: tuple[str, ...] = Field(
        default=(),
        description="Texts that are masked like what came from a variable: passwords that stand in this file.",
    )
    plain: dict[str, str] = Field(
        default={},
        description="How steps of jobs elsewhere open blobs and documents without a model. Ion writes it; nothing else "
        "reads it.",
    )
    leads_to: tuple[str, ...] = Field(
        default=(),
        description="The gatherers that wait for the module of a step elsewhere. Ion writes it; nothing else reads it.",
    )
    plugins: tuple[str, ...] | None = Field(
        default=None, description="Plugin distributions to load, and no others. Default: all that are installed."
    )
