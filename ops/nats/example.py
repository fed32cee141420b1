"""Writes the configuration of an example site beside itself, to be read by people.

    .venv/bin/python ops/nats/example.py

A real one is made by `mmg key init`, by the same code; a test compares. It makes no key.
"""

from pathlib import Path, PurePosixPath
from typing import Final

from agent.site import roster, server_config
from agent.site.roster import Roster
from contracts.requests import Priority

HERE: Final = Path(__file__).parent
FOLDER: Final = PurePosixPath("/etc/mmg/nats")
AGENTS: Final = (("L2.05.03", Priority.HIGH), ("L2.07", Priority.LOW))


def example() -> Roster:
    """Return a site of two agents, with names in place of keys."""
    made = roster.new("mmg-bus", ("bus.example", "127.0.0.1"), 4222, _named)
    for agent, highest in AGENTS:
        made = roster.with_agent(made, agent, highest, _named(agent))
    return made


def files() -> dict[str, str]:
    """Return the texts by file name."""
    made = example()
    return {
        "nats.conf": server_config.server(made, FOLDER),
        "tls.conf": server_config.tls(FOLDER),
        "accounts.conf": server_config.accounts(made),
    }


def _named(who: str) -> str:
    return f"PUBLIC-KEY-OF-{who}"


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
