"""Goal: the command line says what it can do, refuses clearly, and speaks to people and machines.

Method: `main` with arguments, as the console script calls it; screens get a recorded chain.
"""

import argparse
import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from agent.bus.connection import NoAnswer, NoResponders
from agent.cli import main
from agent.client import Ticket
from agent.commands import arguments, exits, faults, generate, pictures
from agent.commands.screen import Bar, JsonLines, Lines
from agent.embedded import EmbeddedError
from contracts import codec, examples
from contracts.errors import ContractError, ErrorCode
from contracts.requests import Priority, Request

NOWHERE = "nats://127.0.0.1:1"
TICKET = Ticket(request_id="harbour-7", requester="L2.05.03", joined=False)
STORY = (examples.STARTED, examples.PROGRESS, examples.COMPLETED)


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    for name in ("MMG_NATS_PORT", "MMG_CONFIG", "MMG_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMG_NATS_URL", NOWHERE)
    monkeypatch.chdir(tmp_path)


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = arguments.build()
    (choices,) = (
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(choices)


def test_help_lists_every_command_and_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert exits.TEXT in text
    assert "MMG_NATS_URL" in text
    for name in commands():
        assert f"\n    {name}" in text


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_help_of_each_command_explains_each_of_its_options(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for action in commands()[name]._actions:
        assert action.help
        for option in action.option_strings:
            assert option in text


@pytest.mark.parametrize("name", sorted(commands()))
def test_each_command_has_its_module(name):
    parsed = commands()[name]
    assert (Path(arguments.__file__).parent / f"{parsed.get_default('module')}.py").is_file()


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from agent.cli import main; main(['generate', '--help']);"
        "print({'nats', 'aiohttp', 'rich', 'structlog', 'PIL', 'asyncio'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "paint",
        "generate",
        "generate a --style watercolour",
        "generate a --size 1024",
        "generate a --timeout 0",
        "generate a --timeout 5 --no-wait",
        "generate a --priority URGENT",
        "generate a --count many",
        "watch",
        "watch x --after -1",
        "config --json --example",
        "schema --write --check",
        "completion tcsh",
        "up --now",
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(line, capsys):
    assert main(line.split()) == exits.USAGE
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith("usage: mmg")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate a --seed -1", "invalid_request"),
        ("generate a --size 100x100", "$.options.width"),
        ("generate a --size 512x512 --aspect 1:1", "$.options.aspect_ratio"),
        ("generate a --count 11", "$.options.count"),
        ("generate a --deadline 0", "$.deadline_s"),
        ("generate a --id a.b", "$.request_id"),
        ("generate a --requester L2-05", "$.requester"),
        ("schema nothing-like-that", "nothing-like-that"),
    ],
)
def test_a_request_that_breaks_the_contract_ends_with_2_and_the_place(line, said, capsys):
    assert main(line.split()) == exits.USAGE
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err


def test_the_prompt_keeps_its_words_and_every_option_reaches_the_request(monkeypatch):
    line = (
        "generate - --style infographic --quality draft --seed 7 --count 2 --negative fog"
        " --size 512x256 --model sdxl --priority high --deadline 60 --id i-1 --requester L2.05.03"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO('say "hi" & go\n'))
    request = generate.request_from(arguments.build().parse_args(line.split()))
    expected = {
        "type": "image",
        "prompt": 'say "hi" & go\n',
        "options": {
            "quality": "draft",
            "style": "infographic",
            "seed": 7,
            "negative_prompt": "fog",
            "count": 2,
            "width": 512,
            "height": 256,
            "model": "sdxl",
        },
        "request_id": "i-1",
        "priority": Priority.HIGH,
        "requester": "L2.05.03",
        "deadline_s": 60,
    }
    assert request == msgspec.convert(expected, Request)


def test_settings_that_cannot_be_used_are_all_named(monkeypatch, capsys):
    monkeypatch.setenv("MMG_HTTP_PORT", "many")
    monkeypatch.setenv("MMG_NATS_PORT", "-1")
    assert main(["queue"]) == exits.USAGE
    heard = capsys.readouterr().err
    assert "MMG_HTTP_PORT" in heard
    assert "MMG_NATS_PORT" in heard
    assert "Traceback" not in heard


@pytest.mark.parametrize("line", ["generate a", "watch x", "queue", "provision"])
def test_a_bus_that_is_away_ends_with_3_and_a_way_out(line, capsys, monkeypatch):
    monkeypatch.setattr("agent.commands.session.PATIENCE_S", 0.1)
    assert main(line.split()) == exits.UNREACHABLE
    heard = capsys.readouterr()
    assert heard.out == ""
    assert "cannot reach nats-server at 127.0.0.1:1" in heard.err
    assert "`mmg up`" in heard.err
    assert "Traceback" not in heard.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ContractError(ErrorCode.ID_REUSED, "used", "$.request_id"), 2, "id_reused: used"),
        (ContractError(ErrorCode.QUEUE_FULL, "full"), 1, "It may work later."),
        (NoAnswer("no answer"), 3, "no answer"),
        (NoResponders("no stream takes requests"), 1, "no stream takes requests"),
        (EmbeddedError("port 4222 is taken"), 3, "port 4222 is taken"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (ExceptionGroup("of a task", [ExceptionGroup("", [NoAnswer("gone")])]), 3, "gone"),
    ],
)
def test_what_goes_wrong_becomes_a_line_and_an_exit_code(error, code, said, capsys):
    assert faults.explain(error) == code
    assert said in capsys.readouterr().err


def shown(screen):
    with screen as view:
        view.accepted(TICKET)
        for event in STORY:
            view.show(event)
        view.note("a word")
        view.result(["a.png", "b.png"])


def test_plain_output_has_words_on_stderr_and_only_paths_on_stdout():
    out, err = io.StringIO(), io.StringIO()
    shown(Lines(out, err))
    assert out.getvalue() == "a.png\nb.png\n"
    kinds = [line.split()[0] for line in err.getvalue().splitlines()]
    assert kinds == ["queued", "started", "progress", "completed", "mmg:"]
    assert "\x1b" not in err.getvalue()


def test_plain_progress_is_a_line_only_when_it_has_grown():
    err = io.StringIO()
    lines = Lines(io.StringIO(), err)
    for percent in range(101):
        lines.show(replace(examples.PROGRESS, progress_percent=percent))
    assert len(err.getvalue().splitlines()) == 10


def test_json_output_is_the_events_as_they_are_on_the_wire():
    out, err = io.StringIO(), io.StringIO()
    shown(JsonLines(out, err))
    queued, *events = out.getvalue().splitlines()
    assert json.loads(queued)["kind"] == "queued"
    assert [line.encode() for line in events] == [codec.encode(event) for event in STORY]
    assert err.getvalue() == "mmg: a word\n"


def test_a_terminal_gets_a_bar_on_stderr_and_only_paths_on_stdout():
    out, err = io.StringIO(), io.StringIO()
    console = Console(file=err, force_terminal=True, width=100)
    shown(Bar(out, console))
    assert out.getvalue() == "a.png\nb.png\n"
    assert "100 %" in err.getvalue()


def test_every_event_has_a_line_for_people():
    err = io.StringIO()
    lines = Lines(io.StringIO(), err)
    for link in examples.LINKS.values():
        lines.show(link)
    text = err.getvalue().splitlines()
    assert len(text) == len(examples.LINKS)
    assert all(len(line.split()) > 1 for line in text)


async def test_a_picture_that_is_nowhere_is_no_success():
    output = replace(examples.COMPLETED.outputs[0], url="http://127.0.0.1:1/a.png")
    gone = replace(examples.COMPLETED, outputs=(output,))
    with pytest.raises(pictures.NotHereError, match="cannot be fetched"):
        await pictures.on_this_disk(gone, print)
    with pytest.raises(pictures.NotHereError, match="without a picture"):
        await pictures.on_this_disk(replace(examples.COMPLETED, outputs=()), print)


@pytest.mark.parametrize("told", ["/images/far.png", "/images/..%2F..%2Ffar.png"])
async def test_a_picture_of_another_machine_is_fetched_into_this_folder(told, tmp_path):
    body = b"a picture"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n" + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        output = replace(
            examples.COMPLETED.outputs[0],
            url=f"http://127.0.0.1:{port}{told}",
            file_path=str(tmp_path / "elsewhere" / "far.png"),
            file_size_bytes=len(body),
            sha256="8d6f3b20ea3f0c0a4f2b4ac7d4bd1cd23f5e2ae3cfb2b2c1a4fb0d1bb1f30c1d",
        )
        wrong = replace(examples.COMPLETED, outputs=(output,))
        with pytest.raises(pictures.NotHereError, match="not the picture"):
            await pictures.on_this_disk(wrong, print)
        output = replace(output, sha256=hashlib.sha256(body).hexdigest())
        done = replace(examples.COMPLETED, outputs=(output,))
        (path,) = await pictures.on_this_disk(done, lambda _: None)
        (again,) = await pictures.on_this_disk(done, lambda _: None)
    assert path == again
    assert path.parent == tmp_path
    assert path.read_bytes() == body


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_code_for_the_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "mmg" in capsys.readouterr().out


def test_completion_without_a_shell_says_how(capsys):
    assert main(["completion"]) == 0
    assert "mmg completion bash" in capsys.readouterr().out


def test_config_shows_values_and_sources_but_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("MMG_NATS_URL", "nats://me:hush@127.0.0.1:1")
    assert main(["config"]) == 0
    text = capsys.readouterr().out
    assert main(["config", "--json"]) == 0
    settings = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert "hush" not in text + str(settings)
    assert "MMG_NATS_URL" in text
    assert settings["MMG_NATS_URL"]["source"]
    assert main(["config", "--example"]) == 0
    assert "[bus]" in capsys.readouterr().out


def test_schema_lists_prints_and_checks(capsys):
    assert main(["schema"]) == 0
    assert "request.schema.json" in capsys.readouterr().out.split()
    assert main(["schema", "request"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Request"


def test_ctrl_c_ends_with_130_and_no_traceback(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.commands.completion.shellcode", interrupted)
    assert main(["completion", "bash"]) == exits.INTERRUPTED
    assert capsys.readouterr().err == "mmg: interrupted\n"


def test_whoever_stops_reading_is_told_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "agent", "schema", "event"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")
