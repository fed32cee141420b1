"""Goal: each alert is a valid rule that fires and clears, and leads a person to the right page.

Method: Debian's promtool runs the rules and their tests; beside it, rules, tests, runbook and
dashboard are compared with each other and with the names that worker and gateway really show.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.core.leases import Grant
from tests.metrics_rig import Decider, every_name, gauges, report, shown
from tests.prometheus_rig import RULE_TESTS, RULES, promtool
from tests.rig import ROOT

GRAFANA = ROOT / "ops" / "grafana"
RUNBOOK = ROOT / "ops" / "runbook.md"
METRICS = ROOT / "docs" / "metrics.md"
SERIES = re.compile(r"\b(?:mmg|jetstream|process)_[a-z_]+\b")
OTHERS = {"mmg_card_idle_other_bytes", "mmg_card_decisions_total"}
"""Shown only while nobody draws, or after the first decision: asked for below."""


def rules() -> dict[str, str]:
    """Return the text of each rule by the name of its alert."""
    parts = re.split(r"- alert: (\w+)\n", RULES.read_text())[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def dashboard() -> Any:
    spec = importlib.util.spec_from_file_location("grafana_build", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard().panels() for target in panel.get("targets", ())]


def known_names() -> set[str]:
    keeper = Decider()
    shows = gauges(report(cards=()), keeper)
    keeper.decide(Grant(job="a", model="m", vram_mib=1, downgraded=False, rule=1, reason=""))
    (card,) = report().cards
    idle = report(cards=(type(card)(**{**_fields(card), "lease": None}),))
    names = every_name() | {name for told in (shows, gauges(idle)) for name, _ in shown(told)}
    assert names >= OTHERS
    return names


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_the_rules_are_valid():
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_clears_as_its_test_says():
    done = promtool("test", "rules", str(RULE_TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", rules())
def test_the_tests_see_each_alert_firing_and_afterwards_cleared(alert):
    looks = re.findall(
        rf"alertname: {alert},? *\n? *(?:eval_time: (\d+)m\n|eval_time: (\d+)m, exp_alerts: \[\])",
        RULE_TESTS.read_text(),
    )
    fires = [int(at) for at, _ in looks if at]
    quiet = [int(at) for _, at in looks if at]
    assert fires, f"no test sees {alert} firing"
    assert max(quiet) > max(fires), f"no test sees {alert} clearing"


@pytest.mark.parametrize(("alert", "text"), rules().items())
def test_each_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on(alert, text):
    assert re.search(r"severity: (page|ticket)\b", text), alert
    assert "summary: " in text
    found = re.search(r"runbook_url: \"?ops/runbook\.md#(.+?)\"?$", text, re.MULTILINE)
    assert found is not None, alert
    if "{{" not in found[1]:
        assert f"### {found[1]}\n" in RUNBOOK.read_text(), found[1]


def test_rules_and_dashboard_speak_only_of_series_that_are_shown():
    asked = {name for text in (*rules().values(), *expressions()) for name in SERIES.findall(text)}
    assert asked - known_names() == set()


def test_the_dashboard_is_what_its_code_builds():
    built = dashboard()
    assert (GRAFANA / "mmg.json").read_text(encoding="utf-8") == built.text(), (
        "run: .venv/bin/python ops/grafana/build.py"
    )


def test_each_expression_of_the_dashboard_is_valid(tmp_path: Path):
    listed = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": listed}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_panels_of_the_dashboard_lie_on_each_other():
    places = [panel["gridPos"] for panel in dashboard().panels()]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert all(place["x"] + place["w"] <= dashboard().WIDTH for place in places)


def test_the_page_of_metrics_lists_what_is_shown_and_nothing_else():
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", METRICS.read_text(), re.MULTILINE))
    parts = re.compile(r"(mmg_(?:wait|run)_seconds)_(?:bucket|count|sum)")
    known = {parts.sub(r"\1", name) for name in known_names()}
    known = {name for name in known if name.startswith(("mmg_", "jetstream_"))}
    assert listed == known
