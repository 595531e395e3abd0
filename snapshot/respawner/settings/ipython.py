"""What the notebook has changed of IPython: extensions, aliases, magics, display formatters, event handlers.

Of functions only the notebook's own are saved; those of libraries come with the library.
"""

from __future__ import annotations

import types
from typing import Any

from IPython.core.magic import Magics

_MODES = ("ast_node_interactivity", "autocall", "call_pdb")
_REGISTRIES = ("singleton_printers", "type_printers", "deferred_printers")


def now(shell: Any) -> dict[str, Any]:
    if shell is None:
        return {"extensions": [], "aliases": [], "modes": {}}
    modes = {name: getattr(shell, name) for name in _MODES if hasattr(shell, name)}
    modes["xmode"] = shell.InteractiveTB.mode
    modes["precision"] = shell.display_formatter.formatters["text/plain"].float_precision
    return {
        "extensions": sorted(shell.extension_manager.loaded - {"respawner"}),
        "aliases": shell.alias_manager.aliases,
        "modes": modes,
    }


def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
    present = now(shell)
    modes = {k: v for k, v in present["modes"].items() if v != before["modes"].get(k, v)}
    found = {
        "extensions": [name for name in present["extensions"] if name not in before["extensions"]],
        "autoreload": _autoreload(shell),
        "aliases": [alias for alias in present["aliases"] if alias not in before["aliases"]],
        "modes": modes,
        "magic_classes": [type(m) for m in shell.magics_manager.registry.values() if _own(type(m))],
        "magics": [
            (kind, name, function)
            for kind, magics in shell.magics_manager.magics.items()
            for name, function in magics.items()
            if isinstance(function, types.FunctionType) and _own(function)
        ],
        "formatters": [
            (mime, registry, key, function)
            for mime, formatter in shell.display_formatter.formatters.items()
            for registry in _REGISTRIES
            for key, function in getattr(formatter, registry).items()
            if _own(function)
        ],
        "events": [
            (event, function)
            for event, functions in shell.events.callbacks.items()
            for function in functions
            if _own(function) and isinstance(function, types.FunctionType)
        ],
    }
    return {key: value for key, value in found.items() if value}


def put(shell: Any, key: str, value: Any) -> None:
    match key:
        case "extensions":
            _load_extensions(shell, value)
        case "autoreload":
            shell.run_line_magic("autoreload", value)
        case "aliases":
            for name, command in value:
                shell.alias_manager.define_alias(name, command)
        case "modes":
            _put_modes(shell, value)
        case "magic_classes":
            for cls in value:
                if isinstance(cls, type) and issubclass(cls, Magics):
                    shell.register_magics(cls)
        case "magics":
            for kind, name, function in value:
                if callable(function):
                    shell.register_magic_function(function, kind, name)
        case "formatters":
            for mime, registry, of, function in value:
                getattr(shell.display_formatter.formatters[mime], registry)[of] = function
        case "events":
            for event, function in value:
                if function not in shell.events.callbacks[event]:
                    shell.events.register(event, function)
        case _:
            raise KeyError("this version of Respawner does not know it")


def _load_extensions(shell: Any, names: list[str]) -> None:
    failed = []
    for name in names:
        try:
            shell.extension_manager.load_extension(name)
        except Exception as error:
            failed.append(f"{name} ({error})")
    if failed:
        raise RuntimeError(f"not loaded: {', '.join(failed)}")


def _put_modes(shell: Any, modes: dict[str, Any]) -> None:
    for name, value in modes.items():
        if name == "xmode":
            shell.InteractiveTB.set_mode(mode=value)
        elif name == "precision":
            shell.display_formatter.formatters["text/plain"].float_precision = value
        else:
            setattr(shell, name, value)


def _autoreload(shell: Any) -> str | None:
    """The argument of ``%autoreload`` that leads to the mode it is in."""
    reloader = getattr(shell.magics_manager.registry.get("AutoreloadMagics"), "_reloader", None)
    if reloader is None or not reloader.enabled:
        return None
    if not reloader.check_all:
        return "1"
    return "3" if getattr(reloader, "autoload_obj", False) else "2"


def _own(item: Any) -> bool:
    return getattr(item, "__module__", None) == "__main__"
