"""`mmg up`, `mmg worker`, `mmg gateway`: the programs that run until they are stopped.

`agent.app` builds them; here only their logs are opened and one is chosen.
"""

import argparse
import asyncio
import sys

from agent import app, logs
from agent.commands import exits, session
from agent.commands.faults import complain
from agent.config.hidden import hidden


def run(arguments: argparse.Namespace) -> int:
    """Run the program of this name to its end."""
    config = session.read_config()
    role: str = arguments.command
    terminal = sys.stderr.isatty()
    logs.hide(hidden(config))
    logs.configure(
        config.logs.format_for(terminal=terminal), config.logs.level, config.logs.dir, role
    )
    for warning in config.warnings:
        complain(f"warning: {warning}")
    try:
        match role:
            case "worker":
                return asyncio.run(app.run_worker(config, once=arguments.once))
            case "gateway":
                return asyncio.run(app.run_gateway(config))
            case _:
                return asyncio.run(app.run_up(config, _tell))
    except asyncio.CancelledError:
        return exits.INTERRUPTED  # The second Ctrl-C: everything was left as it was.


def _tell(machine: app.Machine) -> None:
    """Say where everything is once all parts are ready."""
    print(
        f"mmg is up: stop with Ctrl-C\n"
        f"  bus       {machine.nats_url}\n"
        f"  gateway   {machine.http_url}\n"
        f"  dashboard {machine.http_url}/multimodal\n"
        f"  pictures  {machine.assets_dir}\n"
        f"  engines   {', '.join(machine.engines) or 'none'}\n"
        f'  try       mmg generate "a lighthouse at dusk"',
        flush=True,
    )
