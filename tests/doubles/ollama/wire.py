"""The forms of what Ollama sends: times, durations, bytes, and what it reads from a body."""

import hashlib
import math
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.doubles.ollama.runners import FOREVER_S, RefusedError, Runner, now
from tests.doubles.ollama.settings import Model

MIB = 1024 * 1024
HERE = timezone(timedelta(hours=2))
"""Ollama writes local time with its offset."""
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def keep_alive_s(body: dict[str, Any]) -> float | None:
    """Read keep_alive: seconds, or a Go duration; below 0 is forever, none is None.

    *Raises* RefusedError.
    """
    match body.get("keep_alive"):
        case None:
            return None
        case bool() | dict() | list() as value:
            raise RefusedError(400, f"Unsupported type: '{type(value).__name__}'")
        case str() as text:
            seconds = duration_s(text)
        case value:
            seconds = float(value)
    return FOREVER_S if seconds < 0 else seconds


def duration_s(text: str) -> float:
    """Read a duration as Go does: 10m, 1h30m, -1s, 0. *Raises* RefusedError."""
    digits = text.removeprefix("-")
    if digits == "0":
        return 0.0
    if not digits or _PART.sub("", digits):
        raise RefusedError(400, f'time: invalid duration "{text}"')
    seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(digits))
    return -seconds if text.startswith("-") else seconds


def time_of(moment: datetime) -> str:
    """Write a time with nanoseconds and an offset."""
    local = moment.astimezone(HERE)
    return f"{local:%Y-%m-%dT%H:%M:%S}.{local.microsecond:06d}123+02:00"


def listed(runner: Runner) -> dict[str, Any]:
    """Describe a model that is loaded. *Units*: bytes, a little less than the MiB that are used."""
    return {
        **tagged(runner.model),
        "size": runner.model.mib * MIB - 4096,
        "size_vram": max(0, runner.vram_mib * MIB - 4096),
        "expires_at": time_of(runner.until()),
        "context_length": runner.num_ctx,
    }


def tagged(model: Model) -> dict[str, Any]:
    """Describe a model that was pulled."""
    family = "nomic-bert" if model.embeds else "llama"
    return {
        "name": model.name,
        "model": model.name,
        "size": model.mib * MIB - 4096,
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M",
        },
    }


def answer(name: str, **more: Any) -> dict[str, Any]:
    """Return the fields that every answer of a model has."""
    return {"model": name, "created_at": time_of(now()).replace("+02:00", "Z"), **more}
