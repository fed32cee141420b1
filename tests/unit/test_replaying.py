"""Goal: a recorded decision is decided again, byte by byte, by the pure core.

Method: histories of an arbiter with unloads, debts, faults and losses, each event recorded through
JSON and played again; choices among engines likewise.
"""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import replaying
from agent.core.arbiter import Arbiter
from agent.core.card import Card, ComfyUI, Loaded, Reading, Tenant
from agent.core.choosing import Choice
from agent.core.faults import NoEngineFault, Remedy
from agent.core.job import History, StoredRequest
from agent.core.leases import Ask, Elsewhere, Grant, Need
from agent.core.replaying import Arbitrated, Before, Happening, Routed
from agent.core.routing import EngineFacts, Policy
from agent.core.steps import Seen
from agent.workflows import load_workflows
from contracts.requests import Options, Priority, Quality, Request
from contracts.subjects import Identity
from tests.rig import ROOT

T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def ask(job: str, priority: Priority = Priority.HIGH, mib: int = 12288) -> Ask:
    return Ask(
        job=job,
        priority=priority,
        quality=Quality.STANDARD,
        need=Need(model="sdxl-1.0", vram_mib=mib),
        smaller=Need(model="sd-1.5", vram_mib=6144),
        stored_at=T0,
        max_wait_s=30.0,
        requester="a",
    )


def reading(at: datetime, free: int, *, llm: bool, held: int = 0, lost: bool = False) -> Reading:
    models = (Loaded(name="llama3:8b", size_mib=6700, vram_mib=6700, expires_at=T0),)
    return Reading(
        taken_at=at,
        card=None if lost else Card(total_mib=24576, free_mib=free),
        comfyui=ComfyUI(held=("sd-1.5",) if held else (), held_mib=held),
        tenants=(Tenant(name="ollama", loaded=models if llm else ()),),
        missing="the card is lost" if lost else "",
    )


def recorded(arbiter: Arbiter, event: Happening, now: datetime) -> Arbitrated:
    """Let an event happen and return its record, as it comes back from a file."""
    before = replaying.remember(arbiter)
    decisions = replaying.play(arbiter, event, now)
    record = Arbitrated(
        seq=1,
        at=now,
        build="test",
        card="http://127.0.0.1:8188",
        event=event,
        before=replaying.before(before),
        decided=msgspec.Raw(replaying.said(decisions)),
    )
    found = replaying.decode(msgspec.json.encode(record))
    assert isinstance(found, Arbitrated)
    return found


def test_a_record_holds_every_attribute_of_an_arbiter():
    kept = {name.lstrip("_") for name in vars(Arbiter())}
    assert kept == set(Before.__struct_fields__)


def test_an_arbiter_is_rebuilt_as_it_was():
    arbiter = Arbiter()
    arbiter.request(ask("a"), T0)
    arbiter.reading(reading(T0, 20000, llm=False), T0)
    again = replaying.arbiter_at(replaying.before(replaying.remember(arbiter)))
    assert vars(again) == vars(arbiter)
    assert again.lease is not None


def test_an_event_is_recorded_only_if_more_than_a_measurement_follows():
    arbiter = Arbiter()
    asked = arbiter.request(ask("a"), T0)
    granted = arbiter.reading(reading(T0, 20000, llm=False), T0)
    assert not replaying.is_worth_it(arbiter.tick(T0))
    assert any(isinstance(one, Grant) for one in granted)
    assert replaying.is_worth_it(granted)
    assert replaying.is_worth_it(asked), "it was told to wait"


EVENTS = st.one_of(
    st.builds(
        lambda job, priority: Happening(name="request", ask=ask(f"j{job}", priority)),
        st.integers(0, 3),
        st.sampled_from(list(Priority)),
    ),
    st.builds(
        lambda free, llm, held, lost: ("reading", free, llm, held, lost),
        st.integers(0, 24000),
        st.booleans(),
        st.sampled_from([0, 3000]),
        st.integers(0, 9).map(lambda n: n == 0),
    ),
    st.builds(lambda job: Happening(name="release", job=f"j{job}"), st.integers(0, 3)),
    st.builds(lambda job: Happening(name="oom", job=f"j{job}"), st.integers(0, 3)),
    st.builds(
        lambda name, number: Happening(name=name, number=number, reason="why"),
        st.sampled_from(["freed", "free_failed", "unloaded", "unload_failed"]),
        st.integers(0, 6),
    ),
    st.builds(
        lambda name, number: Happening(name=name, number=number, reason="why"),
        st.sampled_from(["reloaded", "reload_failed"]),
        st.integers(0, 6),
    ),
    st.just(Happening(name="tick")),
    st.just(Happening(name="busy_elsewhere", elsewhere=Elsewhere(running=(("a", 1),)))),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0.1, 40)), max_size=25))
def test_any_history_is_decided_again_byte_by_byte(history):
    arbiter, now = Arbiter(), T0
    for given_event, pause_s in history:
        now += timedelta(seconds=pause_s)
        event = given_event
        if isinstance(given_event, tuple):
            _, free, llm, held, lost = given_event
            event = Happening(
                name="reading", reading=reading(now, free, llm=llm, held=held, lost=lost)
            )
        if event.name == "request" and arbiter.lease and arbiter.lease.ask.job == event.ask.job:
            continue
        record = recorded(arbiter, event, now)
        replayed = replaying.replay(record)
        assert replayed.is_same, replayed


def test_a_build_that_decides_otherwise_is_found():
    arbiter = Arbiter()
    arbiter.request(ask("a"), T0)
    event = Happening(name="reading", reading=reading(T0, 20000, llm=False))
    record = recorded(arbiter, event, T0)
    strict = msgspec.structs.replace(record.before.settings, reserve_mib=20000)
    other = msgspec.structs.replace(
        record, before=msgspec.structs.replace(record.before, settings=strict)
    )
    replayed = replaying.replay(other)
    assert not replayed.is_same
    assert b'"grant"' in replayed.then
    assert b'"grant"' not in replayed.now


def seen(*, up: bool = True) -> Seen:
    workflows = load_workflows((ROOT / "workflows",))
    comfyui = EngineFacts(
        name="comfyui",
        slot="gpu",
        models=("sdxl-1.0", "sd-1.5"),
        up=up,
        workflows=dict(workflows),
        problems=dict.fromkeys(workflows, ()),
    )
    cloud = EngineFacts(name="stability", slot="cloud", models=("core",))
    return Seen((comfyui, cloud), Policy())


def choice(**fields: object) -> Choice:
    request = Request(
        type="image",
        prompt="our secret plan",
        options=Options(negative_prompt="no leaks"),
        webhook_url="https://agent.example/hook",
    )
    request = msgspec.structs.replace(request, webhook_url=None, **fields)
    stored = StoredRequest(
        who=Identity("a", "r1"), priority=Priority.LOW, seq=7, stored_at=T0, request=request
    )
    return Choice(
        stored=stored,
        seen=seen(),
        history=History(),
        passed={},
        last=(None, Remedy.RETRY),
    )


@pytest.mark.parametrize("fields", [{}, {"local_only": True}], ids=["any", "local"])
def test_a_choice_among_engines_is_made_again_byte_by_byte_without_its_words(fields):
    one = choice(**fields)
    found = one.made()
    line = msgspec.json.encode(
        Routed(
            seq=2,
            at=T0,
            build="test",
            choice=replaying.without_words(one),
            decided=msgspec.Raw(replaying.chosen(found)),
        )
    )
    assert b"secret" not in line
    assert b"leaks" not in line
    assert b"class_type" not in line, "graphs decide nothing and are large"
    assert len(line) < 20_000
    assert next(one["engine"] for one in json.loads(line)["decided"]) == "comfyui"
    assert replaying.replay(replaying.decode(line)).is_same


def test_a_fault_is_a_choice_too():
    text = replaying.chosen(NoEngineFault("nobody", "$.options"))
    assert json.loads(text)["fault"] == "NoEngineFault"
    assert json.loads(text)["code"] == "no_engine"
