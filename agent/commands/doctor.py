"""`mmg doctor`: is everything there, and as it should be? What is not comes with a way out.

It looks and changes nothing, neither on the disk nor on the bus; with `--generate` it draws.
"""

import argparse
import asyncio
from collections import Counter
from typing import Final

import msgspec

from agent.commands import (
    bus_checks,
    engine_checks,
    exits,
    machine_checks,
    session,
    site_checks,
    trial,
)
from agent.commands.findings import Finding, State
from agent.config import ConfigError

MARKS: Final = {State.OK: "ok  ", State.WARN: "warn", State.FAIL: "FAIL"}


def run(arguments: argparse.Namespace) -> int:
    """Examine everything; exit code 0 unless something fails."""
    findings = asyncio.run(_examine(arguments))
    healthy = all(finding.state != State.FAIL for finding in findings)
    if arguments.json:
        print(msgspec.json.encode({"healthy": healthy, "findings": findings}).decode())
    else:
        _print(findings, healthy=healthy)
    return exits.OK if healthy else exits.FAILED


async def _examine(arguments: argparse.Namespace) -> list[Finding]:
    """Examine everything, and draw with each engine if that was asked for."""
    found = await examine()
    usable = not any(one.what == "settings" and one.state == State.FAIL for one in found)
    if arguments.generate and usable:
        found += await trial.examine(session.read_config(), paid=arguments.paid)
    return found


async def examine() -> list[Finding]:
    """Return what was found, from the inside out: this machine, the settings, the bus."""
    try:
        config = session.read_config()
    except ConfigError as error:
        found = await asyncio.to_thread(machine_checks.programs, None)
        way_out = "correct it; the bus is not examined before that"
        return [*found, *(Finding.fail("settings", fault, way_out) for fault in error.faults)]
    session.log_from("critical", config)
    found = await asyncio.to_thread(machine_checks.programs, config)
    found += await asyncio.to_thread(machine_checks.settings, config)
    found += await asyncio.to_thread(machine_checks.storage, config)
    found += await asyncio.to_thread(site_checks.examine, config)
    found += await engine_checks.examine(config)
    return found + await bus_checks.examine(config)


def _print(findings: list[Finding], *, healthy: bool) -> None:
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{MARKS[finding.state]}  {finding.what:<{width}}  {finding.seen}")
        if finding.way_out is not None:
            print(f"      {'':<{width}}  -> {finding.way_out}")
    counts = Counter(finding.state for finding in findings)
    verdict = "healthy" if healthy else "not healthy"
    print(f"\n{verdict}: {counts[State.FAIL]} failing, {counts[State.WARN]} with a warning")
