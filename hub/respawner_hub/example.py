"""The example settings file, made from the descriptions in `settings`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .settings import Settings

_HEADER = """\
# Every setting of Respawner, with its default. Copy this file to respawner.toml, take the # off what you
# change, and run `make up` again. Made by `respawner-hub settings`: change the descriptions in
# hub/respawner_hub/settings.py, not this file.
"""


def example() -> str:
    """The text of `respawner.example.toml`."""
    parts = [_HEADER]
    for name, field in Settings.model_fields.items():
        if name != "folder":
            parts += _section(name, field)
    return "\n".join(parts)


def _section(name: str, field: FieldInfo) -> list[str]:
    model = _model_of(field)
    assert model is not None
    optional = field.default is None
    lines = [_comment(field.description), f"#[{name}]" if optional else f"[{name}]", ""]
    nested = []
    for key, option in model.model_fields.items():
        if _model_of(option):
            nested += _section(f"{name}.{key}", option)
        else:
            value = "" if option.is_required() else _toml(option.get_default(call_default_factory=True))
            lines += [_comment(option.description), f"#{key} = {value}".rstrip(), ""]
    return lines + nested


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _comment(text: str | None) -> str:
    assert text, "a setting without a description"
    return textwrap.fill(text, 100, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if value is None:
        return '""  # not set'
    return json.dumps(str(value) if isinstance(value, Path) else value)
