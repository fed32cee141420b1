"""Mutants of the protocol: each takes one guard out of the real code; the search has to notice.

A guard that can be taken out unseen is either not needed or not proven.
"""

from typing import Final

import msgspec

from tests.simulation.configs import QUICK
from tests.simulation.protocol import search
from tests.simulation.search import Found
from tests.simulation.source import CHAIN, Edit, load

JOB: Final = "agent.core.job"
LINKS: Final = "agent.core.links"
CHOOSING: Final = "agent.core.choosing"
STORY: Final = "agent.core.story"
CANCEL: Final = "agent.core.cancel"


class Mutant(msgspec.Struct, frozen=True):
    """One guard less: where, what stands there, what it becomes, and the worlds to search."""

    name: str
    module: str
    old: str
    new: str
    worlds: tuple[str, ...]


_STARTS: Final = """        outcome = yield from self._start()
        if not isinstance(outcome, Superseded):
            return outcome
"""
_END: Final = """        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Stored):
            self.place = place_after(outcome.seq, link)
            self.closed = True
            yield from self._settle(kind_of(link))
"""
_HEAD_OPEN: Final = """            case Superseded(head=head) if (
                head.link.request_seq == self.stored.seq and not is_terminal(head.link)
            ):
                return  # A worker that can read it is carrying it.
"""
_RETRYING: Final = """        if not isinstance(outcome, Stored):
            return (yield from self._unless_lost(outcome))
        self.place = place_after(outcome.seq, pause)
"""
_RELEASED: Final = """        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Stored):
            self.ended = kind_of(link)
            yield from self._ask(HandBack())
"""
_NOT_RELEASED: Final = """        outcome: Event = Stored(0)
        if isinstance(outcome, Stored):
            self.ended = kind_of(link)
            yield from self._ask(HandBack())
"""
_ID: Final = 'headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)'
_TERMINAL_AT_START: Final = """        if is_terminal(head.link):
            yield from self._settle("already ended")
            return None
"""
_LOST: Final = "if self.history.lost() >= TRIES_MAX:"

MUTANTS: Final = (
    Mutant("append expects nothing", CHAIN, _ID, "pass", ("frozen", "mixed")),
    Mutant(
        "own id not recognised",
        CHAIN,
        "if head.link.id == link.id:",
        "if False:",
        ("crashes",),
    ),
    Mutant(
        "no answer taken for stored",
        CHAIN,
        "            return Unknown(reason)",
        "            return Stored(expected + 10)",
        ("crashes",),
    ),
    Mutant(
        "no answer taken for refused",
        CHAIN,
        "            return Unknown(reason)",
        "            head = await read_head(bus, who)\n"
        "            return Superseded(head) if head is not None else Unknown(reason)",
        ("crashes",),
    ),
    Mutant(
        "refusal taken for stored",
        CHAIN,
        "        if not error.stale:\n            raise\n",
        "        return Stored(expected + 10)\n",
        ("frozen",),
    ),
    Mutant(
        "ids shared between writers",
        LINKS,
        "uuid5(self.nonce, ",
        "uuid5(UUID(int=7), ",
        ("frozen", "mixed"),
    ),
    Mutant(
        "attempt not counted",
        LINKS,
        "attempt = self.place.attempt + 1",
        "attempt = max(1, self.place.attempt)",
        ("crashes",),
    ),
    Mutant(
        "lost workers not counted",
        JOB,
        "    if taken_over and running is not None:\n        faults.append(_lost(running, paid))\n",
        "",
        ("lost-workers",),
    ),
    Mutant(
        "progress forgotten at takeover",
        STORY,
        "        self.percent = head.link.progress_percent\n",
        "",
        ("no-slot",),
    ),
    Mutant("lost workers not limited", STORY, _LOST, "if False:", ("lost-workers",)),
    Mutant(
        "tries not limited",
        CHOOSING,
        "if history.tries(one.engine) < TRIES_MAX\n        and not",
        "if not",
        ("tries",),
    ),
    Mutant(
        "engine that gave up tried again",
        CHOOSING,
        "        and not _gave_up(history, one)\n",
        "",
        ("tries",),
    ),
    Mutant(
        "history not folded at takeover",
        STORY,
        "self.history = fold(links.links, taken_over=True, paid=paid)",
        "pass",
        ("lost-workers",),
    ),
    Mutant(
        "ack before append",
        STORY,
        _END,
        "        yield from self._settle(kind_of(link))\n" + _END,
        ("crashes",),
    ),
    Mutant(
        "ack when superseded by an open head",
        STORY,
        "            if is_terminal(outcome.head.link):\n",
        "            if True:\n",
        ("frozen",),
    ),
    Mutant(
        "terminal head not honoured at start",
        STORY,
        _TERMINAL_AT_START,
        "",
        ("crashes", "mixed"),
    ),
    Mutant(
        "ended chain not acked away",
        STORY,
        _TERMINAL_AT_START,
        "        if is_terminal(head.link):\n            return None\n",
        ("crashes",),
    ),
    Mutant(
        "settle on unknown",
        STORY,
        "        return outcome if isinstance(outcome, Superseded) else None\n",
        "        if not isinstance(outcome, Superseded):\n"
        "            yield from self._settle('unknown')\n"
        "            return None\n"
        "        return outcome\n",
        ("crashes",),
    ),
    Mutant(
        "discard on unknown",
        STORY,
        "        if refused is not None:\n            yield from self._ask(Discard(outputs))\n",
        "        if self.ended != 'completed':\n"
        "            yield from self._ask(Discard(outputs))\n",
        ("crashes",),
    ),
    Mutant(
        "files of a loser kept",
        STORY,
        "            yield from self._ask(Discard(outputs))\n",
        "",
        ("frozen",),
    ),
    Mutant(
        "polish removes the winner's files",
        STORY,
        "yield from self._ask(Polish(outputs, self.place.attempt))",
        "yield from self._ask(Polish((), self.place.attempt))",
        ("crashes",),
    ),
    Mutant(
        "completed before its files",
        STORY,
        "kept = yield from self._ask(Keep(self.place.attempt))",
        "kept = Kept((__import__('contracts.events').events.Output(url='', file_path='1',"
        " thumbnail_url='', file_size_bytes=1, width=1, height=1, format='', sha256=''),))",
        ("crashes",),
    ),
    Mutant(
        "retrying link missing",
        STORY,
        "outcome = yield from self._ask(Append(pause, self.place.seq))",
        "outcome = Stored(self.place.seq)",
        ("crashes",),
    ),
    Mutant(
        "retrying not checked",
        STORY,
        _RETRYING,
        "        self.place = place_after(getattr(outcome, 'seq', self.place.seq), pause)\n",
        ("crashes", "mixed"),
    ),
    Mutant(
        "slot kept while waiting",
        STORY,
        "        drawn = yield from self._ask(Draw(started, self.earlier))\n"
        "        yield from self._ask(FreeSlot())\n",
        "        drawn = yield from self._ask(Draw(started, self.earlier))\n",
        ("crashes",),
    ),
    Mutant(
        "released without hand back",
        STORY,
        "            yield from self._ask(HandBack())\n        else:\n",
        "            pass\n        else:\n",
        ("stop",),
    ),
    Mutant(
        "hand back of what has begun without released",
        STORY,
        'event.why == "stop" and self.place.n == 0',
        'event.why == "stop"',
        ("stop",),
    ),
    Mutant("hand back without released", STORY, _RELEASED, _NOT_RELEASED, ("stop",)),
    Mutant(
        "card too small asked again",
        CHOOSING,
        "passed[one.engine].why in NEVER",
        "False",
        ("no-slot",),
    ),
    Mutant(
        "duplicates not asked about",
        STORY,
        "            if answer.waits:\n",
        "            if True:\n",
        ("second-request",),
    ),
    Mutant(
        "unreadable settled under a reader",
        STORY,
        _HEAD_OPEN,
        "",
        ("one-cannot-read",),
    ),
    Mutant(
        "deadline after the start",
        STORY,
        "if self.place.n == 0 and deadline_s is not None and self.stored.is_late(self.now):",
        "if deadline_s is not None and self.stored.is_late(self.now):",
        ("deadline",),
    ),
    Mutant(
        "cancel stops at the first refusal",
        CANCEL,
        "                self.answer = link\n                return\n",
        "                self.answer = link\n            return\n",
        ("mixed",),
    ),
    Mutant(
        "cancel appends after an end",
        CANCEL,
        "            case Superseded(head=head) if is_terminal(head.link):\n"
        "                self.answer = self._ended(head)\n",
        "",
        ("mixed",),
    ),
    Mutant(
        "cancel takes no answer for done",
        CANCEL,
        "            if isinstance(told.event, Stored):\n",
        "            if isinstance(told.event, Stored | Unknown):\n",
        ("mixed",),
    ),
    Mutant(
        "cancel takes any end for its own",
        CANCEL,
        "        if isinstance(head.link, Cancelled):\n",
        "        if True:\n",
        ("mixed",),
    ),
    Mutant(
        "cancel does not look at the chain again",
        CANCEL,
        "        if isinstance(told.event, NotFound):\n            told = yield ReadHead()\n",
        "        if isinstance(told.event, NotFound):\n"
        "            told = Told(NoChain(), told.now)\n",
        ("mixed",),
    ),
    Mutant(
        "cancel does not look into the lanes",
        CANCEL,
        "        told = yield FindRequest()\n",
        "        told = Told(Found(StoredRequest(who=self.who, priority=Priority.LOW, seq=1,"
        " stored_at=self.now, request=None)), self.now)\n",
        ("cancel-early",),
    ),
)


def hunt(mutant: Mutant) -> Found:
    """Search the mutant's worlds until one of them finds it; the last search if none does."""
    code = load((Edit(mutant.module, mutant.old, mutant.new),))
    worlds = {config.name: config for config in QUICK}
    found = None
    for name in mutant.worlds:
        found = search(worlds[name], code)
        if found.rule is not None:
            break
    assert found is not None, "every mutant names a world"
    return found
