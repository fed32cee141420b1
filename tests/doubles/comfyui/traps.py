"""What can go wrong at ComfyUI, by name."""

from tests.doubles.traps import ALWAYS, Known

TRAPS: Known = {
    "history_late": ("GET /history/{id} says {} for the first `reads` after the end", {"reads": 2}),
    "deaf_socket_after_reconnect": (
        "a client that comes back gets its first status, then nothing",
        {"times": 1},
    ),
    "silent_socket": (
        "no WebSocket is served, as if a stuck reader blocked all",
        {"seconds": None},
    ),
    "drop_sockets": ("every open WebSocket is cut now, without a close frame", {}),
    "no_executed_on_cached": ("a cached output sends no `executed`, as newer servers", {}),
    "lose_prompt": (
        "a prompt answered with 200 is gone; `when` is post or start",
        {"times": 1, "when": "post"},
    ),
    "queued_but_500": ("POST /prompt answers 500, yet the prompt is queued", {"times": 1}),
    "queued_but_reset": ("POST /prompt queues, then resets the connection", {"times": 1}),
    "slow_post": (
        "POST /prompt queues at once, answers after `seconds`",
        {"times": 1, "seconds": 1},
    ),
    "interrupt_lost": ("POST /interrupt answers 200 and does nothing", {"times": 1}),
    "freeze": ("all stands still, as under SIGSTOP; forever without `seconds`", {"seconds": None}),
    "gc_pause": ("all stands still for `ms` at the end of each prompt", {"ms": 250}),
    "oom": (
        "`node` runs out of memory; `spelling` is torch, cuda, allocation, allowed or tips",
        {"times": 1, "spelling": "torch", "node": "KSampler"},
    ),
    "corrupt_checkpoint": (
        "loading it fails; `checkpoint` or any",
        {"checkpoint": None, "times": ALWAYS},
    ),
    "fail": (
        "`node` raises `type` with `message`",
        {"times": 1, "node": "KSampler", "type": "RuntimeError", "message": "rig: told to fail"},
    ),
    "missing_file_on_view": ("GET /view answers 404", {"times": 1}),
    "cut_view_midway": ("GET /view breaks off after half the bytes", {"times": 1}),
    "slow_view": ("GET /view takes `seconds`", {"times": ALWAYS, "seconds": 1}),
    "garbage_on_view": ("GET /view answers 200 with bytes that are no picture", {"times": 1}),
    "refuse_connections": ("nobody listens; without `seconds` until cleared", {"seconds": None}),
    "die": ("as kill -9; alone it ends the process, in a test call restart()", {}),
    "restart_empty": ("as kill -9, back after `seconds` with nothing", {"seconds": 0}),
    "broadcast_without_client_id": ("client_id is ignored: events go to all or to nobody", {}),
    "hang_at_step": (
        "sampling stops at `step`, deaf to interrupts, until cleared or `seconds`",
        {"times": 1, "step": 1, "seconds": None},
    ),
    "foreign_prompt": (
        "somebody else queues `count` prompts of `steps`; with `client_id` or without",
        {"count": 1, "steps": 20, "client_id": None, "checkpoint": None},
    ),
    "old_version": ("an older server: no prompt_id in /interrupt", {"version": "0.3.40"}),
    "step_ms": ("time of a step", {"value": 0.0}),
    "load_ms": ("time to load a checkpoint", {"value": 0.0}),
    "decode_ms": ("time to decode", {"value": 0.0}),
    "encode_ms": ("time to encode a text", {"value": 0.0}),
}

ACTS = {"drop_sockets", "die", "restart_empty", "foreign_prompt", "freeze", "refuse_connections"}
"""Those that happen at once; the rest wait for their occasion."""
