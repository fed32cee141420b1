"""From sources to a `Config`, and back to what people read about it.

All faults are reported together. Nothing here knows a single setting but for the derived ones
and the rules between two of them.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.config.row import Row
from agent.config.sections import (
    Bus,
    Card,
    Cloud,
    ComfyUI,
    Config,
    Http,
    Logs,
    Ollama,
    Site,
    Storage,
    Webhook,
    Worker,
    http_url,
)
from agent.config.settings import ROWS, SECTIONS
from agent.config.sources import Found, Text, collect
from agent.config.values import HIDDEN, ConfigError, Parser, folder, mask, mask_all

DEFAULT: Final = "default"
ACK_WAIT_REPLICATED_MIN_S: Final = 15
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - to be told apart
BUILT_IN_WORKFLOWS: Final = Path(__file__).resolve().parents[2] / "workflows"

Values = dict[str, dict[str, Any]]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting for `mmg config`: its value as it may be shown, and where it came from."""

    name: str
    value: str
    source: str
    help: str


def load(environ: Mapping[str, str], directory: Path) -> Config:
    """Read and check the configuration of a process started in `directory`.

    Raises: ConfigError with every fault found.
    """
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow links
    found = collect(environ, directory)
    home = environ.get("HOME") or environ.get("USERPROFILE")
    path = folder(directory, home)
    values: Values = {section: {} for section in SECTIONS}
    for row in ROWS:
        values[row.section][row.key] = _value(row, row.parse or path, found)
    found.faults += _contradictions(values, found.texts)
    if found.faults:
        raise ConfigError(found.faults)
    return _config(values, found)


def _value(row: Row, parse: Parser, found: Found) -> Any:
    """Return the parsed value; a fault is noted and gives None."""
    text = found.texts.get(row.name)
    if text is None:
        return None if row.default is None else parse(row.default)
    try:
        return parse(text.value)
    except ValueError as error:
        found.faults.append(_fault(row, text, str(error)))
        return None


def _fault(row: Row, text: Text, reason: str) -> str:
    shown = {"nothing": text.value, "user": mask_all(text.value), "all": HIDDEN}[row.hide]
    if len(shown) > 200:  # noqa: PLR2004 - long enough to recognize it
        shown = f"{shown[:200]}..."
    return f"{_label(row)} = {shown!r} ({text.origin}): {reason}; allowed: {row.allowed}"


def _label(row: Row) -> str:
    return f"{row.name} [{row.section}] {row.key}"


def _contradictions(values: Values, texts: Mapping[str, Text]) -> list[str]:
    """Judge settings that do not go together; a value that is a fault by itself is None here."""
    faults: list[tuple[str, str]] = []
    bus, worker = values["bus"], values["worker"]
    replicated = (bus["replicas"] or 1) > 1
    if replicated and (bus["ack_wait_s"] or math.inf) < ACK_WAIT_REPLICATED_MIN_S:
        reason = f"too small with {bus['replicas']} replicas: an election alone takes 5 to 7 s"
        faults.append(("MMG_ACK_WAIT_S", reason))
    if worker["sketch"] == "off" and "sketch" in (worker["engines"] or ()):
        faults.append(("MMG_SKETCH", "contradicts MMG_ENGINES, which names sketch"))
    cloud = values["cloud"]
    named = (cloud["mode"], cloud["enable_fallback"])
    if None not in named and (named[0] == "off") is named[1]:
        faults.append(("ENABLE_CLOUD_FALLBACK", f"contradicts MMG_CLOUD, which is {named[0]}"))
    hooks = values["webhook"]
    if hooks["alert_url"] is not None and hooks["secret"] is None:
        faults.append(("MMG_ALERT_WEBHOOK_URL", "nothing is sent unsigned: set MMG_WEBHOOK_SECRET"))
    http = values["http"]
    if http["host"] in EVERYWHERE and http["public_url"] is None:
        reason = "is no address that anybody could ask for: set MMG_PUBLIC_URL to the one they use"
        faults.append(("MMG_HTTP_HOST", reason))
    site = values["site"]
    if site["nkey"] is not None and site["creds"] is not None:
        faults.append(("MMG_NATS_CREDS", "contradicts MMG_NATS_NKEY: there is one key at a time"))
    rows = {row.name: row for row in ROWS}
    return [_fault(rows[name], texts[name], reason) for name, reason in faults]


def _config(values: Values, found: Found) -> Config:
    http, storage, cloud = values["http"], values["storage"], values["cloud"]
    cloud["mode"] = cloud["mode"] or ("off" if cloud["enable_fallback"] is False else "fallback")
    http["public_url"] = http["public_url"] or http_url(http["host"], http["port"])
    storage["workflows_dir"] = storage["workflows_dir"] or BUILT_IN_WORKFLOWS
    return Config(
        bus=Bus(**values["bus"]),
        http=Http(**http),
        worker=Worker(**values["worker"]),
        comfyui=ComfyUI(**values["comfyui"]),
        ollama=Ollama(**values["ollama"]),
        card=Card(**values["card"]),
        cloud=Cloud(**cloud),
        webhook=Webhook(**values["webhook"]),
        site=Site(**values["site"]),
        storage=Storage(**storage),
        logs=Logs(**values["logs"]),
        warnings=tuple(found.warnings),
        origins={
            row.name: found.texts[row.name].origin if row.name in found.texts else DEFAULT
            for row in ROWS
        },
    )


def describe(config: Config) -> list[Setting]:
    """Return every setting with its effective value, secrets hidden, and its source."""
    return [
        Setting(
            name=row.name,
            value=_shown(row, getattr(getattr(config, row.section), row.key)),
            source=config.origins[row.name],
            help=row.help,
        )
        for row in ROWS
    ]


def _shown(row: Row, value: object) -> str:
    """Return a value as a person would write it, or what it means that there is none."""
    match value:
        case None:
            return f"(not set: {row.unset})"
        case tuple():
            text = ",".join(str(item) for item in value)
        case dict():
            text = ",".join(f"{kind}:{count}" for kind, count in value.items())
        case bool():
            text = "yes" if value else "no"
        case float():
            text = f"{value:.15g}"
        case _:
            text = str(value)
    return {"nothing": text, "user": mask(text), "all": HIDDEN}[row.hide]


def example_toml() -> str:
    """Return an `mmg.toml` that changes nothing: every key with its default, commented out."""
    lines = [
        "# Settings of mmg. Every line that starts with #key shows a default; remove the # to",
        "# change it. The environment and .env may say the same under the name in capitals, and",
        "# count before this file. Relative paths start where mmg is started.",
    ]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for row in (row for row in ROWS if row.section == section):
            lines += ["", f"# {row.name}: {row.help}.", f"# Allowed: {row.allowed}."]
            if row.default is None:
                lines.append(f"# Not set: {row.unset}.")
            if row.hide != "nothing":
                lines.append(f"# {row.key}_file names a file that holds it.")
            lines.append(f"#{row.key} = {_toml_value(row)}")
    return "\n".join(lines) + "\n"


def _toml_value(row: Row) -> str:
    if row.default is None:
        return '""'
    return row.default if row.default.replace(".", "", 1).isdigit() else f'"{row.default}"'
