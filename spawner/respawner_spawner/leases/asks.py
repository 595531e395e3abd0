"""From what a person or a program chose for a session to an `Ask`, or to a sentence that says what is wrong.

The choice is part of JupyterHub's `user_options`: a form's fields or an API caller's JSON, with the same keys.
Not for what is free or allowed: that is the policy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ..sizes import size_bytes, size_text
from .model import Ask, Kind

DEVICE_KEYS = ("gpus", "gpu_model", "gpu_memory", "mig", "share", "gpu_host", "gpu_uuids")
"""What `user_options` may say about devices: how many GPUs (of a model, each with this memory), MIG devices of a profile
("any" takes all), memory of a shared GPU, only this host or these devices."""
KEYS = (*DEVICE_KEYS, "cpu_meanwhile", "preemptible")
"""The same, "CPU now, GPU when free", and whether the session may be suspended for others."""

_PREFIXES = ("gpu", "mig", "share", "cpu_mean", "preempt")
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("", "0", "false", "off", "no")


class BadAsk(ValueError):
    """The choice cannot be understood or is more than a session may have. The message names value and choice."""


def ask_from(options: Mapping[str, Any], *, default_gpus: int = 0, max_gpus: int) -> Ask:
    """What the session's `user_options` ask for; options of other things are not looked at.

    :param default_gpus: whole GPUs where nothing is chosen.
    :raises BadAsk:
    """
    _check_keys(options)
    mig, share = _text(options, "mig"), _text(options, "share")
    if mig and share:
        raise BadAsk(f"mig = {mig!r} and share = {share!r}: choose one of them.")
    host, uuids = _text(options, "gpu_host"), _uuids(options.get("gpu_uuids"))
    if share:
        size = _size("share", share)
        if not size:
            raise BadAsk(f"share = {share!r}: the memory of a share is more than nothing, for example 10G.")
        return Ask(Kind.SHARE, 1, _text(options, "gpu_model"), share_bytes=size, host=host, uuids=uuids)
    count = _count(options, 1 if mig or uuids else default_gpus, max_gpus)
    if not count:
        return Ask(Kind.NONE)
    memory = _size("gpu_memory", _text(options, "gpu_memory"))
    kind, profile = (Kind.MIG, "" if mig == "any" else mig) if mig else (Kind.GPU, "")
    return Ask(kind, count, _text(options, "gpu_model"), memory, profile, host=host, uuids=uuids)


def wants_cpu_meanwhile(options: Mapping[str, Any]) -> bool:
    """Whether the session shall run without a GPU until one is free.

    :raises BadAsk:
    """
    return _yes_or_no(options, "cpu_meanwhile", preset=False)


def is_preemptible(options: Mapping[str, Any]) -> bool:
    """Whether the session may be suspended for others; that it may not must be said.

    :raises BadAsk:
    """
    return _yes_or_no(options, "preemptible", preset=True)


def options_of(ask: Ask) -> dict[str, Any]:
    """The `user_options` that ask for it: the way back of `ask_from`."""
    said = {
        "gpus": ask.count if ask.kind in (Kind.GPU, Kind.MIG) else 0 if ask.kind is Kind.NONE else None,
        "gpu_model": ask.model,
        "gpu_memory": str(ask.min_memory_bytes) if ask.min_memory_bytes else "",
        "mig": (ask.profile or "any") if ask.kind is Kind.MIG else "",
        "share": str(ask.share_bytes) if ask.kind is Kind.SHARE else "",
        "gpu_host": ask.host,
        "gpu_uuids": ",".join(ask.uuids),
    }
    return {key: value for key, value in said.items() if value not in ("", None)}


def field_of(ask: Ask) -> str:
    """An ask as the value of one form field."""
    return urlencode(options_of(ask))


def options_from_field(value: str) -> dict[str, str]:
    """The `user_options` that `field_of` wrote, or that a person invented."""
    return dict(parse_qsl(value, keep_blank_values=True))


def describe(ask: Ask) -> str:
    """An ask in a few words: "2 GPUs (A100, from 40 GiB each)"."""
    if ask.kind is Kind.NONE:
        return "no GPU"
    details = [ask.model] if ask.model else []
    if ask.min_memory_bytes:
        details.append(f"from {size_text(ask.min_memory_bytes)}{' each' if ask.count > 1 else ''}")
    details += [f"on {ask.host}"] if ask.host else []
    details += [", ".join(ask.uuids)] if ask.uuids else []
    return _what(ask) + (f" ({', '.join(details)})" if details else "")


def _what(ask: Ask) -> str:
    plural = "s" if ask.count > 1 else ""
    if ask.kind is Kind.SHARE:
        return f"{size_text(ask.share_bytes)} of a shared GPU"
    if ask.kind is Kind.MIG:
        return f"{ask.count} MIG device{plural}" + (f" {ask.profile}" if ask.profile else "")
    return f"{ask.count} GPU{plural}"


def _check_keys(options: Mapping[str, Any]) -> None:
    """A misspelt key would silently be a session without a GPU."""
    for key in options:
        if key.lower().startswith(_PREFIXES) and key not in KEYS:
            raise BadAsk(f"{key} = {options[key]!r}: no such choice. Known: {', '.join(KEYS)}.")


def _count(options: Mapping[str, Any], preset: int, most: int) -> int:
    wanted = options.get("gpus", preset)
    try:
        count = int(wanted) if not isinstance(wanted, bool | float) else -1
    except (TypeError, ValueError):
        count = -1
    if not 0 <= count <= most:
        raise BadAsk(f"gpus = {wanted!r}: choose 0 to {most}.")
    return count


def _yes_or_no(options: Mapping[str, Any], key: str, *, preset: bool) -> bool:
    said = str(options.get(key, "")).lower()
    if said not in _TRUE + _FALSE:
        raise BadAsk(f"{key} = {options[key]!r}: say true or false.")
    return said in _TRUE if said else preset


def _size(key: str, text: str) -> int:
    try:
        return size_bytes(text) if text else 0
    except ValueError as error:
        raise BadAsk(f"{key} = {error}.") from error


def _text(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key)
    if value is None:
        return ""
    if isinstance(value, bool | list | dict) or len(str(value)) > 96:
        raise BadAsk(f"{key} = {value!r}: a short text is expected.")
    return str(value).strip()


def _uuids(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise BadAsk(f"gpu_uuids = {value!r}: a list of UUIDs is expected, for example GPU-1a2b….")
    return tuple(part.strip() for part in parts if part.strip())
