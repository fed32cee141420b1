"""Streams, consumers and the state bucket as the design wants them.

Idempotent: creates what is missing, changes what may be changed, deletes nothing, and says by
hand what the server refuses to change.
"""

from typing import Any, Final

import msgspec

from agent.bus.connection import ApiError, Bus
from contracts import subjects
from contracts.codec import REQUEST_SIZE_MAX_BYTES

_S: Final = 1_000_000_000
_DAY: Final = 86_400 * _S
REPLICAS_LATER: Final = 10126
"""A consumer may not have more replicas than its stream has yet: a stream that gets more takes some
ten seconds for it. Source: nats-server 2.15.1, tried with three servers."""
ENDS_ACK_WAIT_S: Final = 60
"""How long a gateway that was killed keeps the ends it was handed from the others."""

Config = dict[str, Any]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a site wants. Units: `ack_wait_s` in seconds; `replicas` 1 embedded, 3 in a cluster."""

    replicas: int = 1
    ack_wait_s: float = 30.0
    requests_max: int = 20_000
    events_max_bytes: int = 2 * 1024**3


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One setting that is not as designed; `found` is None where the thing is missing."""

    asset: str
    setting: str
    wanted: str
    found: str | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What provisioning did, in words, and what is left to do by hand."""

    done: tuple[str, ...]
    by_hand: tuple[str, ...]


def streams(plan: Plan) -> tuple[Config, ...]:
    """Return the stream settings, in JetStream's own field names and units (ns, bytes)."""
    shared: Config = {"storage": "file", "num_replicas": plan.replicas, "allow_direct": True}
    progress: Config = {
        "name": subjects.STREAM_PROGRESS,
        "subjects": list(subjects.PROGRESS_SUBJECTS),
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_age": 900 * _S,
        "max_bytes": 32 * 1024**2,
        **shared,
    }
    if plan.replicas == 1:
        # Acknowledged before it is written: fine for what the next step replaces. Refused on
        # replicated streams (nats-server 2.15).
        progress["persist_mode"] = "async"
    requests: Config = {
        "name": subjects.STREAM_REQUESTS,
        "subjects": list(subjects.REQUEST_SUBJECTS),
        "retention": "workqueue",
        "discard": "new",
        "max_msgs": plan.requests_max,
        "max_bytes": 256 * 1024**2,
        "max_msg_size": REQUEST_SIZE_MAX_BYTES,
        "max_msgs_per_subject": 1,
        "discard_new_per_subject": True,
        "max_age": 0,
        "duplicate_window": 120 * _S,
        "republish": {
            "src": subjects.REQUESTS_ALL,
            "dest": subjects.QUEUED_ALL,
            "headers_only": True,
        },
        **shared,
    }
    events: Config = {
        "name": subjects.STREAM_EVENTS,
        "subjects": list(subjects.EVENT_STREAM_SUBJECTS),
        "retention": "limits",
        "discard": "new",
        "max_age": 30 * _DAY,
        "max_bytes": plan.events_max_bytes,
        "republish": {"src": subjects.CHAIN_ALL, "dest": subjects.EVENTS_ALL},
        **shared,
    }
    state: Config = {
        "name": f"KV_{subjects.BUCKET_STATE}",
        "subjects": [f"$KV.{subjects.BUCKET_STATE}.>"],
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": 64 * 1024**2,
        "allow_rollup_hdrs": False,  # A rollup purges, and nobody purges.
        "deny_delete": True,
        "allow_msg_ttl": True,  # A webhook that was delivered ends by itself: nobody purges.
        **shared,
    }
    return requests, events, progress, state


def consumers(plan: Plan) -> tuple[Config, ...]:
    """Return the lanes' settings. Order: made before anything that could consume a lane."""
    return tuple(
        {
            "durable_name": subjects.durable(priority),
            "filter_subject": subjects.lane_filter(priority),
            "ack_policy": "explicit",
            "ack_wait": int(plan.ack_wait_s * _S),
            "max_ack_pending": -1,
            "max_deliver": 1000,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "num_replicas": plan.replicas,
        }
        for priority in subjects.LANES
    )


def ends_consumer(plan: Plan) -> Config:
    """Return the settings of the consumer that hands each end of a chain to one gateway.

    From the first message on: one made anew asks the webhooks themselves what is still to be told.
    A try lasts 15 s at most; one that failed waits unacknowledged for its next, up to a day.
    """
    return {
        "durable_name": subjects.DURABLE_ENDS,
        "filter_subjects": list(subjects.ENDS),
        "ack_policy": "explicit",
        "ack_wait": int(ENDS_ACK_WAIT_S * _S),
        "max_ack_pending": -1,
        "max_deliver": -1,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "num_replicas": plan.replicas,
    }


def all_consumers(plan: Plan) -> tuple[tuple[str, Config], ...]:
    """Return the settings of every consumer, each with its stream."""
    of_lanes = tuple((subjects.STREAM_REQUESTS, config) for config in consumers(plan))
    return (*of_lanes, (subjects.STREAM_EVENTS, ends_consumer(plan)))


async def provision(bus: Bus, plan: Plan) -> Report:
    """Make the server as `plan` wants it. Raises: BusError if it cannot be asked."""
    done: list[str] = []
    by_hand: list[str] = []
    for config in streams(plan):
        found = await _find(bus, f"STREAM.INFO.{config['name']}")
        verb = "CREATE" if found is None else "UPDATE"
        if found is not None and not _different(config, found):
            continue
        await _make(bus, f"STREAM.{verb}.{config['name']}", config, found, (done, by_hand))
    for stream, config in all_consumers(plan):
        name = f"{stream}.{config['durable_name']}"
        found = await _find(bus, f"CONSUMER.INFO.{name}")
        if found is not None and not _different(config, found):
            continue
        body: Config = {
            "stream_name": stream,
            "config": config if found is None else {**found, **config},
        }
        if found is not None:
            body["action"] = "update"
        await _make(bus, f"CONSUMER.DURABLE.CREATE.{name}", body, found, (done, by_hand))
    return Report(done=tuple(done), by_hand=tuple(by_hand))


async def differences(bus: Bus, plan: Plan) -> list[Difference]:
    """Compare the server with the design and change nothing. Raises: BusError."""
    result: list[Difference] = []
    wanted = [(f"stream {c['name']}", f"STREAM.INFO.{c['name']}", c) for c in streams(plan)]
    wanted += [
        (
            f"consumer {c['durable_name']}",
            f"CONSUMER.INFO.{stream}.{c['durable_name']}",
            c,
        )
        for stream, c in all_consumers(plan)
    ]
    for asset, verb, config in wanted:
        found = await _find(bus, verb)
        if found is None:
            result.append(Difference(asset=asset, setting="exists", wanted="yes", found=None))
            continue
        result += [
            Difference(asset=asset, setting=key, wanted=str(config[key]), found=str(found.get(key)))
            for key in _different(config, found)
        ]
    return result


def _different(wanted: Config, found: Config) -> list[str]:
    """Return the names of settings that differ; what the server omits is its zero value."""
    return [key for key, value in wanted.items() if (found.get(key) or None) != (value or None)]


async def _find(bus: Bus, verb: str) -> Config | None:
    try:
        data = await bus.api(verb)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    config: Config = msgspec.json.decode(data)["config"]
    return config


async def _make(
    bus: Bus, verb: str, body: Config, found: Config | None, result: tuple[list[str], list[str]]
) -> None:
    """Create or update one asset; a refused change becomes a step for a person."""
    done, by_hand = result
    name = verb.rsplit(".", maxsplit=1)[-1]
    full = body if found is None or "config" in body else {**found, **body}
    try:
        await bus.api(verb, full)
    except ApiError as error:
        if found is None:
            raise
        if error.err_code == REPLICAS_LATER:
            by_hand.append(
                f"{name}: its stream is still being copied to more servers; run `mmg provision`"
                " again in a minute"
            )
            return
        keys = ", ".join(_different(body.get("config", body), found))
        by_hand.append(
            f"{name}: the server refuses to change {keys} ({error.description}). Stop the workers,"
            f" let the lanes run empty, delete it with the nats command line, run `mmg provision`"
        )
        return
    done.append(f"{name}: {'created' if found is None else 'changed'}")
