"""Alerts and dashboard ask for what exists: a metric that was renamed leaves a graph empty and an alert silent."""

import json
import re
from pathlib import Path

import jupyterhub.metrics
import pytest
from prometheus_client.metrics import MetricWrapperBase
from respawner_spawner.agent import metrics

from .running import ANSIBLE

ROLE = ANSIBLE / "roles" / "monitoring"
DASHBOARD = json.loads((ROLE / "files" / "respawner-dashboard.json").read_text())
ALERTS = (ROLE / "templates" / "alerts.yml.j2").read_text()
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
METRIC = re.compile(r"\b(?:respawner|jupyterhub)_\w+")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names that the agent's source has, and those that JupyterHub registers; counters and histograms as Prometheus shows them."""
    names = set(re.findall(r'"(respawner_\w+)"', Path(metrics.__file__).read_text()))
    names |= {
        family.name
        for value in vars(jupyterhub.metrics).values()
        if isinstance(value, MetricWrapperBase)
        for family in value.describe()
    }
    return names | {f"{name}_{suffix}" for name in names for suffix in ("total", "bucket")}


@pytest.mark.parametrize("expression", [*EXPRESSIONS, ALERTS], ids=lambda text: text[:60])
def test_metrics_are_ones_that_agent_and_hub_write(expression, known):
    settings = {"respawner_tls_dir", "respawner_hub_host", "respawner_shared_dir"}
    assert set(METRIC.findall(expression)) - settings <= known


def test_every_alert_says_what_happened_and_what_to_do_next():
    alerts = ALERTS.split("- alert: ")[1:]
    assert len(alerts) >= 6
    assert [
        alert.splitlines()[0] for alert in alerts if "summary:" not in alert or "next:" not in alert
    ] == []


def test_panels_do_not_lie_on_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
