"""Mutants of preemption, the card, the cloud and the outlook: unit tests have to notice.

Each takes one named rule of the design's sections 4 to 6 out of the real code.
"""

from typing import Final

from tests.simulation.retested import Mutant, mutant

PREEMPTION: Final = "agent.core.preemption"
LINE: Final = "agent.core.line"
ADMISSION: Final = "agent.core.admission"
TENDING: Final = "agent.core.tending"
ARBITER: Final = "agent.core.arbiter"
ACTS: Final = "agent.core.acts"
OUTLOOK: Final = "agent.core.outlook"

_card = (
    "test_arbiter_order",
    "test_arbiter_waits",
    "test_arbiter_slow",
    "test_arbiter_debt",
    "test_arbiter",
)

MUTANTS: Final[tuple[Mutant, ...]] = (
    # Section 4: preemption.
    mutant(
        "high preempts",
        PREEMPTION,
        _card,
        "if first.priority is not Priority.CRITICAL or",
        "if first.priority not in (Priority.CRITICAL, Priority.HIGH) or",
    ),
    mutant(
        "high is preempted",
        PREEMPTION,
        _card,
        "PREEMPTIBLE: Final = (Priority.MEDIUM, Priority.LOW)",
        "PREEMPTIBLE: Final = (Priority.HIGH, Priority.MEDIUM, Priority.LOW)",
    ),
    mutant(
        "nearly done is preempted",
        PREEMPTION,
        _card,
        "    if rest <= after_s:  # 2",
        "    if False:  # 2",
    ),
    mutant(
        "preempted more than twice",
        PREEMPTION,
        _card,
        "drawing.preempted >= PREEMPTED_MAX or",
        "",
    ),
    mutant("preempted twice at once", PREEMPTION, _card, " or lease.preempted_by:  # 3", ":  # 3"),
    mutant(
        "a run that hangs is never preempted",
        PREEMPTION,
        _card,
        "    return abs(lease.ask.run_s - ran_s(lease, now))\n",
        "    return max(0.0, lease.ask.run_s - ran_s(lease, now))\n",
    ),
    mutant("preempted in vain", LINE, _card, " and self._could_start(ask, now)", ""),
    mutant(
        "critical that starves others not told",
        LINE,
        _card,
        '            said.append(Alert(what="critical_starves", reason=reason))\n',
        "",
    ),
    # Sections 5 and 6: the cloud and the card.
    mutant(
        "critical goes to the cloud for a moment's wait",
        ADMISSION,
        _card,
        "wait_s <= at.settings.preempt_after_s:",
        "False:",
    ),
    mutant(
        "cloud although the bound can be kept",
        ADMISSION,
        _card,
        "    if left_s(ask, at.now, at.settings.rules) >= wait_s or",
        "    if",
    ),
    mutant("cloud although it is busier", ADMISSION, _card, " or wait_s <= at.cloud_s:", ":"),
    mutant(
        "cloud although it is forbidden",
        ADMISSION,
        _card,
        "return Away(reason=reason) if ask.cloud else None",
        "return Away(reason=reason)",
    ),
    mutant(
        "medium and low leave an idle card",
        ADMISSION,
        _card,
        "    if case.ask.priority in LOWER and memory_s < inf:\n",
        "    if False:\n",
    ),
    mutant(
        "jobs sent to the cloud not counted",
        ARBITER,
        _card,
        "                self._take_cloud(now)\n",
        "",
    ),
    mutant(
        "every unload of medium and low at once",
        ARBITER,
        _card,
        "            self._lower_again = after(now, LOWER_S)\n",
        "            pass\n",
    ),
    mutant(
        "a refused unload counts for medium and low",
        ARBITER,
        _card,
        "                self._lower_again = self._lower_before\n",
        "                pass\n",
    ),
    mutant(
        "high unloads although somebody is ahead",
        ADMISSION,
        _card,
        "if ask.priority is Priority.HIGH and at.is_first:",
        "if ask.priority is Priority.HIGH:",
    ),
    mutant(
        "downgrade_first ignored",
        ADMISSION,
        _card,
        "    if at.settings.downgrade_first:\n",
        "    if False:\n",
    ),
    mutant(
        "people's prompts ignored",
        ADMISSION,
        _card,
        "    if count == 0:\n        return None\n",
        "    if True:\n        return None\n",
    ),
    mutant(
        "two runs out of memory and again",
        ADMISSION,
        _card,
        "    if ask.ooms >= limit:\n",
        "    if False:\n",
    ),
    mutant(
        "debt not paid after 120 s while jobs wait",
        ARBITER,
        _card,
        "        if self._is_overdue(now):\n            self._pay(now, said)\n",
        "",
    ),
    mutant(
        "an llm that is slow because of ComfyUI stays slow",
        ARBITER,
        _card,
        "            self._ease(now, said)\n",
        "",
    ),
    mutant(
        "a slow llm is paid although ComfyUI is in its way",
        TENDING,
        _card,
        "        if slow and reading.comfyui is not None and reading.comfyui.held:\n",
        "        if False:\n",
    ),
    mutant(
        "an llm that is always slow is reloaded again and again",
        TENDING,
        _card,
        "        self._hopeless |= {key(one) for one in slow}\n",
        "",
    ),
    mutant(
        "a slow llm is reloaded although ComfyUI is in its way",
        ACTS,
        _card,
        "        if comfyui.held:\n            due = missing(due, reading)\n",
        "",
    ),
    mutant(
        "the remaining keep-alive forgotten",
        "agent.core.card",
        _card,
        "rest = max(1, round((model.expires_at - now).total_seconds()))",
        "rest = None",
    ),
    mutant(
        "the outlook leaves out what draws",
        OUTLOOK,
        _card,
        "    ahead_s, variance = rest_s, rest_error_s**2\n",
        "    ahead_s, variance = 0.0, rest_error_s**2\n",
    ),
    mutant(
        "the outlook leaves out memory",
        OUTLOOK,
        _card,
        "max(ahead_s, memory_s.get(turn.job, 0.0))",
        "ahead_s",
    ),
    mutant(
        "the outlook's errors do not add up",
        OUTLOOK,
        _card,
        "            variance += ask.run_error_s**2\n",
        "",
    ),
)
