"""What can go wrong at Ollama, by name."""

from tests.doubles.traps import ALWAYS, Known

BUSY = "server busy, please try again.  maximum pending requests exceeded"
OOM = "llama runner process has terminated: cudaMalloc failed: out of memory"

TRAPS: Known = {
    "chat": (
        "somebody chats with `model` now, for `seconds` or until cleared; loads it if need be",
        {"model": None, "seconds": None, "num_ctx": None},
    ),
    "reloads": (
        "somebody uses `model` every `every_s` for `for_s`, which loads it again, until cleared",
        {"model": None, "every_s": 5.0, "for_s": 0.0},
    ),
    "keeps_listed": ("an unload is answered with 200 and does not happen, until cleared", {}),
    "keeps_memory": ("a model that is unloaded leaves its memory behind, until cleared", {}),
    "partial": ("a load puts only `share` of the model on the card", {"times": 1, "share": 0.5}),
    "slow_load": ("a load takes `seconds`", {"times": ALWAYS, "seconds": 5.0}),
    "load_fails": ("a load ends with 500 and `error`", {"times": 1, "error": OOM}),
    "says": (
        "a model writes `text` and, if it can, thinks `thinking`",
        {"text": "", "thinking": ""},
    ),
    "slow_text": ("a text takes `seconds`", {"times": ALWAYS, "seconds": 5.0}),
    "breaks_off": ("a text ends with 200 and `error`", {"times": 1, "error": "unexpected EOF"}),
    "error": (
        "a call of `path` (or any) answers `status` with `error`",
        {"times": 1, "path": None, "status": 503, "error": BUSY},
    ),
    "garbage": (
        "a call of `path` (or any) answers 200 with `body` and `mib` MiB of blanks",
        {"times": 1, "path": None, "body": "<html>", "mib": 0},
    ),
    "redirect": ("a call of `path` (or any) answers 307", {"times": 1, "path": None}),
    "cut": ("a call of `path` (or any) is reset", {"times": 1, "path": None}),
    "freeze": (
        "all stands still, as under SIGSTOP, for `seconds` or until cleared",
        {"seconds": None},
    ),
    "die": ("as kill -9; alone it ends the process, in a test call restart()", {}),
}

ACTS = {"chat", "reloads", "freeze", "die"}
"""Those that happen at once; the rest wait for their occasion."""
