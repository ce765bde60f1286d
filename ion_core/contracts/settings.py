"""Providers' settings: where they stand, and durations, sizes, paths and secrets, validated alike everywhere.

Import this where the settings model is defined; it imports pydantic, which takes a moment.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ion_core.contracts.provider import Section as Section

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?")
_BYTES: dict[str | None, int] = {None: 1}
for _power, _letter in enumerate("KMGT", 1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}i": 1024**_power}


class TextFromOutside(str):
    """Text that a variable or a file brought, where YAML cannot say of what type it is; ``scalar`` is what it may mean.

    A field that wants text has it as it is; one that wants a boolean, or takes anything, has the scalar.
    """

    scalar: Any

    def __new__(cls, text: str, scalar: Any) -> TextFromOutside:
        made = super().__new__(cls, text)
        made.scalar = scalar
        return made


class Unfit(ValueError):
    """For validators: a value that cannot be, in words that show nothing of it but in a ``(got …)`` at their end.

    They are told also where the value is secret, without that end. Of any other error they are not: it may show a part.
    """


class Settings(BaseModel):
    """Base of settings models: frozen, unknown keys refused, defaults validated like given values.

    Only ``true`` and ``false`` are booleans, as in YAML 1.2: a field that is one takes nothing else for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    _section: Section = PrivateAttr(default_factory=Section)

    @property
    def section(self) -> Section:
        """Where they stand. Of a model within settings, where those stand as a whole."""
        return self._section

    @model_validator(mode="after")
    def _stand_in_their_section(self, info: ValidationInfo) -> Any:
        section = (info.context or {}).get("section")
        if section is not None:
            self._section = section
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = _types(cls.model_fields[info.field_name or ""].annotation)
        if Any in wanted:
            return _scalars(value)
        if bool in wanted and str not in wanted:
            value = value.scalar if isinstance(value, TextFromOutside) else value
            if not isinstance(value, bool) and wanted <= {bool, NoneType} and (value is not None or wanted == {bool}):
                raise ValueError(f'must be true or false (got "{value}")')
        return value


def _types(annotation: Any) -> set[Any]:
    """What a field may be, with what is in it."""
    below = get_args(annotation)
    if get_origin(annotation) is Annotated:
        below = below[:1]
    return {found for it in below for found in _types(it)} if below else {annotation}


def _scalars(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scalars(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_scalars(below) for below in value]
    return value.scalar if isinstance(value, TextFromOutside) else value


def parse_duration(value: Any) -> Any:
    """``"1h30m"`` → timedelta. A timedelta passes; anything else is a ValueError that shows the form."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    if isinstance(value, bool) or not text or _DURATION.sub("", text):
        raise ValueError(f'must be a duration such as 30s or 2h (got "{value}")')
    try:
        return timedelta(seconds=sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text)))
    except OverflowError:
        raise ValueError(f'must be a duration of less than {timedelta.max.days} days (got "{value}")') from None


def parse_size(value: Any) -> Any:
    """``"512MiB"`` → bytes. A whole number is bytes already."""
    match = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise ValueError(f'must be a size such as 512MiB or 2GB (got "{value}")')
    try:
        return int(float(match[1]) * _BYTES[match[2]])
    except OverflowError:
        raise ValueError(f'must be a size such as 512MiB or 2GB (got "{value}")') from None


def _some(value: Any) -> Any:
    """Before it is a path, where the empty text and ``.`` are one."""
    if value == "":
        raise Unfit("must not be empty. Give a path, or leave it out")
    return value


def _expanded(path: Path, info: ValidationInfo, start: str) -> Path:
    base: Path | None = (info.context or {}).get(start)
    if "\0" in str(path):
        raise ValueError("must not contain a NUL character")
    try:
        path = path.expanduser()
    except RuntimeError as error:  # "~name" of nobody
        raise ValueError(f'cannot be expanded: {error} (got "{path}")') from None
    return path if path.is_absolute() or base is None else base / path


def _beside_the_config(path: Path, info: ValidationInfo) -> Path:
    return _expanded(path, info, "base")


def _in_the_state(path: Path, info: ValidationInfo) -> Path:
    return _expanded(path, info, "state")


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "examples": ["30s", "10m", "1h30m"]})
]
"""A length of time written ``500ms``, ``30s``, ``10m``, ``1h30m`` or ``7d``."""

ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["512MiB", "2GB", 1048576]}),
]
"""A number of bytes written ``1048576``, ``512MiB`` (1024²) or ``2GB`` (1000³)."""

ConfigPath = Annotated[Path, BeforeValidator(_some), AfterValidator(_beside_the_config)]
"""A path; a relative one starts at the directory of the configuration file."""

StatePath = Annotated[Path, BeforeValidator(_some), AfterValidator(_in_the_state)]
"""A path; a relative one starts at the state directory (``.ion`` beside the configuration file unless set)."""

Secret = SecretStr
"""Text that is never printed."""
