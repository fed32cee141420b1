"""Goal: a configuration is either usable and explained, or refused with every fault at once.

Method: `load` on plain mappings and small files, no environment of this machine; a property over
any combination of values; `describe` and `example_toml` compared with the table of settings.
"""

import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import config
from agent.config import ConfigError, describe, example_toml, load
from agent.config.settings import ROWS, SECTIONS
from agent.config.values import boolean

BAD = {
    "MMG_NATS_URL": "natss://host",
    "MMG_NATS_PORT": "65536",
    "MMG_ACK_WAIT_S": "0.5",
    "MMG_REPLICAS": "2",
    "MMG_EVENTS_MAX_MIB": "63",
    "MMG_AGENT_QUEUED_MAX": "0",
    "MMG_HTTP_HOST": "everywhere",
    "MMG_HTTP_PORT": "54_112",
    "MMG_PUBLIC_URL": "ftp://host",
    "MMG_KEYS_FILE": "\0",
    "MMG_KEY": "two words",
    "MMG_TRUSTED_PROXIES": "10.0.0.0/33",
    "MMG_CORS_ORIGINS": "https://site.example/page",
    "MMG_RATE_LIMITS": "some",
    "MMG_WORKER_NAME": "gpu.1",
    "MMG_WORKER_HTTP_PORT": "-1",
    "MMG_ENGINES": "sketch,dalle",
    "MMG_SKETCH": "maybe",
    "MMG_SLOTS": "cpu:65",
    "MMG_LOOKAHEAD": "0",
    "MMG_DRAIN_S": "inf",
    "MMG_RUN_TIMEOUT_S": "0",
    "MMG_COMFYUI_URL": "gpu1:8188",
    "MMG_COMFYUI_OUTPUT_DIR": "\0",
    "MMG_COMFYUI_RESTART": 'restart "it',
    "MMG_STEP_TIMEOUT_S": "0",
    "MMG_OLLAMA_URL": "127.0.0.1:11434",
    "MMG_OLLAMA_ENHANCE_MODEL": "llama3 8b",
    "MMG_CARD": "the fast one",
    "MMG_RESERVE_MIB": "-1",
    "MMG_DOWNGRADE_FIRST": "perhaps",
    "MMG_PREEMPT_AFTER_S": "soon",
    "MMG_MAX_WAIT_S": "urgent:1",
    "MMG_LOW_HOURS": "22-22",
    "MMG_CLOUD": "perhaps",
    "ENABLE_CLOUD_FALLBACK": "perhaps",
    "MMG_CLOUD_ORDER": "openai,openai",
    "MMG_CLOUD_DAY_USD": "-1",
    "MMG_CLOUD_REQUEST_USD": "one",
    "MMG_CLOUD_REQUESTER_USD": "100001",
    "MMG_CLOUD_TIMEOUT_S": "299",
    "STABILITY_API_KEY": "two words",
    "MMG_STABILITY_URL": "http://proxy.example",
    "MMG_STABILITY_API": "v3",
    "MMG_STABILITY_HIGH_MODEL": "sdxl",
    "OPENAI_API_KEY": "short",
    "MMG_OPENAI_URL": "api.openai.com",
    "MMG_OPENAI_MODEL": "gpt image",
    "MMG_WEBHOOK_SECRET": "whsec_c2hvcnQ=",
    "MMG_WEBHOOK_ALLOW": "hooks.example",
    "MMG_ALERT_WEBHOOK_URL": "hooks.example",
    "MMG_SITE_DIR": "~/site",
    "MMG_NATS_NKEY": "SUABC",
    "MMG_NATS_CREDS": "\0",
    "MMG_NATS_CA": "~",
    "MMG_DATA_DIR": "a\0b",
    "MMG_ASSETS_DIR": "~/images",
    "MMG_ASSETS_URL": "https://bucket.example",
    "MMG_RETENTION_DAYS": "0",
    "MMG_JPEG": "q80",
    "MMG_WORKFLOWS_DIR": "\0",
    "MMG_LOG_DIR": "~",
    "MMG_LOG_FORMAT": "xml",
    "MMG_LOG_LEVEL": "loud",
}


def faults(environ, directory) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load(environ, directory)
    assert str(raised.value) == "\n".join(raised.value.faults)
    return raised.value.faults


def shown(loaded) -> dict[str, tuple[str, str]]:
    return {line.name: (line.value, line.source) for line in describe(loaded)}


def test_nothing_set_gives_the_documented_defaults(tmp_path):
    loaded = load({}, tmp_path)
    assert loaded.bus == config.Bus(
        url=None, port=4222, ack_wait_s=30, replicas=1, events_max_mib=2048, agent_queued_max=None
    )
    assert loaded.bus.urls == ("nats://127.0.0.1:4222",)
    assert loaded.http == config.Http(
        host="127.0.0.1",
        port=54112,
        public_url="http://127.0.0.1:54112",
        keys_file=None,
        key=None,
        trusted_proxies=None,
        cors_origins=None,
        rate_limits=True,
    )
    assert loaded.worker == config.Worker(
        name=None,
        http_port=54121,
        engines=None,
        sketch=None,
        slots={"cpu": 2, "cloud": 4},
        lookahead=16,
        drain_s=30,
        run_timeout_s=120,
    )
    assert loaded.comfyui == config.ComfyUI(
        url=None, output_dir=None, restart=None, step_timeout_s=120
    )
    assert loaded.comfyui.urls == ("http://127.0.0.1:8188",)
    assert loaded.ollama == config.Ollama(url="http://127.0.0.1:11434", enhance_model=None)
    assert loaded.card == config.Card(
        cards=("auto",),
        reserve_mib=2048,
        downgrade_first=False,
        preempt_after_s=5,
        max_wait_s={"critical": 0, "high": 30, "medium": 120, "low": 600},
        low_hours=None,
    )
    assert loaded.webhook == config.Webhook(secret=None, allow=None, alert_url=None)
    assert loaded.site == config.Site(dir=None, nkey=None, creds=None, ca=None)
    assert (loaded.storage.retention_days, loaded.storage.jpeg) == (30, False)
    assert loaded.storage.assets_url is None
    assert loaded.storage.data_dir == tmp_path / "data"
    assert loaded.storage.assets_dir == tmp_path / "generated-assets"
    assert loaded.storage.workflows_dir == Path(config.__file__).parents[2] / "workflows"
    assert loaded.logs == config.Logs(dir=tmp_path / "multimodal-logs", format=None, level="info")
    assert loaded.warnings == ()
    assert {source for _, source in shown(loaded).values()} == {"default"}


def test_every_row_of_the_table_is_a_field_of_its_section():
    for section in SECTIONS:
        struct = next(f.type for f in msgspec.structs.fields(config.Config) if f.name == section)
        keys = [row.key for row in ROWS if row.section == section]
        assert sorted(keys) == sorted(field.name for field in msgspec.structs.fields(struct))
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.name for row in ROWS} == set(BAD)


def test_each_place_is_named_in_the_docstring_of_the_package():
    text = config.__doc__ or ""
    assert all(f"{row.key} {row.name}" in text for row in ROWS)


def test_the_environment_counts_before_dotenv_and_dotenv_before_the_file(tmp_path):
    (tmp_path / "mmg.toml").write_text(
        '[http]\nport = 1\n[worker]\nhttp_port = 1\nname = "a"\n[bus]\nport = 1\n'
    )
    (tmp_path / ".env").write_text("MMG_HTTP_PORT=2\nMMG_WORKER_HTTP_PORT=2\n")
    loaded = load({"MMG_HTTP_PORT": "3", "MMG_WORKER_NAME": " "}, tmp_path)
    assert (loaded.http.port, loaded.worker.http_port, loaded.bus.port) == (3, 2, 1)
    assert loaded.worker.name == "a"  # an empty value counts as not set
    sources = {name: source for name, (_, source) in shown(loaded).items()}
    assert sources["MMG_HTTP_PORT"] == "environment"
    assert sources["MMG_WORKER_HTTP_PORT"] == ".env"
    assert sources["MMG_NATS_PORT"] == sources["MMG_WORKER_NAME"] == "mmg.toml"
    assert sources["MMG_DRAIN_S"] == "default"


def test_all_faults_are_reported_together_each_with_value_place_and_what_is_allowed(tmp_path):
    found = faults(BAD, tmp_path)
    assert [line.split()[0] for line in found] == [row.name for row in ROWS]
    for line, row in zip(found, ROWS, strict=True):
        assert ("[hidden]" if row.hide == "all" else repr(BAD[row.name])) in line
        assert row.hide != "all" or BAD[row.name] not in line
        assert "(environment): " in line
        assert line.endswith(f"; allowed: {row.allowed}")


@pytest.mark.parametrize("name", BAD)
def test_each_bad_value_alone_is_one_fault_from_any_source(name, tmp_path):
    assert len(faults({name: BAD[name]}, tmp_path)) == 1
    (tmp_path / ".env").write_text(f"{name}='{BAD[name]}'\n")
    assert [line for line in faults({}, tmp_path) if f"{name} [" in line and "(.env): " in line]


NAMES = st.sampled_from([*BAD, "MMG_NATS_URL_FILE", "MMG_CONFIG", "MMG_X", "HOME", "PATH"])
VALUES = st.one_of(st.text(max_size=20), st.sampled_from([*BAD.values(), "1", "~/x", "a:1,b"]))
QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(environ=st.dictionaries(NAMES, VALUES))
def test_any_environment_gives_a_config_or_nothing_but_a_config_error(environ, tmp_path):
    try:
        loaded = load(environ, tmp_path)
    except ConfigError:
        pass
    else:
        assert len(describe(loaded)) == len(ROWS)


@QUICK
@given(names=st.sets(st.sampled_from(list(BAD)), min_size=1))
def test_any_combination_of_bad_values_is_reported_in_full(names, tmp_path):
    found = faults({name: BAD[name] for name in names}, tmp_path)
    assert {line.split()[0] for line in found} == names


@QUICK
@given(dotenv=st.binary(max_size=60), toml=st.text(max_size=60))
def test_any_files_give_a_config_or_nothing_but_a_config_error(dotenv, toml, tmp_path):
    (tmp_path / ".env").write_bytes(dotenv)
    (tmp_path / "mmg.toml").write_bytes(toml.encode(errors="surrogatepass"))
    with suppress(ConfigError):
        load({}, tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[http]\nprot = 1", "[http] has no key 'prot'; did you mean port?"),
        ("[htpp]\nport = 1", "there is no table 'htpp'; did you mean http?"),
        ("[zzz]\n", "there is no table 'zzz'; there are bus, http"),
        ("http = 5", "'http' is a table: write [http]"),
        ("[http\n", "not TOML"),
        ("[http]\nport = 2020-01-01", "port is a date"),
        ("[http]\nport = 1.5", "MMG_HTTP_PORT [http] port = '1.5' (mmg.toml): not a whole number"),
        ("[http]\nport = true", "'true' (mmg.toml): not a number"),
        ("[http]\nport = 0x" + "f" * 5000, "port is a int"),
        ("[worker]\nslots = {cpu = true}", "the count 'true' of cpu is not a number"),
        ("a = " + "[" * 5000, "not TOML"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "is not UTF-8 text"),
    ],
)
def test_a_fault_in_the_file_says_where_it_is(text, part, tmp_path):
    (tmp_path / "mmg.toml").write_text(text, encoding="latin-1")
    assert part in faults({}, tmp_path)[0]


def test_toml_values_may_have_their_own_types(tmp_path):
    (tmp_path / "site.toml").write_text(
        '[worker]\nengines = ["sketch"]\nslots = {cpu = 2, cloud = 4}\ndrain_s = 2.5\n'
    )
    loaded = load({"MMG_CONFIG": "site.toml"}, tmp_path)
    assert loaded.worker.engines == ("sketch",)
    assert loaded.worker.slots == {"cpu": 2, "cloud": 4}
    assert shown(loaded)["MMG_SLOTS"] == ("cpu:2,cloud:4", "site.toml")
    assert shown(loaded)["MMG_DRAIN_S"] == ("2.5", "site.toml")


def test_a_named_file_that_is_missing_is_a_fault_and_a_folder_too(tmp_path):
    assert "no such file" in faults({"MMG_CONFIG": "no.toml"}, tmp_path)[0]
    (tmp_path / ".env").mkdir()
    assert ".env cannot be read" in faults({}, tmp_path)[0]


def test_unknown_names_of_ours_are_warnings_and_others_are_not_ours(tmp_path):
    (tmp_path / ".env").write_text("MMG_CLOAK=on\nCOMPOSE_PROFILES=x\n")
    loaded = load({"MMG_HTTP_PROT": "1", "OTHER_API_KEY": "x"}, tmp_path)
    assert len(loaded.warnings) == 2
    assert loaded.warnings[0].endswith("did you mean MMG_HTTP_PORT?")
    assert loaded.warnings[1].startswith("MMG_CLOAK (.env): no setting")


def test_dotenv_takes_quotes_comments_and_export(tmp_path):
    (tmp_path / ".env").write_bytes(
        b"\xef\xbb\xbf# first\r\n\r\nexport MMG_WORKER_NAME = one # comment\r\n"
        b'MMG_DATA_DIR=\'a # b\'\r\nMMG_ASSETS_DIR="q\\"q"  # comment\r\nMMG_LOG_DIR=c#d\r\n'
        b"MMG_SKETCH= # nothing\r\n"
    )
    loaded = load({}, tmp_path)
    assert loaded.worker.name == "one"
    assert loaded.worker.sketch is None
    assert loaded.storage.data_dir == tmp_path / "a # b"
    assert loaded.storage.assets_dir == tmp_path / 'q"q'
    assert loaded.logs.dir == tmp_path / "c#d"


@pytest.mark.parametrize("line", ["no sense", "A='open", 'A="open\\"', "1A=x", "A='x' y"])
def test_a_broken_line_in_dotenv_is_named_by_number_and_never_shown(line, tmp_path):
    (tmp_path / ".env").write_text(f"# x\n{line}\n")
    (fault,) = faults({}, tmp_path)
    assert fault.startswith(".env line 2: not a setting")
    assert line not in fault


def test_the_password_of_an_address_is_shown_nowhere(tmp_path):
    url = "nats://me:hush@a:4222, tls://hush@b"
    loaded = load({"MMG_NATS_URL": url}, tmp_path)
    assert loaded.bus.urls == ("nats://me:hush@a:4222", "tls://hush@b")
    assert shown(loaded)["MMG_NATS_URL"][0] == "nats://[hidden]@a:4222,tls://[hidden]@b"
    for bad in ("nats://me:hu/sh@a", "nats://me:x,hush@a:1", "me:hush@a", "nats://me:hush@a:99999"):
        text = "".join(faults({"MMG_NATS_URL": bad}, tmp_path))
        assert "sh@" not in text
        assert "me" not in text.split("(environment)")[0]
    assert "hush" not in repr(loaded) + repr(describe(loaded))


def test_a_secret_may_lie_in_a_file(tmp_path):
    (tmp_path / "url").write_text("nats://me:hush@a:4222\n")
    (tmp_path / ".env").write_text("MMG_NATS_URL=nats://lower\n")
    loaded = load({"MMG_NATS_URL_FILE": "url"}, tmp_path)
    assert loaded.bus.url == "nats://me:hush@a:4222"
    assert shown(loaded)["MMG_NATS_URL"][1] == "environment, MMG_NATS_URL_FILE"
    both = {"MMG_NATS_URL_FILE": "url", "MMG_NATS_URL": "nats://x"}
    assert "only one of the two" in faults(both, tmp_path)[0]
    assert "nothing there" in faults({"MMG_NATS_URL_FILE": "none"}, tmp_path)[0]
    assert "cannot be read" in faults({"MMG_NATS_URL_FILE": "."}, tmp_path)[0]
    (tmp_path / ".env").unlink()
    (tmp_path / "mmg.toml").write_text('[bus]\nurl_file = "url"\n')
    assert load({}, tmp_path).bus.url == "nats://me:hush@a:4222"


def test_the_public_address_is_derived_or_kept(tmp_path):
    derived = load({"MMG_HTTP_HOST": "::1", "MMG_HTTP_PORT": "0"}, tmp_path).http
    assert derived.bound(8080).public_url == "http://[::1]:8080"
    kept = load({"MMG_PUBLIC_URL": "https://x.org/mm/", "MMG_HTTP_PORT": "0"}, tmp_path).http
    assert kept.bound(8080) == msgspec.structs.replace(kept, port=8080)
    assert kept.public_url == "https://x.org/mm"


def test_settings_that_contradict_each_other_are_faults_beside_the_others(tmp_path):
    environ = {"MMG_REPLICAS": "3", "MMG_ACK_WAIT_S": "10", "MMG_LOG_LEVEL": "loud"}
    environ |= {"MMG_SKETCH": "off", "MMG_ENGINES": "sketch"}
    found = faults(environ, tmp_path)
    assert [line.split()[0] for line in found] == ["MMG_LOG_LEVEL", "MMG_ACK_WAIT_S", "MMG_SKETCH"]


@pytest.mark.parametrize("value", ["cpu", "cpu:", "cpu:1,cpu:2", "tpu:1", "cpu:+1", "cpu:0", ","])
def test_slots_that_make_no_sense_are_refused(value, tmp_path):
    assert len(faults({"MMG_SLOTS": value}, tmp_path)) == 1


@pytest.mark.parametrize("value", ["1e3", "0x10", "+5", "\N{ARABIC-INDIC DIGIT ONE}", "1.0", "nan"])
def test_numbers_are_read_strictly(value, tmp_path):
    assert len(faults({"MMG_HTTP_PORT": value}, tmp_path)) == 1


def test_yes_and_no_have_four_words_each():
    assert [boolean(word) for word in ("true", "1", "Yes", "ON")] == [True] * 4
    assert [boolean(word) for word in ("false", "0", "No", "OFF")] == [False] * 4
    with pytest.raises(ValueError, match="neither"):
        boolean("2")


def test_paths_start_at_home_or_where_mmg_is_started(tmp_path):
    environ = {"MMG_DATA_DIR": "~/d", "MMG_LOG_DIR": "sub/logs", "HOME": str(tmp_path / "me")}
    loaded = load(environ, tmp_path)
    assert loaded.storage.data_dir == tmp_path / "me" / "d"
    assert loaded.logs.dir == tmp_path / "sub" / "logs"
    assert load({}, Path()).logs.dir.is_absolute()


def test_the_log_format_follows_the_terminal_unless_configured(tmp_path):
    logs = load({}, tmp_path).logs
    assert (logs.format_for(terminal=True), logs.format_for(terminal=False)) == ("console", "json")
    assert load({"MMG_LOG_FORMAT": "JSON"}, tmp_path).logs.format_for(terminal=True) == "json"


def test_the_example_changes_nothing_as_it_is_and_with_every_line_active(tmp_path):
    plain = load({}, tmp_path)
    (tmp_path / "mmg.toml").write_text(example_toml())
    assert load({}, tmp_path) == plain
    active = re.sub(r"^#(?=\w+ = )", "", example_toml(), flags=re.MULTILINE)
    assert len(re.findall(r"^\w+ = ", active, flags=re.MULTILINE)) == len(ROWS)
    (tmp_path / "mmg.toml").write_text(active)
    loaded = load({}, tmp_path)
    assert (loaded.bus, loaded.http, loaded.worker) == (plain.bus, plain.http, plain.worker)
    assert (loaded.storage, loaded.logs) == (plain.storage, plain.logs)
