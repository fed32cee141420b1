"""Mutants of routing, the books and the breakers: unit tests have to notice.

Each takes one named rule of the design's section 6 out of the real code.
"""

from typing import Final

from tests.simulation.retested import Mutant, mutant

ROUTING: Final = "agent.core.routing"
MONEY: Final = "agent.core.money"
BREAKER: Final = "agent.core.breaker"

_routing = ("test_routing",)
_money = ("test_money",)
_breaker = ("test_breaker",)

MUTANTS: Final[tuple[Mutant, ...]] = (
    mutant(
        "local_only leaks",
        ROUTING,
        _routing,
        "    if facts.is_cloud and request.local_only:  # 2\n",
        "    if False:  # 2\n",
    ),
    mutant(
        "clouds that are off get jobs",
        ROUTING,
        _routing,
        '    if facts.is_cloud and policy.cloud == "off":  # 2\n',
        "    if False:  # 2\n",
    ),
    mutant(
        "a seed that must hold is ignored",
        ROUTING,
        _routing,
        "    if facts.ignores_seed and request.options.seed is not None:  # 3\n",
        "    if False:  # 3\n",
    ),
    mutant(
        "premium not to the cloud first",
        ROUTING,
        _routing,
        "    if request.options.quality is Quality.PREMIUM:\n",
        "    if False:\n",
    ),
    mutant(
        "a style that prefers local ignored",
        ROUTING,
        _routing,
        '    if policy.style == "local":\n        return ""\n',
        "",
    ),
    mutant(
        "a style that prefers the cloud ignored",
        ROUTING,
        _routing,
        '    if policy.style == "cloud":\n',
        "    if False:\n",
    ),
    mutant(
        "clouds before the card for everyone",
        ROUTING,
        _routing,
        "return facts.fallback, facts.is_cloud != cloud_first",
        "return facts.fallback, not facts.is_cloud",
    ),
    mutant(
        "fallbacks first",
        ROUTING,
        _routing,
        "return facts.fallback, facts.is_cloud != cloud_first",
        "return False, facts.is_cloud != cloud_first",
    ),
    mutant(
        "engines in trouble not left out",
        ROUTING,
        _routing,
        "ready = [(facts, found) for facts, found in able if facts.is_ready] or able",
        "ready = able",
    ),
    mutant(
        "an open breaker lets jobs through",
        ROUTING,
        _routing,
        "        return self.up and not self.closed\n",
        "        return self.up\n",
    ),
    mutant(
        "a named model is downgraded",
        ROUTING,
        _routing,
        "    free = options.workflow is None and options.model is None\n",
        "    free = True\n",
    ),
    mutant(
        "not said for whom a fallback stands in",
        ROUTING,
        _routing,
        "    if missing is None:\n        return found\n",
        "    if True:\n        return found\n",
    ),
    mutant(
        "amounts rounded down",
        MONEY,
        _money,
        "    return math.ceil(round(usd * MICRO, 3))\n",
        "    return math.floor(round(usd * MICRO, 3))\n",
    ),
    mutant(
        "held money not counted for the day",
        MONEY,
        _money,
        "books.spent + sum(held.amount for held in books.holds)",
        "books.spent",
    ),
    mutant(
        "held money not counted for the request",
        MONEY,
        _money,
        "return books.requests.get(request, 0) + books.before.get(request, 0) + held",
        "return books.requests.get(request, 0) + books.before.get(request, 0)",
    ),
    mutant(
        "a limit may be passed",
        MONEY,
        _money,
        "        if limit_usd is not None and used + hold.amount > ",
        "        if limit_usd is not None and used > ",
    ),
    mutant(
        "a hold taken twice",
        MONEY,
        _money,
        "    if any(held.id == hold.id for held in books.holds):  # 1\n        return books\n",
        "",
    ),
    mutant(
        "settled without counting",
        MONEY,
        _money,
        "        spent=books.spent + amount,\n",
        "",
    ),
    mutant(
        "settled and still held",
        MONEY,
        _money,
        "    left = tuple(hold for hold in books.holds if hold.id != hold_id)\n",
        "    left = books.holds\n",
    ),
    mutant(
        "an unknown end costs nothing",
        MONEY,
        _money,
        "_ended(books, hold_id, found.amount, found.amount)",
        "_ended(books, hold_id, 0)",
    ),
    mutant(
        "an unknown end is not listed",
        MONEY,
        _money,
        "_ended(books, hold_id, found.amount, found.amount)",
        "_ended(books, hold_id, found.amount)",
    ),
    mutant(
        "a call that was cut off is not listed",
        MONEY,
        _money,
        "micro(usd), micro(doubt_usd))",
        "micro(usd))",
    ),
    mutant(
        "what a lost worker held is given back",
        MONEY,
        _money,
        "        if hold.worker == worker:\n            books = forfeit(books, hold.id, today)\n",
        "        if hold.worker == worker:\n            books = refund(books, hold.id, today)\n",
    ),
    mutant(
        "an error that does not say costs nothing",
        MONEY,
        _money,
        "    return reserved_usd, reserved_usd\n",
        "    return 0.0, 0.0\n",
    ),
    mutant(
        "the day goes back",
        MONEY,
        _money,
        "    if day <= books.day:\n",
        "    if day == books.day:\n",
    ),
    mutant(
        "a new day forgets what is held",
        MONEY,
        _money,
        "before=before, holds=books.holds, ",
        "before=before, ",
    ),
    mutant(
        "a request over midnight begins anew",
        MONEY,
        _money,
        "before=before, holds=books.holds, ",
        "holds=books.holds, ",
    ),
    mutant(
        "a breaker never opens",
        BREAKER,
        _breaker,
        "        if faults < FAULTS_MAX:\n",
        "        if True:\n",
    ),
    mutant(
        "bad requests open a breaker",
        BREAKER,
        _breaker,
        "    if code not in COUNTED:  # 1\n        return ended(breaker, job)\n",
        "",
    ),
    mutant(
        "all jobs try when the time is over",
        BREAKER,
        _breaker,
        "    if taken and trial_until is not None and now < trial_until:\n",
        "    if False:\n",
    ),
    mutant(
        "the pause does not double",
        BREAKER,
        _breaker,
        "min(OPEN_MAX_S, breaker.open_s * 2)",
        "breaker.open_s",
    ),
    mutant(
        "the pause has no end",
        BREAKER,
        _breaker,
        "min(OPEN_MAX_S, breaker.open_s * 2)",
        "breaker.open_s * 2",
    ),
)
