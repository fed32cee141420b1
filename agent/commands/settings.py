"""`mmg config`: what is set, and where each value comes from.

It shows; it must not change a setting or reveal a secret.
"""

import argparse

import msgspec

from agent.commands import exits, session
from agent.commands.faults import complain
from agent.config import describe, example_toml


def run(arguments: argparse.Namespace) -> int:
    """Print the settings in effect, or an example file."""
    if arguments.example:
        print(example_toml(), end="")
        return exits.OK
    config = session.read_config()
    settings = describe(config)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(settings), indent=2).decode())
    else:
        width = max(len(setting.name) for setting in settings)
        values = [setting.value for setting in settings]
        value_width = min(48, max(len(value) for value in values))
        for setting in settings:
            print(f"{setting.name:<{width}}  {setting.value:<{value_width}}  {setting.source}")
    for warning in config.warnings:
        complain(f"warning: {warning}")
    return exits.OK
