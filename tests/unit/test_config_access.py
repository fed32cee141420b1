"""Goal: where the gateway listens and who may ask is said clearly, or refused with what to do.

Method: `load` on plain mappings.
"""

import pytest

from agent.config import ConfigError, load


def faults(environ, directory) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load(environ, directory)
    return raised.value.faults


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "LocalHost", "192.168.1.5"])
def test_an_address_may_be_listened_on_and_a_name_may_not(host, tmp_path):
    assert load({"MMG_HTTP_HOST": host}, tmp_path).http.host == host.lower()
    for name in ("example.org", "*", "10.0.0.0/8"):
        assert len(faults({"MMG_HTTP_HOST": name}, tmp_path)) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - it is refused
def test_who_listens_everywhere_says_where_others_find_it(host, tmp_path):
    assert "MMG_PUBLIC_URL" in faults({"MMG_HTTP_HOST": host}, tmp_path)[0]
    environ = {"MMG_HTTP_HOST": host, "MMG_PUBLIC_URL": "https://mmg.example"}
    assert load(environ, tmp_path).http.host == host


def test_proxies_and_sites_are_lists_without_repetition(tmp_path):
    http = load(
        {
            "MMG_TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1,10.0.0.0/8",
            "MMG_CORS_ORIGINS": "https://Site.example,http://localhost:3000/",
        },
        tmp_path,
    ).http
    assert http.trusted_proxies == ("10.0.0.0/8", "127.0.0.1/32")
    assert http.cors_origins == ("https://site.example", "http://localhost:3000")


def test_no_key_shows_when_the_settings_are_printed(tmp_path):
    loaded = load({"MMG_KEY": "mmg_0123_qwertz"}, tmp_path)
    assert loaded.http.key == "mmg_0123_qwertz"
    assert "qwertz" not in repr(loaded)
