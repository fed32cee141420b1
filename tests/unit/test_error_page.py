"""Goal: the commands can explain every error code in the words of the page.

Method: the page itself.
"""

from agent.commands import error_page
from contracts.errors import ErrorCode


def test_every_code_is_explained():
    for code in ErrorCode:
        found = error_page.explain(code)
        assert found is not None, code
        assert all((found.meaning, found.cause, found.todo))


def test_a_page_that_is_not_installed_explains_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(error_page, "_PLACES", (tmp_path / "errors.md",))
    assert error_page.explain(ErrorCode.HANG) is None
