"""Field types for providers' settings: durations, sizes, paths and secrets, validated alike everywhere.

Import this where the settings model is defined; it imports pydantic, which takes a moment.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?")
_BYTES: dict[str | None, int] = {None: 1}
for _power, _letter in enumerate("KMGT", 1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}i": 1024**_power}


class Settings(BaseModel):
    """Base of settings models: frozen, unknown keys refused, defaults validated like given values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


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


def _expanded(path: Path, info: ValidationInfo, start: str) -> Path:
    base: Path | None = (info.context or {}).get(start)
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

ConfigPath = Annotated[Path, AfterValidator(_beside_the_config)]
"""A path; a relative one starts at the directory of the configuration file."""

StatePath = Annotated[Path, AfterValidator(_in_the_state)]
"""A path; a relative one starts at the state directory (``.ion`` beside the configuration file unless set)."""

Secret = SecretStr
"""Text that is never printed."""
