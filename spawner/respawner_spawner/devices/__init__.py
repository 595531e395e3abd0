"""What one host has in GPUs and MIG devices, how they are, who uses them: by NVML, from this host only.

`inventory()` asks once; `Monitor` keeps watching. Not for deciding who gets what: that is `leases`.
"""

from .health import Health, HealthEvent
from .inventory import inventory
from .monitor import Monitor
from .values import Gpu, GpuProcess, Inventory, Reading, Report

__all__ = [
    "Gpu",
    "GpuProcess",
    "Health",
    "HealthEvent",
    "Inventory",
    "Monitor",
    "Reading",
    "Report",
    "inventory",
]
