"""Goal: the file of keys opens to whoever has a key and to nobody else, and is never half written.

Method: the real file in a temporary folder; properties over tokens and signatures; `mmg key` as a
person calls it.
"""

import json
import os
import stat
import threading
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.clock import SystemClock
from agent.gateway import keys, signing
from agent.gateway.keys import KeyFileError, MadeKey, Role
from contracts.errors import ContractError
from contracts.requests import Priority

SECRET = "ab" * 32
PATH = "/api/multimodal/assets/images/2026-03/L2-05.r1.png"


def add(path, agent="L2.05", role=Role.REQUESTER) -> MadeKey:
    return keys.add(path, agent, role, Priority.HIGH, "", SystemClock())


def test_a_key_is_found_by_its_token_and_by_nothing_else(tmp_path):
    path = tmp_path / "deep" / "keys.json"
    made = [add(path, f"L2.0{n}") for n in range(5)]
    found = keys.read(path)
    assert found is not None
    for one in made:
        assert found.find(one.token) == one.key
        assert found.find(one.token[:-1]) is None
        assert found.find(one.key.sha256) is None
        assert one.token not in path.read_text()
    assert found.find("") is None
    assert len({one.token for one in made}) == 5


@given(st.text(max_size=80))
def test_no_guess_is_a_key(guess):
    made = keys.KeyFile(
        secret=SECRET,
        keys=(
            keys.Key(
                id="00000000",
                agent="L1",
                role=Role.OPERATOR,
                highest=Priority.LOW,
                sha256="0" * 64,
                webhook_secret="whsec_",
                made_at=SystemClock().now(),
            ),
        ),
    )
    assert made.find(guess) is None


@pytest.mark.skipif(os.name != "posix", reason="this system has other rights")
def test_only_its_owner_may_read_the_file_also_after_it_was_replaced(tmp_path):
    path = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        add(path)
        add(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.is_private(path)
    path.chmod(0o644)
    assert not keys.is_private(path)


def test_several_writers_lose_no_key(tmp_path):
    path = tmp_path / "keys.json"
    writers = [threading.Thread(target=add, args=(path, f"L2.{n}")) for n in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    found = keys.read(path)
    assert found is not None
    assert {key.agent for key in found.keys} == {f"L2.{n}" for n in range(8)}
    assert {one.name for one in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}


def test_the_secret_of_the_file_outlives_every_change_and_webhooks_use_the_newest_key(tmp_path):
    path = tmp_path / "keys.json"
    first, second = add(path), add(path)
    found = keys.read(path)
    assert found is not None
    assert found.webhook_secret("L2.05") == second.key.webhook_secret
    assert found.webhook_secret("L3.01") is None
    assert [key.id for key in keys.revoke(path, (second.key.id,))] == [second.key.id]
    again = keys.read(path)
    assert again is not None
    assert (again.secret, again.keys) == (found.secret, (first.key,))
    assert keys.revoke(path, ("nobody",)) == ()
    assert keys.revoke(tmp_path / "none.json", ("L2.05",)) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"secret": "x"}', '{"version": 9, "secret": "%s"}']
)
def test_a_file_that_is_none_is_an_error_and_stays(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text.replace("%s", SECRET))
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        keys.read(path)
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        add(path)
    assert path.read_text() == text.replace("%s", SECRET)


def test_an_agent_id_that_is_none_makes_no_key(tmp_path):
    with pytest.raises(ContractError, match="agent"):
        add(tmp_path / "keys.json", "L2-05")
    assert not (tmp_path / "keys.json").exists()


@given(st.integers(0, 10**10), st.integers(-5, 5))
def test_a_signature_holds_until_its_time_and_for_its_path_only(until_s, off_s):
    query = dict(parse_qsl(signing.sign(PATH, SECRET, until_s)))
    assert signing.is_signed(PATH, query, SECRET, until_s + off_s) is (off_s < 0)
    assert not signing.is_signed(PATH + "x", query, SECRET, until_s - 1)
    assert not signing.is_signed(PATH, query, "cd" * 32, until_s - 1)
    later = {**query, "expires": str(until_s + 9)}
    assert not signing.is_signed(PATH, later, SECRET, until_s - 1)


@given(st.dictionaries(st.sampled_from(["expires", "signature"]), st.text(max_size=70)))
def test_no_guess_is_a_signature(query):
    assert not signing.is_signed(PATH, query, SECRET, 0.0)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["key", *arguments])
    heard = capsys.readouterr()
    return code, heard.out, heard.err


def test_a_person_makes_lists_and_revokes_keys(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMG_KEYS_FILE", "mine.json")
    assert "nobody needs one" in run(capsys, "list")[1]
    code, token, said = run(capsys, "add", "L2.05", "--max", "high", "--note", "the cover")
    assert (code, token.count("\n")) == (0, 1)
    assert "wants a key from everybody" in said
    assert token.strip() not in said
    code, out, said = run(capsys, "add", "L1.00", "--role", "operator", "--json")
    made = json.loads(out)
    assert (code, made["role"], made["token"][:4], said) == (0, "operator", "mmg_", "")
    found = keys.read(tmp_path / "mine.json")
    assert found is not None
    assert found.find(token.strip()) == found.keys[0]
    listed = run(capsys, "list")[1]
    assert "the cover" in listed
    assert token.strip() not in listed
    shown = json.loads(run(capsys, "list", "--json")[1])
    assert [(one["agent"], one["highest"], one["token"]) for one in shown] == [
        ("L2.05", "HIGH", None),
        ("L1.00", "CRITICAL", None),
    ]
    assert run(capsys, "revoke", made["id"], "L9.99")[0] == 1
    code, out, _ = run(capsys, "revoke", "L2.05")
    assert (code, out.startswith("revoked")) == (0, True)
    assert "nobody is let in" in run(capsys, "list")[1]


def test_a_file_that_cannot_be_read_is_one_line_for_a_person(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMG_KEYS_FILE", "mine.json")
    (tmp_path / "mine.json").write_text("{")
    code, _, said = run(capsys, "list")
    assert (code, said.count("\n")) == (2, 1)
    assert "mine.json is no file of keys" in said
