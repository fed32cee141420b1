"""Builds the Grafana dashboard of mmg: `python ops/grafana/build.py` writes ops/grafana/mmg.json.

The file is checked in and compared by a test; change it here and never there. It must not need
Grafana: the JSON is that of Grafana 10 and later (schemaVersion 38).
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).with_name("mmg.json")
WIDTH: Final = 24
HEIGHT: Final = 8
ROW_HEIGHT: Final = 1
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """One expression and how its series are called."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One picture: what it shows, in which unit, and what is too much of it."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    text: str = ""
    kind: str = "timeseries"
    red_from: float | None = None
    stacked: bool = False
    width: int = 8


class Row(NamedTuple):
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def quantile(share: float, name: str, by: str) -> str:
    """Return the quantile of a histogram over five minutes, for each value of a label."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({name}_bucket[5m])))"


def shares(of: str, by: str) -> str:
    """Return how often something happened in each minute."""
    return f"sum by ({by}) (rate({of}[5m])) * 60"


NOW: Final = Row(
    "Is anything wrong now?",
    (
        Panel(
            "Alerts that fire",
            (Query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),),
            kind="stat",
            red_from=1,
            width=4,
        ),
        Panel(
            "Workers that take work",
            (Query('sum(mmg_worker_state{state="ready"}) or vector(0)', "ready"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Requests that wait",
            (Query("sum(max by (priority) (mmg_lane_waiting_requests))", "waiting"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Completed of the last hour",
            (
                Query(
                    'sum(increase(mmg_requests_ended_total{kind="completed"}[1h])) / sum('
                    'increase(mmg_requests_ended_total{kind=~"completed|failed|expired"}[1h]))',
                    "share",
                ),
            ),
            unit="percentunit",
            kind="stat",
            width=4,
        ),
        Panel(
            "Dead letters",
            (Query("max(mmg_dead_letters)", "letters"),),
            kind="stat",
            red_from=1,
            width=4,
        ),
        Panel(
            "Spent today",
            (Query("max(mmg_spent_usd) + max(mmg_held_usd)", "spent and held"),),
            unit="currencyUSD",
            kind="stat",
            width=4,
        ),
    ),
)
LANES: Final = Row(
    "Does anybody wait too long?",
    (
        Panel(
            "Oldest that waits",
            (
                Query("max by (priority) (mmg_lane_oldest_seconds)", "{{priority}}"),
                Query("max by (priority) (mmg_class_max_wait_seconds)", "bound of {{priority}}"),
            ),
            unit="s",
            text="Of the requests that have not begun or were given back.",
        ),
        Panel(
            "Requests that wait",
            (Query("max by (priority) (mmg_lane_waiting_requests)", "{{priority}}"),),
            stacked=True,
        ),
        Panel(
            "Wait to the first start, p95",
            (Query(quantile(0.95, "mmg_wait_seconds", "priority"), "{{priority}}"),),
            unit="s",
        ),
        Panel(
            "Ends in a minute",
            (Query(shares("mmg_requests_ended_total", "kind"), "{{kind}}"),),
            stacked=True,
        ),
        Panel(
            "Back to the lane in a minute",
            (
                Query(shares("mmg_requests_queued_again_total", "kind"), "{{kind}}"),
                Query("sum(rate(mmg_redeliveries_total[5m])) * 60", "delivered again"),
                Query("sum(rate(mmg_appends_refused_total[5m])) * 60", "links refused"),
            ),
        ),
        Panel(
            "In the hands of workers",
            (Query("sum by (instance, state) (mmg_jobs)", "{{instance}} {{state}}"),),
        ),
    ),
)
RUNS: Final = Row(
    "Do the engines draw?",
    (
        Panel(
            "Run, p50 and p95",
            (
                Query(quantile(0.5, "mmg_run_seconds", "engine"), "{{engine}} p50"),
                Query(quantile(0.95, "mmg_run_seconds", "engine"), "{{engine}} p95"),
            ),
            unit="s",
            red_from=120,
        ),
        Panel(
            "Starts in a minute",
            (Query(shares("mmg_wait_seconds_count", "engine, model"), "{{engine}} {{model}}"),),
            stacked=True,
        ),
        Panel(
            "Faults in a minute",
            (Query(shares("mmg_faults_total", "engine, code"), "{{engine}} {{code}}"),),
        ),
        Panel(
            "Engines that are up",
            (Query("max by (instance, engine) (mmg_engine_up)", "{{instance}} {{engine}}"),),
        ),
        Panel(
            "Breakers that are open",
            (Query("max by (engine) (mmg_breaker_open)", "{{engine}}"),),
            red_from=1,
        ),
        Panel(
            "Slots taken",
            (
                Query(
                    'sum by (instance, kind) (mmg_slots{state="taken"})', "{{instance}} {{kind}}"
                ),
                Query('sum by (instance, kind) (mmg_slots{state="size"})', "of {{kind}}"),
            ),
        ),
    ),
)
CARD: Final = Row(
    "Who has the card?",
    (
        Panel(
            "Memory by holder",
            (Query("max by (card, holder) (mmg_card_memory_bytes)", "{{card}} {{holder}}"),),
            unit="bytes",
            stacked=True,
            width=12,
        ),
        Panel(
            "Decisions in a minute",
            (Query(shares("mmg_card_decisions_total", "decision, rule"), "{{decision}} {{rule}}"),),
            width=12,
        ),
        Panel(
            "LLM absent",
            (Query("max by (card) (mmg_llm_absent_seconds)", "{{card}}"),),
            unit="s",
            red_from=600,
        ),
        Panel(
            "Nobody's memory while nobody draws",
            (Query("min by (card) (mmg_card_idle_other_bytes)", "{{card}}"),),
            unit="bytes",
            text="It should not grow from day to day.",
        ),
        Panel(
            "Temperature; drawing thrown away",
            (
                Query("max by (card) (mmg_card_temperature_celsius)", "{{card}}, celsius"),
                Query("sum(increase(mmg_preempted_run_seconds_total[1h]))", "seconds in an hour"),
            ),
        ),
    ),
)
REST: Final = Row(
    "Bus, ledger, gateway, machines",
    (
        Panel(
            "Streams, share of their limit",
            (
                Query(
                    "max by (stream_name) (jetstream_stream_total_bytes)"
                    " / (max by (stream_name) (jetstream_stream_limit_bytes) > 0)",
                    "{{stream_name}}",
                ),
            ),
            unit="percentunit",
            red_from=0.8,
        ),
        Panel(
            "Consumers",
            (
                Query(
                    "max by (consumer_name) (jetstream_consumer_num_pending)",
                    "{{consumer_name}} pending",
                ),
                Query(
                    "max by (consumer_name) (jetstream_consumer_num_ack_pending)",
                    "{{consumer_name}} in hand",
                ),
            ),
        ),
        Panel(
            "Ledger behind",
            (Query("min(mmg_ledger_behind_messages)", "events"),),
        ),
        Panel(
            "WebSockets",
            (
                Query("sum by (instance) (mmg_sockets)", "{{instance}} open"),
                Query(
                    "sum by (instance) (increase(mmg_sockets_dropped_total[5m]))",
                    "{{instance}} dropped",
                ),
            ),
        ),
        Panel(
            "Webhooks in five minutes",
            (Query("sum by (state) (increase(mmg_webhook_tries_total[5m]))", "{{state}}"),),
        ),
        Panel(
            "Disk of the assets",
            (Query("min by (instance) (mmg_assets_free_bytes)", "{{instance}} free"),),
            unit="bytes",
        ),
        Panel(
            "Memory of the processes",
            (
                Query(
                    'max by (job, instance) (process_resident_memory_bytes{job=~"mmg-.*"})',
                    "{{job}} {{instance}}",
                ),
            ),
            unit="bytes",
        ),
    ),
)
ROWS: Final = (NOW, LANES, RUNS, CARD, REST)


def panels() -> Iterator[dict[str, Any]]:
    """Yield rows and panels with their places, from left to right."""
    number, top = 1, 0
    for row in ROWS:
        place = {"h": ROW_HEIGHT, "w": WIDTH, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row.title, "gridPos": place, "panels": []}
        number, top, left = number + 1, top + ROW_HEIGHT, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top = 0, top + HEIGHT
            place = {"h": HEIGHT, "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": place, **drawn(panel)}
            number, left = number + 1, left + panel.width
        top += HEIGHT


def drawn(panel: Panel) -> dict[str, Any]:
    """Return one panel without its place."""
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
    if panel.stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    if panel.red_from is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "timeseries":
        defaults["custom"] = custom
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": list(targets(panel.queries)),
    }


def targets(queries: Sequence[Query]) -> Iterator[dict[str, Any]]:
    """Yield the queries of a panel, called A, B ..."""
    for number, query in enumerate(queries):
        yield {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
        }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    variable = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }
    return {
        "uid": "mmg",
        "title": "mmg: images",
        "description": "Built by ops/grafana/build.py; what to do about it: ops/runbook.md.",
        "tags": ["mmg"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [variable]},
        "panels": list(panels()),
    }


def text() -> str:
    """Return the dashboard as it is checked in."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stderr.write(f"{FILE.name}: {len(list(panels()))} rows and panels\n")
