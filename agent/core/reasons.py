"""One sentence for a request that no worker has told about: why does it wait? Pure.

A worker that holds the request knows more, and says it itself. Must not decide anything.
"""

import msgspec

NOBODY = "no worker answers, so nothing is started; start one with `mmg worker` or `mmg up`"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps requests waiting, whichever they are.

    `paused` says who paused the lanes, and until when; empty: they are not. `states` has the state
    and the reason of each worker that answers.
    """

    paused: str = ""
    states: tuple[tuple[str, str], ...] = ()


def reason(standing: Standing, higher: int, before: int) -> str:
    """Say why a request waits, with `higher` in the lanes above and `before` it in its own.

    1. The lanes are paused. 2. Nobody works. 3. Nobody who works may take anything. 4. Others come
    first. 5. It is next.
    """
    if standing.paused:
        return f"all lanes are paused {standing.paused}; undo: mmg resume"  # 1
    if not standing.states:
        return NOBODY  # 2
    if all(state != "ready" for state, _ in standing.states):
        state, why = standing.states[0]
        return f"no worker takes requests now: {state}{f' ({why})' if why else ''}"  # 3
    if higher + before:
        return f"{_ahead(higher, before)} before it; no worker has taken it yet"  # 4
    return "it is next: the first worker with a free slot takes it"  # 5


def _ahead(higher: int, before: int) -> str:
    parts = [f"{higher} of higher classes"] if higher else []
    parts += [f"{before} of its own class"] if before else []
    verb = "comes" if higher + before == 1 else "come"
    return f"{' and '.join(parts)} {verb}"
