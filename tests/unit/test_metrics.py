"""Goal: what a worker shows is true, complete, and clean by the rules of Prometheus.

Method: links and decisions are counted, a report of a worker is turned into gauges, and promtool
judges the text. Counters are shared by all tests of a process: what counts is the difference.
"""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agent import metrics
from agent.core.faults import HangFault
from agent.core.leases import Grant, Measure, Preempt
from agent.core.scheduler import Night
from agent.core.steps import Done, Faulted
from contracts.errors import ErrorCode, error_body
from contracts.events import Cancelled, Completed, Expired, Failed, Link, Preempted, Started
from contracts.requests import Priority
from tests.metrics_rig import NOW, Decider, gateway_gauges, gauges, report, shown
from tests.prometheus_rig import lint

MIB = 1024**2


def fields(n: int = 1) -> dict[str, Any]:
    return {
        "id": "x",
        "n": n,
        "request_id": "r1",
        "requester": "L2.01",
        "message": "",
        "progress_percent": 0,
        "at": NOW,
        "attempt": 1,
        "request_seq": 1,
    }


def started(n: int = 1) -> Started:
    return Started(
        engine="comfyui",
        model="sdxl-1.0",
        reason="",
        worker="w1",
        server=None,
        queue_time_seconds=42.0,
        **fields(n),
    )


def completed(*, downgraded: bool = False) -> Completed:
    return Completed(
        generation_time_seconds=7.0,
        queue_time_seconds=42.0,
        model_used="sdxl-1.0",
        engine="comfyui",
        cost_usd=0.0,
        seed=1,
        vram_used_gb=None,
        downgraded=downgraded,
        retry_count=0,
        reason="",
        outputs=(),
        output=None,
        **fields(2),
    )


def failed(code: ErrorCode, *, dead: bool) -> Failed:
    return Failed(error=error_body(code, "x"), dead=dead, **fields(2))


def value(name: str, samples: Any = None, **labels: str) -> float:
    found = shown(*metrics.WORKER) if samples is None else samples
    return found.get((name, frozenset(labels.items())), 0.0)


ENDED = "mmg_requests_ended_total"
LINKS: list[tuple[Link, str, dict[str, str]]] = [
    (completed(), ENDED, {"kind": "completed", "priority": "HIGH"}),
    (failed(ErrorCode.HANG, dead=True), ENDED, {"kind": "failed", "priority": "HIGH"}),
    (failed(ErrorCode.HANG, dead=True), "mmg_requests_given_up_total", {}),
    (
        failed(ErrorCode.INVALID_REQUEST, dead=False),
        ENDED,
        {"kind": "refused", "priority": "HIGH"},
    ),
    (
        Expired(error=error_body(ErrorCode.EXPIRED, "x"), **fields()),
        ENDED,
        {"kind": "expired", "priority": "HIGH"},
    ),
    (Cancelled(by="me", **fields()), ENDED, {"kind": "cancelled", "priority": "HIGH"}),
    (
        Preempted(by="a", reason="b", **fields(2)),
        "mmg_requests_queued_again_total",
        {"kind": "preempted"},
    ),
    (completed(downgraded=True), "mmg_downgrades_total", {}),
    (
        started(),
        "mmg_wait_seconds_bucket",
        {"priority": "HIGH", "engine": "comfyui", "model": "sdxl-1.0", "le": "60.0"},
    ),
    (
        completed(),
        "mmg_run_seconds_bucket",
        {"priority": "HIGH", "engine": "comfyui", "model": "sdxl-1.0", "le": "10.0"},
    ),
]


@pytest.mark.parametrize(("link", "name", "labels"), LINKS)
def test_a_stored_link_is_counted_once(link, name, labels):
    before = value(name, **labels)
    metrics.note_link(link, Priority.HIGH)
    assert value(name, **labels) == before + 1


def test_a_wait_is_measured_to_the_first_start_only():
    labels = {"priority": "LOW", "engine": "comfyui", "model": "sdxl-1.0"}
    before = value("mmg_wait_seconds_count", **labels)
    metrics.note_link(started(n=3), Priority.LOW)
    assert value("mmg_wait_seconds_count", **labels) == before
    metrics.note_link(started(n=1), Priority.LOW)
    assert value("mmg_wait_seconds_count", **labels) == before + 1


def test_each_fault_of_a_try_is_counted_with_its_engine_and_code():
    labels = {"engine": "stability", "code": "hang"}
    before = value("mmg_faults_total", **labels)
    metrics.note_event(Done(), "stability")
    metrics.note_event(Faulted(HangFault("it hangs")), "stability")
    assert value("mmg_faults_total", **labels) == before + 1


def test_ends_are_shown_as_zero_before_the_first_so_that_it_is_seen_as_an_increase():
    found = shown(*metrics.WORKER)
    kinds = ("completed", "failed", "expired", "cancelled", "refused")
    for kind in kinds:
        for priority in Priority:
            assert (ENDED, frozenset({("kind", kind), ("priority", priority.value)})) in found


# --- gauges --------------------------------------------------------------------------------------


def test_a_report_becomes_gauges_in_base_units():
    found = shown(gauges(report()))
    card = "GPU-4f1c"
    expected: list[tuple[str, dict[str, str], float]] = [
        ("mmg_worker_state", {"state": "ready"}, 1),
        ("mmg_worker_state", {"state": "paused"}, 0),
        ("mmg_jobs", {"state": "working"}, 1),
        ("mmg_jobs", {"state": "waiting"}, 1),
        ("mmg_slots", {"kind": "gpu", "state": "taken"}, 1),
        ("mmg_engine_up", {"engine": "stability"}, 1),
        ("mmg_engine_ready", {"engine": "stability"}, 0),
        ("mmg_breaker_open", {"engine": "stability"}, 1),
        ("mmg_breaker_open", {"engine": "comfyui"}, 0),
        ("mmg_spent_usd", {}, 1.23),
        ("mmg_day_limit_usd", {}, 5.0),
        ("mmg_card_available", {"card": card}, 1),
        ("mmg_card_leased", {"card": card}, 1),
        ("mmg_llm_absent_seconds", {"card": card}, 90),
        ("mmg_llm_owed_models", {"card": card}, 1),
        ("mmg_card_memory_bytes", {"card": card, "holder": "comfyui"}, 7000 * MIB),
        ("mmg_card_memory_bytes", {"card": card, "holder": "ollama"}, 6700 * MIB),
        ("mmg_card_memory_bytes", {"card": card, "holder": "other"}, 1536 * MIB),
        ("mmg_card_memory_bytes", {"card": card, "holder": "free"}, 9000 * MIB),
        ("mmg_card_size_bytes", {"card": card}, 24576 * MIB),
        ("mmg_clock_offset_seconds", {}, -1.5),
        ("mmg_assets_free_bytes", {}, 5 * 10**9),
        ("mmg_bus_permission_errors_total", {}, 2),
        ("mmg_appends_refused_total", {}, 3),
        ("mmg_class_max_wait_seconds", {"priority": "HIGH"}, 30),
        ("mmg_certificate_expires_timestamp_seconds", {"file": "ca.pem"}, 1.9e9),
    ]
    wrong = [
        (name, labels, want, found.get((name, frozenset(labels.items()))))
        for name, labels, want in expected
        if found.get((name, frozenset(labels.items()))) != want
    ]
    assert wrong == []


def test_memory_that_nobody_answers_for_counts_only_while_nobody_draws():
    name, labels = "mmg_card_idle_other_bytes", frozenset({("card", "GPU-4f1c")})
    assert (name, labels) not in shown(gauges(report()))
    (card,) = report().cards
    idle = report(cards=(msgspec.structs.replace(card, lease=None),))
    assert shown(gauges(idle))[name, labels] == 1536 * MIB


def test_a_card_that_is_gone_shows_no_memory_and_is_not_available():
    (card,) = report().cards
    gone = msgspec.structs.replace(card, state="missing", total_mib=None, free_mib=None, uuid=None)
    found = shown(gauges(report(cards=(gone,))))
    assert found["mmg_card_available", frozenset({("card", "gpu:8188")})] == 0
    assert not [name for name, _ in found if name == "mmg_card_memory_bytes"]


def test_low_has_no_bound_while_it_sleeps():
    low = ("mmg_class_max_wait_seconds", frozenset({("priority", "LOW")}))
    assert shown(gauges(report()))[low] == 600
    assert low not in shown(gauges(report(), night=Night(from_hour=22, to_hour=6)))
    assert low in shown(
        gauges(report(at=NOW - timedelta(hours=9)), night=Night(from_hour=22, to_hour=6))
    )


def test_decisions_are_counted_by_kind_and_rule_without_the_password_of_an_address():
    keeper = Decider()
    shows = gauges(report(), keeper)
    grant = Grant(job="a", model="sdxl", vram_mib=1, downgraded=False, rule=4, reason="")
    keeper.decide(Measure(reason=""), grant)
    keeper.decide(grant, Preempt(job="b", by="a", lost_s=2.5, rest_s=9, reason=""))
    found = shown(shows)
    labels = {("server", "gpu:8188"), ("decision", "grant"), ("rule", "4")}
    assert found["mmg_card_decisions_total", frozenset(labels)] == 2
    assert found["mmg_preempted_run_seconds_total", frozenset()] == 2.5
    assert "hush" not in metrics.Exposition(shows).text().decode()
    assert not [labels for _, labels in found if ("decision", "measure") in labels]


def test_promtool_finds_nothing_to_say_about_the_metrics_of_a_worker():
    keeper = Decider()
    shows = gauges(report(), keeper)
    keeper.decide(Grant(job="a", model="m", vram_mib=1, downgraded=False, rule=1, reason=""))
    metrics.note_link(started(), Priority.HIGH)
    metrics.note_link(completed(), Priority.HIGH)
    metrics.note_event(Faulted(HangFault("it hangs")), "comfyui")
    assert lint(metrics.Exposition(*metrics.WORKER, shows).text()) == ""


def test_promtool_does_complain_about_a_bad_name():
    assert "mmg_wait_ms" in lint(b"# HELP mmg_wait_ms x\n# TYPE mmg_wait_ms gauge\nmmg_wait_ms 1\n")


# --- of a gateway ------------------------------------------------------------------------------


def test_a_gateway_shows_lanes_streams_and_sockets_and_promtool_finds_nothing_to_say():
    shows = gateway_gauges()
    assert lint(metrics.Exposition(shows).text()) == ""
    found = shown(shows)
    expected: list[tuple[str, dict[str, str], float]] = [
        ("mmg_lane_oldest_seconds", {"priority": "HIGH"}, 2.5),
        ("mmg_lane_waiting_requests", {"priority": "HIGH"}, 1),
        ("mmg_webhook_tries_total", {"state": "delivered"}, 4),
        ("mmg_webhook_tries_total", {"state": "undeliverable"}, 0),
        ("mmg_sockets", {}, 2),
        ("mmg_sockets_dropped_total", {}, 1),
        ("mmg_ledger_behind_messages", {}, 7),
        ("mmg_dead_letters", {}, 2),
        ("mmg_alert_raised", {"alert": "tenant_grew"}, 1),
        (
            "jetstream_stream_total_bytes",
            {"stream_name": "MMG_EVENTS", "is_stream_leader": "true"},
            900,
        ),
    ]
    wrong = [one for one in expected if found.get((one[0], frozenset(one[1].items()))) != one[2]]
    assert wrong == []
