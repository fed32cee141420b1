"""Mutants of the order and of the waiting room: unit tests have to notice.

Each takes one named rule of the design's section 4 out of the real code.
"""

from typing import Final

from tests.simulation.retested import Mutant, mutant

SCHEDULER: Final = "agent.core.scheduler"
ROOM: Final = "agent.core.waiting_room"

_order = ("test_scheduler",)
_room = ("test_waiting_room",)
_night = (*_order, "test_arbiter_order")

MUTANTS: Final[tuple[Mutant, ...]] = (
    # Section 4: the order.
    mutant("critical not first", SCHEDULER, _order, "Priority.CRITICAL:  # 1", "None:  # 1"),
    mutant(
        "plain order without classes",
        SCHEDULER,
        _order,
        "(RANK[one.priority], busy.get(one.requester, 0), one.seq)",
        "(0, busy.get(one.requester, 0), one.seq)",
    ),
    mutant("no start in eight", SCHEDULER, _order, "(least := min(left)) < 0:", "False:"),
    mutant(
        "every start for who is past its bound",
        SCHEDULER,
        _order,
        "    if not starts.is_spent and not may_wait and",
        "    if not may_wait and",
    ),
    mutant(
        "the turn taken although high waits",
        SCHEDULER,
        _order,
        "may_wait = line[0].priority is Priority.HIGH and not starts.is_last",
        "may_wait = False",
    ),
    mutant(
        "the turn never taken while high waits",
        SCHEDULER,
        _order,
        "may_wait = line[0].priority is Priority.HIGH and not starts.is_last",
        "may_wait = line[0].priority is Priority.HIGH",
    ),
    mutant(
        "the turn to the one least past its bound",
        SCHEDULER,
        _order,
        "(least := min(left)) < 0:",
        "(least := max((one for one in left if one < 0), default=0.0)) < 0:",
    ),
    mutant(
        "turns saved up",
        SCHEDULER,
        _order,
        "        if self.is_last:\n            return Starts(last=turn.requester)\n",
        "        if self.is_last:\n"
        "            return self if not self.is_spent else Starts(last=turn.requester)\n",
    ),
    mutant(
        "starts of critical counted",
        SCHEDULER,
        _order,
        "        if turn.priority is Priority.CRITICAL:\n            return Starts(",
        "        if turn.priority is None:\n            return Starts(",
    ),
    mutant(
        "a lower one overtakes whenever it likes",
        SCHEDULER,
        _order,
        "is_last_chance = 0 <= left[place] < line[0].run_s",
        "is_last_chance = True",
    ),
    mutant(
        "a lower one overtakes past its bound",
        SCHEDULER,
        _order,
        "is_last_chance = 0 <= left[place] < line[0].run_s",
        "is_last_chance = left[place] < line[0].run_s",
    ),
    mutant(
        "a higher one loses its bound by it",
        SCHEDULER,
        _order,
        "return is_last_chance and _keep(line[:place], left, line[place].run_s)",
        "return is_last_chance",
    ),
    mutant(
        "only the first overtaken is looked at",
        SCHEDULER,
        _order,
        "        ahead_s += one.run_s\n    return True",
        "        break\n    return True",
    ),
    mutant(
        "within a class it overtakes by its bound",
        SCHEDULER,
        _order,
        "    for place in _heads(line):\n        if place and _must_start",
        "    for place in range(len(line)):\n        if place and _must_start",
    ),
    mutant(
        "fairness ignored",
        SCHEDULER,
        _order,
        "(RANK[one.priority], busy.get(one.requester, 0), one.seq)",
        "(RANK[one.priority], one.seq)",
    ),
    mutant(
        "fairness over classes",
        SCHEDULER,
        _order,
        "(RANK[one.priority], busy.get(one.requester, 0), one.seq)",
        "(busy.get(one.requester, 0), RANK[one.priority], one.seq)",
    ),
    mutant(
        "who started last is forgotten",
        SCHEDULER,
        _order,
        "    if starts.last:\n",
        "    if False:\n",
    ),
    mutant(
        "stored order ignored",
        SCHEDULER,
        _order,
        "(RANK[one.priority], busy.get(one.requester, 0), one.seq)",
        "(RANK[one.priority], busy.get(one.requester, 0), -one.seq)",
    ),
    mutant(
        "loaded model ignored",
        SCHEDULER,
        _order,
        "    if line[0].model in held or not held:\n        return None\n",
        "    return None\n",
    ),
    mutant(
        "loaded model preferred past the bounds",
        SCHEDULER,
        _order,
        "            return (place, 6, place) if keeps else None\n",
        "            return place, 6, place\n",
    ),
    mutant(
        "loaded model preferred over fairness",
        SCHEDULER,
        _order,
        "        if one.priority is not line[0].priority or not peers:\n",
        "        if one.priority is not line[0].priority:\n",
    ),
    mutant(
        "loaded model preferred over a class",
        SCHEDULER,
        _order,
        "        if one.priority is not line[0].priority or not peers:\n",
        "        if not peers:\n",
    ),
    mutant(
        "low starts at any hour",
        SCHEDULER,
        _order,
        " and not rules.night.is_open(now)\n",
        " and False\n",
    ),
    mutant(
        "night not past midnight",
        SCHEDULER,
        _order,
        "return hour >= self.from_hour or hour < self.to_hour",
        "return hour >= self.from_hour",
    ),
    mutant(
        "the bound of low counts by day",
        SCHEDULER,
        _night,
        "    return max(one.stored_at, rules.night.opened(now))\n",
        "    return one.stored_at\n",
    ),
    # Section 4: the waiting room.
    mutant(
        "no place kept for the heads",
        ROOM,
        _room,
        "(kept if count[lane] else 0)",
        "0",
    ),
    mutant(
        "a full room pulls nobody", ROOM, _room, "    if behind is not None:\n", "    if False:\n"
    ),
    mutant(
        "the highest goes back",
        ROOM,
        _room,
        "return max(crowded or held,",
        "return min(crowded or held,",
    ),
    mutant(
        "the head of a lane goes back",
        ROOM,
        _room,
        "return max(crowded or held,",
        "return max(held,",
    ),
    mutant(
        "lanes pulled from below",
        ROOM,
        _room,
        "    for lane in LANES:\n        rule,",
        "    for lane in reversed(LANES):\n        rule,",
    ),
    mutant("given back in any order", ROOM, _room, "sorted(held, key=lambda one: one.seq)", "held"),
    mutant("an idle worker gets who is about to start", ROOM, _room, " else 1\n", " else 0\n"),
    mutant("an idle worker never gets the next", ROOM, _room, "first = 0 if", "first = 1 if"),
    mutant("an idle worker gets all", ROOM, _room, "able[first::2]", "able"),
    mutant(
        "a lost card gives the cloud's jobs back",
        ROOM,
        _room,
        '[one for one in held if one.slot == "gpu"]',
        "held",
    ),
    mutant(
        "pulled without a room or a slot",
        ROOM,
        _room,
        "    if not total and any(free.values()):\n",
        "    if not total:\n",
    ),
)
