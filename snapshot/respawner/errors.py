"""What can go wrong, one class for each thing that a person would do differently."""

from __future__ import annotations


class RespawnerError(Exception):
    """Root of everything that this package raises on purpose."""


class NotActiveError(RespawnerError):
    """The call needs a kernel in which Respawner runs; the message says why it does not run here."""


class StoreError(RespawnerError):
    """The snapshot store cannot be used as it is."""


class NewerFormatError(StoreError):
    """Written by a newer Respawner. Nothing was read or changed: upgrade, or use another store."""


class FencedError(StoreError):
    """A newer session has taken over; what this one computes is not saved any more."""


class DamagedError(StoreError):
    """Bytes on disk are not what was written. The snapshot that needs them is not used, older ones are."""


class NoSnapshotError(StoreError):
    """There is no snapshot with that id or label."""


class CaptureError(RespawnerError):
    """The namespace as a whole could not be pickled; the snapshot before it stays the latest."""


class LostObjectError(RespawnerError, AttributeError):
    """A placeholder was used as if it were the object that could not be saved or restored.

    It is an `AttributeError` too, so that ``hasattr`` and IPython's displays treat it as a missing method.
    """


class TornError(CaptureError):
    """What was captured has changed before it was written; the next capture has the new state."""


class DeviceError(CaptureError):
    """An accelerator has failed for the rest of the process. What it held is in the last good snapshot: restart the kernel."""


class BuiltOnDamageError(CaptureError):
    """The state goes on from one that turned out to be damaged; it is not published."""


class OverBudgetError(CaptureError):
    """So much should not be written yet; the state is taken again after ``wait_seconds``, or by a flush."""

    def __init__(self, reason: str, wait_seconds: float) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class SettingError(RespawnerError):
    """An environment variable has a value that it cannot have; the message says what it could be."""


class ResumeError(RespawnerError):
    """A loop cannot go on exactly where it stopped; the message says what to change in the cell."""
