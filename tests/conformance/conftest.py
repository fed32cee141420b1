"""Says at once where `make live` has no ComfyUI to talk to, and which one it talked to."""

import json
import os
import urllib.request

import pytest

from tests.conformance.subjects import LIVE

PATIENCE_S = 10


def pytest_sessionstart(session: pytest.Session) -> None:
    """Name the ComfyUI under test; end the run in one sentence where none answers."""
    url = os.environ.get(LIVE)
    if not url:
        return
    try:
        with urllib.request.urlopen(f"{url}/system_stats", timeout=PATIENCE_S) as answer:  # noqa: S310 - the operator's own address
            system = json.load(answer)["system"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        pytest.exit(
            f"no ComfyUI answers at {url} ({reason}). Start one, or name its address:"
            " MMG_COMFYUI_URL=http://host:port make live",
            returncode=1,
        )
    told = session.config.get_terminal_writer()
    told.line(f"ComfyUI {system['comfyui_version']} at {url}, {system.get('pytorch_version')}")
