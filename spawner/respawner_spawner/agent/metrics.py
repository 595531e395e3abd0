"""A host's devices for Prometheus. What a device cannot tell has no sample; 0 would be a lie in a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .wire import Answer

_READINGS = (
    ("memory_used_bytes", "respawner_gpu_memory_used_bytes", "Memory in use."),
    (
        "utilization_percent",
        "respawner_gpu_utilization_percent",
        "Share of time in which any kernel ran. Not of MIG devices.",
    ),
    ("temperature_celsius", "respawner_gpu_temperature_celsius", "Temperature."),
    ("power_watts", "respawner_gpu_power_watts", "Power drawn."),
    (
        "ecc_uncorrected",
        "respawner_gpu_ecc_uncorrected_errors",
        "Uncorrected memory errors since the driver was loaded.",
    ),
    (
        "thermal_slowdown",
        "respawner_gpu_thermal_slowdown",
        "1 while the hardware lowers its clocks because it is too hot.",
    ),
)


def text(answer: Callable[[], Answer]) -> bytes:
    """Everything in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Devices(answer))
    return generate_latest(registry)


class _Devices(Collector):
    def __init__(self, answer: Callable[[], Answer]) -> None:
        self._answer = answer

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        answer = self._answer()
        yield from _host(answer)
        yield from _devices(answer)
        yield from _sessions(answer)


def _host(answer: Answer) -> Iterator[Metric]:
    report = answer.report
    info = GaugeMetricFamily(
        "respawner_agent_info",
        "Versions of agent and driver.",
        labels=["host", "version", "driver_version"],
    )
    info.add_metric([answer.host, answer.version, report.inventory.driver_version], 1)
    yield info
    yield GaugeMetricFamily(
        "respawner_agent_read_timestamp_seconds", "When NVML last answered; 0: not yet.", report.read_at
    )
    yield GaugeMetricFamily(
        "respawner_agent_problems", "What does not work; /v1/inventory has the words.", len(report.causes)
    )


def _devices(answer: Answer) -> Iterator[Metric]:
    report = answer.report
    memory = GaugeMetricFamily(
        "respawner_gpu_memory_bytes",
        "Memory of a GPU or MIG device.",
        labels=["uuid", "name", "parent", "profile"],
    )
    for gpu in report.inventory.found:
        memory.add_metric([gpu.uuid, gpu.name, gpu.parent, gpu.profile], gpu.memory_bytes)
    healthy = GaugeMetricFamily(
        "respawner_gpu_healthy", "0 when it is cordoned for its health.", labels=["uuid"]
    )
    for health in report.health:
        healthy.add_metric([health.uuid], health.ok)
    xids = CounterMetricFamily(
        "respawner_gpu_xids", "Xid events since the agent started.", labels=["uuid", "xid"]
    )
    for uuid, counts in report.xid_counts.items():
        for code, count in counts.items():
            xids.add_metric([uuid, str(code)], count)
    yield from (memory, healthy, xids)
    for field, name, words in _READINGS:
        family = GaugeMetricFamily(name, words, labels=["uuid"])
        for reading in report.readings:
            value = getattr(reading, field)
            if value is not None and not reading.error:
                family.add_metric([reading.uuid], float(value))
        yield family


def _sessions(answer: Answer) -> Iterator[Metric]:
    report = answer.report
    used: Counter[tuple[str, str]] = Counter()
    for process in report.processes:
        used[process.uuid, process.holder or process.container[:12]] += process.used_bytes or 0
    memory = GaugeMetricFamily(
        "respawner_gpu_process_memory_bytes",
        "Memory of a session's processes; holder is a container or empty outside of sessions.",
        labels=["uuid", "holder"],
    )
    for (uuid, holder), used_bytes in used.items():
        memory.add_metric([uuid, holder], used_bytes)
    usable = GaugeMetricFamily(
        "respawner_session_gpus_usable",
        "0 when a running session cannot open its GPUs any more; no sample when nobody can tell.",
        labels=["holder"],
    )
    for access in report.access:
        if access.verdict != "unknown":
            usable.add_metric([access.holder], access.verdict == "usable")
    yield from (memory, usable)
