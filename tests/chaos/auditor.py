"""The auditor: reads the streams and the disk afterwards and says what does not hold.

It shares no line with what it judges: only the standard library and the NATS client, so a mistake
in our own reading or naming cannot hide a mistake in our own writing.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

ENDS = frozenset({"completed", "failed", "expired", "cancelled"})
BACK_POINTER = "Nats-Expected-Last-Subject-Sequence"
FOLLOWS: dict[str, frozenset[str]] = {
    "": frozenset({"started", "failed", "expired", "cancelled"}),
    "started": frozenset(
        {"started", "retrying", "preempted", "released", "completed", "failed", "cancelled"}
    ),
    "retrying": frozenset({"started", "released", "failed", "cancelled"}),
    "preempted": frozenset({"started", "failed", "cancelled"}),
    "released": frozenset({"started", "failed", "cancelled"}),
    **dict.fromkeys(ENDS, frozenset()),
}
"""Which kind of link may follow which; the key "" is the empty chain."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
ANSWER_S = 5.0


@dataclass(frozen=True)
class Link:
    """One stored link: its body, where and when it is stored, and what its writer expected."""

    seq: int
    who: str
    kind: str
    stored_at: str
    expected: int | None
    body: dict[str, Any]


@dataclass(frozen=True)
class Violation:
    """One promise that does not hold, for one request ("" for none in particular)."""

    rule: str
    who: str
    what: str


@dataclass(frozen=True)
class CancelAnswer:
    """What somebody answered to a cancel that was asked after the request was acknowledged."""

    who: str
    kind: str
    """`cancelled`, `already_completed`, `not_found`."""
    link_id: str = ""


@dataclass
class Evidence:
    """What the outside knows: who was promised something, and who heard what."""

    accepted: list[str] = field(default_factory=list)
    """`<agent>.<request_id>` of every request whose PubAck arrived."""
    cancels: list[CancelAnswer] = field(default_factory=list)
    heard: list[tuple[str, str]] | None = None
    """Request and link id of every end heard on the reply subjects; None: not to be judged."""
    killed: list[str] = field(default_factory=list)
    """Workers that were killed, or stopped without an answer: what they left is for the prune."""

    @classmethod
    def read(cls, path: Path) -> "Evidence":
        """Read what a trial wrote down."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            accepted=kept["accepted"],
            cancels=[CancelAnswer(**answer) for answer in kept["cancels"]],
            heard=None if kept["heard"] is None else [(w, i) for w, i in kept["heard"]],
            killed=kept["killed"],
        )

    def write(self, path: Path) -> None:
        """Write down what a later audit needs."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


@dataclass
class Audit:
    """The verdict. `left` counts files of a killed worker that no chain names: for the prune."""

    chains: dict[str, list[Link]]
    violations: list[Violation] = field(default_factory=list)
    left: int = 0
    waiting: int = 0

    def add(self, rule: str, who: str, what: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(rule, who, what))


# --- reading -------------------------------------------------------------------------------------


async def _api(nc: Client, verb: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
    body = b"" if query is None else json.dumps(query).encode()
    answer = await nc.request(f"$JS.API.{verb}", body, timeout=ANSWER_S)
    result: dict[str, Any] = json.loads(answer.data)
    return result


async def read_chains(nc: Client) -> dict[str, list[Link]]:
    """Read every link from the leader of the stream, in order, by request."""
    chains: dict[str, list[Link]] = {}
    seq = 1
    while True:
        query = {"seq": seq, "next_by_subj": "mmg.chain.>"}
        answer = await _api(nc, "STREAM.MSG.GET.MMG_EVENTS", query)
        if "message" not in answer:
            if answer.get("error", {}).get("code") != 404:
                raise RuntimeError(f"the events cannot be read: {answer}")
            return chains
        message = answer["message"]
        seq = message["seq"] + 1
        link = _link(message)
        chains.setdefault(link.who, []).append(link)


def _link(message: dict[str, Any]) -> Link:
    _, _, agent, request_id, kind = message["subject"].split(".")
    headers = base64.b64decode(message.get("hdrs", "")).decode(errors="replace")
    expected = None
    for line in headers.splitlines():
        name, _, value = line.partition(":")
        if name == BACK_POINTER:
            expected = int(value)
    return Link(
        seq=message["seq"],
        who=f"{agent}.{request_id}",
        kind=kind,
        stored_at=message["time"],
        expected=expected,
        body=json.loads(base64.b64decode(message.get("data", ""))),
    )


async def read_waiting(nc: Client) -> dict[str, int]:
    """Return the subjects of requests that still lie in a lane."""
    answer = await _api(nc, "STREAM.INFO.MMG_REQUESTS", {"subjects_filter": ">"})
    return dict(answer["state"].get("subjects") or {})


# --- judging -------------------------------------------------------------------------------------


async def audit(nc: Client, assets: Path, evidence: Evidence) -> Audit:
    """Read everything and judge it."""
    result = Audit(await read_chains(nc))
    waiting = await read_waiting(nc)
    result.waiting = len(waiting)
    for subject in waiting:
        result.add("lane_not_empty", ".".join(subject.split(".")[3:]), f"{subject} still waits")
    judge_acceptance(result, evidence)
    for who, links in result.chains.items():
        judge_chain(result, who, links)
    judge_disk(result, assets, set(evidence.killed))
    judge_cancels(result, evidence.cancels)
    judge_heard(result, evidence.heard)
    return result


def judge_acceptance(result: Audit, evidence: Evidence) -> None:
    """Every acknowledged request has an end."""
    for who in evidence.accepted:
        links = result.chains.get(who, [])
        if not any(link.kind in ENDS for link in links):
            last = links[-1].kind if links else "nothing"
            result.add("lost", who, f"acknowledged, and its chain ends with {last}")


def judge_chain(result: Audit, who: str, links: list[Link]) -> None:
    """Judge one chain link by link."""
    ends = [link for link in links if link.kind in ENDS]
    if len(ends) > 1:
        result.add("answered_twice", who, f"ends: {[link.kind for link in ends]}")
    if ends and links[-1] is not ends[0]:
        result.add("after_the_end", who, f"{links[-1].kind} follows {ends[0].kind}")
    _judge_first(result, who, links[0])
    ids = Counter(link.body.get("id") for link in links)
    if max(ids.values()) > 1:
        result.add("id_twice", who, f"{ids.most_common(1)[0]}")
    for place, link in enumerate(links, start=1):
        before = links[place - 2] if place > 1 else None
        _judge_link(result, place, link, before)


def _judge_first(result: Audit, who: str, first: Link) -> None:
    body = first.body
    unreadable = body.get("request", "") is None and ("raw_bytes" in body or first.kind != "failed")
    if not isinstance(body.get("request"), dict) and not unreadable:
        result.add("no_origin", who, "the first link carries neither request nor raw_bytes")
    if not isinstance(body.get("request_seq"), int) or not body.get("requested_at"):
        result.add("no_origin", who, "the first link lacks request_seq or requested_at")


def _judge_link(result: Audit, place: int, link: Link, before: Link | None) -> None:
    who, body = link.who, link.body
    if body.get("n") != place:
        result.add("numbering", who, f"link {place} says n = {body.get('n')}")
    if body.get("kind") != link.kind:
        result.add("numbering", who, f"{link.kind} in the subject, {body.get('kind')} in the body")
    if who != f"{str(body.get('requester')).replace('.', '-')}.{body.get('request_id')}":
        result.add("identity", who, f"link {place} names {body.get('request_id')}")
    expected = before.seq if before is not None else 0
    if link.expected != expected:
        result.add("back_pointer", who, f"link {place} expected {link.expected}, not {expected}")
    if link.kind not in FOLLOWS[before.kind if before is not None else ""]:
        result.add("succession", who, f"{link.kind} after {before.kind if before else 'nothing'}")
    if before is None:
        return
    attempt = before.body["attempt"] + (link.kind == "started")
    if body["attempt"] != attempt:
        result.add("attempt", who, f"link {place} is attempt {body['attempt']}, not {attempt}")
    if body["request_seq"] != before.body["request_seq"]:
        result.add("identity", who, f"link {place} belongs to another stored request")
    if link.kind != "started" and body["progress_percent"] < before.body["progress_percent"]:
        result.add("progress", who, f"link {place} goes back to {body['progress_percent']} %")


def judge_disk(result: Audit, assets: Path, killed: set[str]) -> None:
    """Every completed request has its files, whole; nothing else lies there."""
    named: dict[Path, str] = {}
    for who, links in result.chains.items():
        for link in links:
            for output in link.body.get("outputs", ()) if link.kind == "completed" else ():
                _judge_picture(result, who, output)
                path = Path(output["file_path"])
                stem = path.name.removesuffix(path.suffix)
                for name in (path.name, f"{stem}.json", f"{stem}.thumb.webp"):
                    named[path.with_name(name)] = who
                if not path.with_name(f"{stem}.json").is_file():
                    result.add("no_record", who, f"{stem}.json is missing")
    for path in sorted(assets.rglob("*")):
        if not path.is_file() or path in named:
            continue
        who = ".".join(path.name.lstrip(".").split(".")[:2])
        if path.name.endswith(".tmp"):
            result.add("temporary", who, f"{path.name} was left behind")
            continue
        links = result.chains.get(who, [])
        workers = {str(link.body["worker"]) for link in links if link.kind == "started"}
        if workers & killed:
            result.left += 1
        else:
            result.add("orphan", who, f"{path.name} is named by no completed chain")


def _judge_picture(result: Audit, who: str, output: dict[str, Any]) -> None:
    path = Path(output["file_path"])
    try:
        content = path.read_bytes()
    except OSError as error:
        result.add("no_file", who, f"{path.name}: {error.strerror}")
        return
    if not content.startswith(PNG_SIGNATURE) or not content.endswith(PNG_END):
        result.add("broken_file", who, f"{path.name} is no whole PNG")
    if len(content) != output["file_size_bytes"]:
        result.add("broken_file", who, f"{path.name} has {len(content)} bytes")
    if hashlib.sha256(content).hexdigest() != output["sha256"]:
        result.add("broken_file", who, f"{path.name} has another content than the chain says")


def judge_cancels(result: Audit, answers: list[CancelAnswer]) -> None:
    """What was answered to a cancel is what the chain says."""
    for answer in answers:
        ends = [li for li in result.chains.get(answer.who, []) if li.kind in ENDS]
        kinds = [link.kind for link in ends]
        if answer.kind == "cancelled":
            agrees = any(li.kind == "cancelled" and li.body["id"] == answer.link_id for li in ends)
        elif answer.kind == "already_completed":
            agrees = bool(ends) and "cancelled" not in kinds
        else:
            agrees = False  # It had been acknowledged: nobody may say that it is not known.
        if not agrees:
            result.add("cancel_untrue", answer.who, f"answered {answer.kind}, ended {kinds}")


def judge_heard(result: Audit, heard: list[tuple[str, str]] | None) -> None:
    """A subscriber that was always there heard each end at most once, and only stored ones."""
    if heard is None:
        return
    stored = {
        (who, li.body["id"])
        for who, links in result.chains.items()
        for li in links
        if li.kind in ENDS
    }
    times = Counter(who for who, _ in heard)
    for who, count in times.items():
        if count > 1:
            result.add("heard_twice", who, f"an end was heard {count} times")
    for who, link_id in heard:
        if (who, link_id) not in stored:
            result.add("heard_unstored", who, f"{link_id} was heard and is not in the stream")


def shown(audit_: Audit) -> str:
    """Return the violations with their chains: one JSON object a line for each request."""
    by_request: dict[str, list[str]] = {}
    for found in audit_.violations:
        by_request.setdefault(found.who, []).append(f"{found.rule}: {found.what}")
    lines = []
    for who, violations in by_request.items():
        chain = [
            {"seq": li.seq, "stored_at": li.stored_at, "expected": li.expected, **li.body}
            for li in audit_.chains.get(who, [])
        ]
        lines.append(json.dumps({"who": who, "violations": violations, "chain": chain}))
    return "\n".join(lines)


async def _main(url: str, folder: Path) -> int:
    nc = await nats.connect(url)
    try:
        evidence = Evidence.read(folder / "evidence.json")
        result = await audit(nc, folder / "generated-assets", evidence)
    finally:
        await nc.close()
    if result.violations:
        sys.stdout.write(shown(result) + "\n")
    sys.stdout.write(
        f"{len(result.chains)} chains, {len(result.violations)} violations,"
        f" {result.left} files for the prune\n"
    )
    return 1 if result.violations else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Audit the folder a trial has left behind.")
    parser.add_argument("url", help="a nats-server on the trial's data")
    parser.add_argument("folder", type=Path, help="the trial's folder, with evidence.json")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_main(arguments.url, arguments.folder.resolve())))
