"""Options of numpy, pandas and matplotlib that differ from the libraries' own defaults."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any, ClassVar


class Numpy:
    """How arrays are printed, and what floating-point errors do."""

    _PRINTING: ClassVar = {
        "edgeitems": 3,
        "threshold": 1000,
        "floatmode": "maxprec",
        "precision": 8,
        "suppress": False,
        "linewidth": 75,
        "nanstr": "nan",
        "infstr": "inf",
        "sign": "-",
        "formatter": None,
        "legacy": False,
        "override_repr": None,
    }
    _ERRORS: ClassVar = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}

    @classmethod
    def changed(cls, shell: Any, before: dict[str, Any]) -> dict[str, Any]:
        np = sys.modules.get("numpy")
        if np is None:
            return {}
        printing = {k: v for k, v in np.get_printoptions().items() if v != cls._PRINTING.get(k)}
        errors = {k: v for k, v in np.geterr().items() if v != cls._ERRORS.get(k)}
        found = {f"print.{k}": v for k, v in printing.items()}
        return found | {f"error.{k}": v for k, v in errors.items()}

    @staticmethod
    def put(shell: Any, key: str, value: Any) -> None:
        np = importlib.import_module("numpy")
        kind, _, name = key.partition(".")
        (np.seterr if kind == "error" else np.set_printoptions)(**{name: value})


class Pandas:
    """``pandas.options``."""

    @staticmethod
    def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
        if "pandas" not in sys.modules:
            return {}
        config = sys.modules["pandas._config.config"]
        found = {}
        for key, option in config._registered_options.items():
            value: Any = config._global_config
            for part in key.split("."):
                value = value[part]
            if value is not option.defval and value != option.defval:
                found[key] = value
        return found

    @staticmethod
    def put(shell: Any, key: str, value: Any) -> None:
        pandas = importlib.import_module("pandas")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an option that is deprecated now was told of when it was set
            pandas.set_option(key, value)


class Matplotlib:
    """``rcParams``, without the backend, which the frontend decides."""

    _FRONTENDS = ("backend", "backend_fallback", "interactive", "toolbar")

    @classmethod
    def changed(cls, shell: Any, before: dict[str, Any]) -> dict[str, Any]:
        matplotlib = sys.modules.get("matplotlib")
        if matplotlib is None:
            return {}
        defaults = matplotlib.rcParamsOrig
        present = dict.items(matplotlib.rcParams)  # a lookup by item would choose the backend
        return {
            key: value
            for key, value in present
            if key not in cls._FRONTENDS and value != dict.get(defaults, key)
        }

    @staticmethod
    def put(shell: Any, key: str, value: Any) -> None:
        importlib.import_module("matplotlib").rcParams[key] = value
