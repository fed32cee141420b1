"""The pictures of a completed request on this machine's disk: found, or fetched by their address.

Only fetches; which request they belong to and what to tell is for the caller.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp

from agent.config import Http
from contracts.events import Completed, Output

FETCH_TIMEOUT_S: Final = 60.0
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class NotHereError(Exception):
    """A picture is not on this disk and could not be brought here."""


async def on_this_disk(
    done: Completed, tell: Callable[[str], None], http: Http | None = None
) -> list[Path]:
    """Return where each picture is; one that another machine keeps is saved in the current folder.

    `http` has the key that the gateway there may want; nobody else is shown it.

    Raises: NotHereError naming the picture and the reason.
    """
    if not done.outputs:
        raise NotHereError(f"request {done.request_id} completed without a picture (a dry run?)")
    paths: list[Path] = []
    for output in done.outputs:
        if await asyncio.to_thread(_is_here, output):
            paths.append(Path(output.file_path))
            continue
        name = f"{done.request_id}-{len(paths) + 1}.{output.format}"
        path = await _fetch(output, name, _headers(output.url, http))
        tell(f"the picture lies on another machine; fetched {output.url}")
        paths.append(path)
    return paths


def _is_here(output: Output) -> bool:
    """Tell whether the path of the event names this picture, also seen from this machine."""
    path = Path(output.file_path)
    try:
        return path.is_file() and path.stat().st_size == output.file_size_bytes
    except OSError:
        return False


def _headers(url: str, http: Http | None) -> dict[str, str]:
    """Return the key for our own gateway, and nothing for any other address."""
    if http is None or http.key is None or not url.startswith(f"{http.public_url}/"):
        return {}
    return {"Authorization": f"Bearer {http.key}"}


async def _fetch(output: Output, otherwise: str, headers: dict[str, str]) -> Path:
    """Save the picture behind the url. Raises: NotHereError."""
    name = unquote(urlsplit(output.url).path.rpartition("/")[2])
    target = Path.cwd() / (name if _SAFE_NAME.fullmatch(name) else otherwise)
    try:
        data = await _download(output, headers)
        await asyncio.to_thread(_save, target, data)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise NotHereError(
            f"the picture was made, but it is not on this machine at {output.file_path}"
            f" and cannot be fetched from {output.url}: {reason}"
        ) from error
    return target


async def _download(output: Output, headers: dict[str, str]) -> bytes:
    """Read the picture and compare it. Raises: ValueError if it is another one."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(output.url, headers=headers, allow_redirects=not headers) as answer,
    ):
        answer.raise_for_status()
        data = bytearray()
        async for chunk in answer.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > output.file_size_bytes:
                break
    if hashlib.sha256(data).hexdigest() != output.sha256:
        raise ValueError("what lies there is not the picture that was made")
    return bytes(data)


def _save(target: Path, data: bytes) -> None:
    """Write a new file; one with these very bytes may be there already. Raises: OSError."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        if target.read_bytes() != data:
            raise
