"""Goal: who is woken up finds the entry, and each command in it exists.

Method: the headings of the runbook are compared with the alerts, incidents and error codes of the
code; each entry has its three parts; each command under Look is parsed by the real parser, asked
of the real routes, or is a program of the system; names of settings are looked up.
"""

import re
import shlex
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from agent.commands import arguments
from agent.config.settings import KNOWN_ENGINES, ROWS
from agent.core.leases import Alert
from contracts.errors import ErrorCode
from tests.rig import ROOT

RUNBOOK = ROOT / "ops" / "runbook.md"
PAGES = (
    RUNBOOK,
    ROOT / "ops" / "windows.md",
    ROOT / "docs" / "hosts.md",
    ROOT / "ops" / "backup.md",
)
PARTS = ("Symptom", "Look", "Act")
TROUBLES = (
    "ComfyUI does not respond",
    "VRAM full (out of memory)",
    "Slow generation (more than 2 minutes)",
    "Queue not processing",
)
SYSTEM = {"nvidia-smi", "journalctl", "systemctl", "docker", "df", "du", "ls", "tail", "ss"}
SYSTEM |= {"timedatectl"}
RAISED = re.compile(r'(?:_alert|alerts\.set)\(\s*(?:f?"([a-z_]+)(\{)?)')
NAMED = re.compile(r'^(?:ALERT|[A-Z_]+_ALERT): Final = "([a-z_]+)"', re.MULTILINE)
INCIDENT = re.compile(r'_incident\(\s*"(?:down|warn|note)", "([a-z_]+)"')
SETTING = re.compile(r"\bMMG_[A-Z_]+\b")
ELSEWHERE = {"MMG_REQUESTS", "MMG_EVENTS", "MMG_PROGRESS", "MMG_CONFIG"}


def entries() -> dict[str, str]:
    """Return the text below each heading of the third level, and of the four troubles."""
    parts = re.split(r"^### (.+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    texts = [re.split(r"^## ", text, flags=re.MULTILINE)[0] for text in parts[1::2]]
    return dict(zip(parts[::2], texts, strict=True))


def alert_names() -> set[str]:
    """Return every name that code raises an alert under."""
    found: set[str] = set(get_args(get_type_hints(Alert)["what"]))
    for file in (ROOT / "agent").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        found |= set(NAMED.findall(text))
        for name, is_open in RAISED.findall(text):
            found |= {f"{name}{engine}" for engine in KNOWN_ENGINES} if is_open else {name}
    return found - {"alert"}  # the kind of event, not a name


def looks(text: str) -> list[str]:
    """Return the commands under Look."""
    found = re.search(r"\*\*Look\*\* (.+)", text)
    assert found is not None, text
    return [
        command
        for command in re.findall(r"`([^`]+)`", found[1])
        if not re.fullmatch(r"[a-z]+(_[a-z]+)+|bus\.\w+", command)  # a series or a word of a log
    ]


def test_it_opens_with_the_four_troubles_of_the_checklist():
    assert tuple(entries())[:4] == TROUBLES


def test_every_alert_incident_and_error_code_has_an_entry():
    incidents = INCIDENT.findall((ROOT / "agent" / "core" / "incidents.py").read_text())
    assert {"late", "bus_away"} <= set(incidents), "incidents are found by how they are written"
    assert {"disk", "engine_comfyui", "card_lost"} <= alert_names()
    wanted = alert_names() | set(incidents) | {code.value for code in ErrorCode}
    assert wanted - set(entries()) == set()


@pytest.mark.parametrize(("name", "text"), entries().items())
def test_an_entry_says_the_symptom_where_to_look_and_what_to_do(name, text):
    for part in PARTS:
        assert text.count(f"**{part}** ") + text.count(f"**{part}**\n") == 1, f"{name}: {part}"
    assert looks(text), f"{name}: nothing to look at"


def parses(command: str, capsys) -> bool:
    """Tell whether the command line takes it; help is a good end, too."""
    try:
        arguments.build().parse_args(shlex.split(command)[1:])
    except SystemExit as end:
        if end.code != 0:
            pytest.fail(f"{command}: {capsys.readouterr().err}")
    return True


@pytest.mark.parametrize(("name", "text"), entries().items())
def test_each_look_is_a_command_that_exists(name, text, capsys):
    for command in looks(text):
        words = shlex.split(command)
        if words[0] == "mmg":
            assert parses(command, capsys)
        elif words[0] == "curl":
            assert any(word.startswith(("http://127.0.0.1:", "https://")) for word in words), name
        else:
            assert words[0] in SYSTEM, f"{name}: {command}"


def test_every_other_command_of_ours_in_the_pages_exists_as_well(capsys):
    found = {
        command
        for page in PAGES
        for command in re.findall(r"`(mmg [^`]+)`", page.read_text(encoding="utf-8"))
    }
    assert len(found) > 20
    for command in sorted(found):
        assert parses(command, capsys)


def test_links_within_the_runbook_lead_somewhere():
    text = RUNBOOK.read_text()
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    # As GitHub makes them: punctuation goes, each space becomes a dash.
    anchors = {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors == set()
    for page in re.findall(r"\]\((?!#|http)([^)#]+)", text):
        assert (RUNBOOK.parent / page).exists(), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_settings_that_a_page_names_exist(page: Path):
    known = {row.name for row in ROWS} | ELSEWHERE
    known |= {f"{row.name}_FILE" for row in ROWS}
    assert set(SETTING.findall(page.read_text())) - known == set()
