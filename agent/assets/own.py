"""Finds a picture that a requester owns already, by request or by content; never by a path."""

import hashlib
from pathlib import Path
from typing import Final

from agent.assets import names

READ_MAX: Final = 20_000
"""Pictures looked at, newest month first, before a content hash counts as unknown."""


def find_own(
    folder: Path, agent: str, *, request_id: str | None, sha256: str | None
) -> Path | None:
    """Return the picture of this agent's request, or with this content; None if there is none.

    `folder` is the one that holds the months. Another agent's picture is never found.
    """
    seen = 0
    for month in sorted((m for m in _months(folder)), reverse=True):
        for path in sorted(month.iterdir()):
            name = names.read(path.name)
            if name is None or name.role != "picture" or name.writer is not None:
                continue
            if name.who.agent != agent or path.is_symlink():
                continue
            seen += 1
            if seen > READ_MAX:
                return None
            if request_id is not None and name.who.request_id == request_id:
                return path
            if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return path
    return None


def _months(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and names.is_month(path.name)]
