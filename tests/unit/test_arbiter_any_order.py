"""Goal: in any order of events leases fit the card, each request is answered and debts are paid.

Method: hypothesis chooses events; every decision is checked against what was measured.
"""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from agent.core.card import ComfyUI
from agent.core.leases import (
    Grant,
    Measure,
    Refuse,
    ToCloud,
    Wait,
)
from tests.simulation.card_bench import (
    GIB,
    MAX_WAIT_S,
    RESERVE,
    SD15,
    SDXL,
    Bench,
    llm,
    none,
)

# --- properties --------------------------------------------------------------------------------

ASKS = st.tuples(
    st.sampled_from(list(MAX_WAIT_S)),
    st.sampled_from(["draft", "standard", "high"]),
    st.sampled_from([SDXL, SD15]),
    st.booleans(),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), ASKS),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([1, 4, 11, 61, 130])),
        st.tuples(st.just("llm"), st.integers(0, 20)),
        st.tuples(st.just("hold"), st.sampled_from([0, 6144, 12288])),
        st.tuples(st.just("freeze"), st.booleans()),
        st.tuples(st.just("card"), st.booleans()),
        st.tuples(st.just("oom"), st.just(0)),
        st.tuples(st.just("done"), st.booleans()),
    ),
    max_size=30,
)


class Watched(Bench):
    """A bench that looks at each grant when it is given."""

    def tell(self, event, *args, **kwargs):
        said = super().tell(event, *args, **kwargs)
        reading = self.arbiter._reading
        for _ in [decision for decision in said if isinstance(decision, Grant)]:
            assert reading is not None
            assert self.now - reading.taken_at <= timedelta(seconds=3)
        return said


class AnyOrder:
    """Plays any order of events and checks after each what must always hold."""

    def __init__(self, total_mib):
        self.bench = Watched(total_mib=total_mib)
        self.jobs = 0

    def play(self, event, value):
        bench = self.bench
        match event:
            case "ask":
                priority, quality, need, cloud = value
                self.jobs += 1
                job = f"j{self.jobs}"
                said = bench.ask(job, priority, quality, need, cloud=cloud)
                ended = Grant | Wait | ToCloud | Refuse
                assert [d for d in said if isinstance(d, ended) and d.job == job]
                self.check(said)
            case "release":
                self.check(bench.tell("release", f"j{value}"))
            case "wait":
                self.check(bench.wait(value, step=max(1, value / 10)))
            case "llm":
                bench.models = {"m": llm(value)} if value else {}
            case "hold":
                name = {0: (), 6144: ("sd15",), 12288: ("sdxl",)}[value]
                bench.comfyui = ComfyUI(held=name, held_mib=value)
            case "freeze":
                bench.frozen = value
            case "card":
                bench.no_card = "" if value else "gone"
            case "oom" if bench.arbiter.lease:
                self.check(bench.tell("oom", bench.drawing))
            case "done" if bench.arbiter.act:
                self.answer(bench.arbiter.act, good=value)

    def answer(self, act, *, good):
        bench, kind = self.bench, act.kind
        names = {"freeing": "free", "unloading": "unload", "reloading": "reload"}
        if good and kind == "freeing":
            bench.empty()
        elif good and kind == "unloading":
            bench.models = {}
        event = {"freeing": "freed", "unloading": "unloaded", "reloading": "reloaded"}[kind]
        if good:
            self.check(bench.tell(event, act.number))
        else:
            self.check(bench.tell(f"{names[kind]}_failed", act.number, "no"))

    def check(self, said):
        bench = self.bench
        reading = bench.arbiter._reading
        for decision in said:
            assert getattr(decision, "reason", "") or isinstance(decision, Measure)
            if isinstance(decision, Grant):
                assert reading is not None
                assert reading.card is not None
                assert reading.comfyui is not None
                held = decision.model in reading.comfyui.held
                inside = reading.comfyui.held_mib if held else 0
                room = reading.card.free_mib + inside - RESERVE
                assert decision.vram_mib <= room, "leases and reserve never exceed the card"
        arbiter = bench.arbiter
        assert arbiter.lease is None or arbiter.act is None
        waiting = [one.ask.job for one in arbiter.waiting]
        assert len(set(waiting)) == len(waiting)
        assert arbiter.lease is None or arbiter.lease.ask.job not in waiting


@given(EVENTS, st.sampled_from([8192, 12288, 16384, 24576]))
def test_in_any_order_of_events_leases_fit_the_card_and_each_request_is_answered(events, total_mib):
    order = AnyOrder(total_mib)
    for event, value in events:
        order.play(event, value)


@given(EVENTS, st.sampled_from([8192, 16384, 24576]))
def test_after_any_order_of_events_a_quiet_card_ends_every_job_and_pays_every_debt(events, total):
    order = AnyOrder(total)
    for event, value in events:
        order.play(event, value)
    bench = order.bench
    bench.frozen, bench.no_card = False, ""
    for _ in range(120):
        if bench.arbiter.act is not None:
            for one_model in bench.arbiter.act.models:
                if bench.arbiter.act.kind == "reloading":
                    bench.models[one_model.model] = llm(1, one_model.model)
            order.answer(bench.arbiter.act, good=True)
        elif bench.arbiter.lease is not None:
            bench.tell("release", bench.drawing)
        order.check(bench.wait(5))
        if bench.arbiter.act is None:  # An act is answered before its deadline.
            bench.now += timedelta(seconds=60)
    assert not bench.arbiter.waiting
    assert bench.arbiter.debt is None


@given(st.integers(0, 24000), st.integers(0, 24000), st.booleans())
def test_nothing_is_granted_without_a_fresh_reading(llm_mib, others_mib, resident):
    bench = Bench(llm(llm_mib / GIB), others_mib=others_mib)
    if resident:
        bench.hold(SDXL)
    bench.look()
    bench.frozen = True
    bench.now += timedelta(seconds=3, milliseconds=1)
    none(bench.ask() + bench.wait(20), Grant)
