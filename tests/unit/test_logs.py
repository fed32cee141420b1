"""Goal: every line says when, how bad, what and who; none says a secret; none stops the program.

Method: real logging into captured stderr and a temporary folder, read back line by line.
"""

import json
import logging
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent import logs
from agent.config import load
from agent.config.hidden import hidden

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _logging_as_before():
    level = logging.getLogger().level
    yield
    logs._install([])
    logs._known.clear()
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stderr(capsys):
    return lambda: lines(capsys.readouterr().err)


def test_a_line_has_utc_time_level_event_and_role_in_front_and_nothing_goes_to_stdout(capsys):
    logs.configure("json", "info", None, "worker")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("job.done", wait_s=1.5)
    written = capsys.readouterr()
    (line,) = lines(written.err)
    assert written.out == ""
    assert list(line)[:4] == ["at", "level", "event", "role"]
    assert datetime.fromisoformat(line["at"]).utcoffset() == timedelta(0)
    assert line | {"at": ""} == {
        "at": "",
        "level": "info",
        "event": "job.done",
        "role": "worker",
        "request_id": "r1",
        "wait_s": 1.5,
    }


def test_the_level_holds_for_mmg_and_libraries_are_heard_from_warning_up(stderr):
    logs.configure("json", "debug", None, "worker")
    log.debug("own.debug")
    logging.getLogger("aiohttp.access").info("GET /healthz")
    logging.getLogger("nats.aio.client").warning("slow %s", "nats://me:hush@a")
    first, second = stderr()
    assert first["event"] == "own.debug"
    assert second["event"] == "slow nats://[hidden]@a"
    assert (second["logger"], second["level"]) == ("nats.aio.client", "warning")
    assert second["role"] == "worker"
    logs.configure("json", "error", None, "worker")
    log.warning("own.warning")
    assert stderr() == []


def test_an_exception_is_one_line_with_its_traceback_and_without_passwords(stderr):
    logs.configure("json", "info", None, "gateway")
    try:
        raise ValueError("nats://me:hush@a")  # noqa: TRY301 - raised to be logged
    except ValueError:
        log.exception("bus.broken")
        logging.getLogger("asyncio").exception("task died")
    for line in stderr():
        assert line["level"] == "error"
        assert line["exception"].endswith("ValueError: nats://[hidden]@a")


class Wish(msgspec.Struct):
    prompt: str
    negative_prompt: str
    seed: int


def test_prompts_are_cut_and_secrets_hidden_at_any_depth(stderr):
    logs.configure("json", "info", None, "worker")
    log.info(
        "x",
        prompt="p" * 61,
        negative_prompt="n" * 60,
        request=Wish("q" * 100, "", 7),
        API_KEY="hush",
        nested=[{"Authorization": "hush", "password": 5, "token": None, "has_key": True}],
        deep=[[[[[[[["hush"]]]]]]]],
        seen={("a", 1): float("nan")},
        url="http://u:p@ss@host/x@y",
    )
    (line,) = stderr()
    assert line["prompt"] == "p" * 60 + "…"
    assert line["negative_prompt"] == "n" * 60
    assert line["request"] == {"prompt": "q" * 60 + "…", "negative_prompt": "", "seed": 7}
    assert line["API_KEY"] == "[hidden]"
    assert line["nested"] == [
        {"Authorization": "[hidden]", "password": "[hidden]", "token": None, "has_key": True}
    ]
    assert "hush" not in json.dumps(line)
    assert line["seen"] == {"('a', 1)": "nan"}
    assert line["url"] == "http://[hidden]@host/x@y"


SECRETS = {
    "openai": "sk-proj-0123456789abcdef",
    "webhook": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "gateway": "mmg_k3y1d_0123456789abcdefghij",
    "nats": "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM",
    "bearer": "Bearer abcdefgh.12345678",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_key_is_hidden_by_its_look_in_texts_lists_and_tracebacks(secret, stderr):
    logs.configure("json", "info", None, "worker")
    log.info("call.failed", reason=f"401 for {secret}, refused", seen=[{"line": f"x={secret}"}])
    try:
        raise ValueError(f"header {secret}")  # noqa: TRY301 - raised to be logged
    except ValueError:
        log.exception("call.broke")
    logging.getLogger("aiohttp.client").warning("sent %s", secret)
    lines_ = stderr()
    assert len(lines_) == 3
    assert secret.removeprefix("Bearer ") not in json.dumps(lines_)
    assert lines_[0]["reason"].startswith("401 for ")
    assert lines_[0]["reason"].endswith(", refused")


def test_the_secrets_of_the_settings_are_hidden_wherever_they_stand(stderr, tmp_path):
    logs.configure("json", "info", tmp_path, "worker")
    logs.hide(["an-odd-secret", None, "abc"])
    log.error("x", reason="refused: key=an-odd-secret.", path="abc")
    (line,) = stderr()
    assert line["reason"] == "refused: key=[hidden]."
    assert line["path"] == "abc"
    assert "an-odd-secret" not in (tmp_path / "errors.log").read_text()


def test_the_settings_name_their_own_secrets(tmp_path):
    (tmp_path / "key").write_text("from-a-file-0\n")
    environ = {"STABILITY_API_KEY": "directly-given-0", "OPENAI_API_KEY_FILE": "key"}
    found = set(hidden(load(environ, tmp_path)))
    assert {"directly-given-0", "from-a-file-0"} <= found


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(event=st.dictionaries(st.text(), ANYTHING))
def test_anything_can_be_logged_as_one_ascii_line_of_json(event):
    text = logs.to_json(logs.redact(None, "info", event))
    assert text.isascii()
    assert "\n" not in text
    json.loads(text, parse_constant=pytest.fail)


def test_the_console_shows_words_and_no_control_characters(capsys):
    logs.configure("console", "info", None, "worker")
    log.info("job.done", prompt="\x1b[2Jcat")
    written = capsys.readouterr().err
    assert "job.done" in written
    assert "\\x1b[2Jcat" in written
    assert "\x1b" not in written


def test_files_hold_everything_and_the_errors_apart(tmp_path, stderr):
    folder = tmp_path / "a" / "logs"
    logs.configure("console", "info", folder, "worker")
    assert not folder.exists()  # made with the first line
    log.info("one")
    assert not (folder / "errors.log").exists()
    log.warning("two", prompt="\N{SNOWMAN}" * 70)
    assert [line["event"] for line in lines((folder / "generation.log").read_text())] == [
        "one",
        "two",
    ]
    (line,) = lines((folder / "errors.log").read_text())
    assert (line["event"], line["role"]) == ("two", "worker")
    assert line["prompt"] == "\N{SNOWMAN}" * 60 + "…"


def test_a_line_for_screen_and_file_is_written_out_once(tmp_path, capsys):
    logs.configure("json", "info", tmp_path, "worker")
    written: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        written.append(record)
        return True

    for handler in logs._installed:
        handler.addFilter(keep)
    log.warning("one")
    screen, *files = (handler.format(written[0]) for handler in logs._installed)
    assert len(files) == 2
    assert all(line is screen for line in files)
    assert capsys.readouterr().err == (tmp_path / "errors.log").read_text() == f"{screen}\n"


def test_ten_files_of_twenty_megabytes_are_kept(tmp_path):
    logs.configure("json", "info", tmp_path, "worker")
    files = [file for file in logs._installed if isinstance(file, logs.LogFile)]
    assert [file.maxBytes for file in files] == [20 * 1024**2] * 2
    for file in files:
        file.maxBytes = 200
    for number in range(30):
        log.info("line", number=number)
    kept = sorted(tmp_path.glob("generation.log*"))
    assert len(kept) == 10
    last = lines((tmp_path / "generation.log").read_text())[-1]
    assert last["number"] == 29


def test_a_file_moved_away_by_another_process_is_opened_anew(tmp_path):
    logs.configure("json", "info", tmp_path, "worker")
    log.info("before")
    (tmp_path / "generation.log").rename(tmp_path / "generation.log.1")
    log.info("after")
    (line,) = lines((tmp_path / "generation.log").read_text())
    assert line["event"] == "after"


def test_a_folder_that_cannot_be_written_is_one_warning_and_is_tried_again(tmp_path, stderr):
    (tmp_path / "logs").write_text("a file stands where the folder should be")
    logs.configure("json", "info", tmp_path / "logs", "worker")
    log.error("one")
    log.error("two")
    written = stderr()
    assert [line["event"] for line in written] == ["one", "logs.unwritable", "two"]
    assert written[1]["level"] == "warning"
    (tmp_path / "logs").unlink()
    log.error("three")
    assert (tmp_path / "logs" / "errors.log").exists()
    assert len(stderr()) == 1


def test_one_broken_file_of_the_two_does_not_make_noise(tmp_path, stderr):
    (tmp_path / "errors.log").mkdir()
    logs.configure("json", "info", tmp_path, "worker")
    for _ in range(3):
        log.error("again")
    assert [line["event"] for line in stderr()].count("logs.unwritable") == 1
    assert (tmp_path / "generation.log").read_text().count("again") == 3


def test_configuring_again_replaces_what_was_there(tmp_path, stderr):
    logs.configure("json", "info", tmp_path, "up")
    handlers = len(logging.getLogger().handlers)
    for _ in range(2):
        logs.configure("json", "info", tmp_path, "up")
    log.info("once")
    assert len(stderr()) == 1
    assert len(logging.getLogger().handlers) == handlers
