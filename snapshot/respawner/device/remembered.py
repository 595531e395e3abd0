"""Storages that came back on the CPU for want of their device: they go back to it when there is one again.

By storage, not by tensor: what is a view of such a storage goes with it. What cells make anew on the CPU stays there.
"""

from __future__ import annotations

from typing import Any

from torch.multiprocessing.reductions import StorageWeakRef

from .placement import Device

_away: dict[int, tuple[StorageWeakRef, Device]] = {}
"""By the address of torch's own object, which is not used again while the weak reference lives."""


def remember(storage: Any, origin: Device) -> None:
    for key in [key for key, (reference, _) in _away.items() if reference.expired()]:
        del _away[key]
    _away[storage._cdata] = StorageWeakRef(storage), origin


def origin_of(storage: Any) -> Device | None:
    """The device that a storage on the CPU belongs on."""
    found = _away.get(storage._cdata)
    return None if found is None or found[0].expired() else found[1]
