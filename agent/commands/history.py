"""`mmg history`: what was asked for and what became of it, newest first, as the gateway has it.

It asks the gateway at MMG_PUBLIC_URL and nobody else: the ledger may be on another machine.
"""

import argparse
import asyncio
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

import aiohttp
import msgspec

from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.commands.faults import complain
from agent.config import Config
from agent.ledger.reading import Generation, Page
from contracts.errors import ContractError, ErrorCode, error_body

ROUTE: Final = "/api/multimodal/history"
ANSWER_S: Final = 15.0
FILTERS: Final = (
    "status",
    "priority",
    "requester",
    "type",
    "model",
    "engine",
    "quality",
    "style",
    "since",
    "until",
    "limit",
    "cursor",
)


class _Refused(msgspec.Struct):
    """What is read of an error: RFC 9457 with our code."""

    detail: str
    code: ErrorCode = ErrorCode.INTERNAL
    path: str | None = None


def run(arguments: argparse.Namespace) -> int:
    """Print one page."""
    config = session.read_config()
    session.log_from("critical", config)
    asked = {name: getattr(arguments, name) for name in FILTERS}
    query = {name: value for name, value in asked.items() if value is not None}
    try:
        body = asyncio.run(_ask(config, query))
    except (TimeoutError, aiohttp.ClientError) as error:
        complain(
            f"no gateway answers at {config.http.public_url}: {str(error) or 'no answer in time'}",
            "Is it running? `mmg gateway` or `mmg up` starts one; MMG_PUBLIC_URL names another.",
        )
        return exits.UNREACHABLE
    if arguments.json:
        print(body.decode())
        return exits.OK
    try:
        page = msgspec.json.decode(body, type=Page)
    except msgspec.DecodeError as error:
        complain(
            f"what answers at {config.http.public_url} is no gateway of this version: {error}",
            "MMG_PUBLIC_URL names another.",
        )
        return exits.FAILED
    _print(page, SystemClock().now())
    return exits.OK


async def _ask(config: Config, query: dict[str, object]) -> bytes:
    """Return a page's own bytes. Raises: ContractError as the gateway says, ClientError."""
    url = f"{config.http.public_url.rstrip('/')}{ROUTE}?{urlencode(query)}"
    limit = aiohttp.ClientTimeout(total=ANSWER_S)
    key = config.http.key
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(timeout=limit, headers=headers) as http,
        http.get(url, allow_redirects=False) as response,
    ):
        body = await response.read()
        if response.ok:
            return body
        raise _refusal(response.status, body)


def _refusal(status: int, body: bytes) -> ContractError:
    try:
        found = msgspec.json.decode(body, type=_Refused)
    except msgspec.DecodeError:
        found = _Refused(detail=f"the gateway answers with status {status}")
    said = error_body(found.code, found.detail, found.path)
    return ContractError(said.code, said.message, said.detail)


def _print(page: Page, now: datetime) -> None:
    if not page.generations:
        print("nothing fits")
        return
    ids = max(len(one.request_id) for one in page.generations)
    owners = max(len(one.requester) for one in page.generations)
    for one in page.generations:
        print(_line(one, ids, owners, now))
    hidden = page.total - len(page.generations)
    if page.next_cursor is not None:
        print(
            f"\n{page.total} in all; older ones: --cursor {page.next_cursor}, or a larger --limit"
        )
    elif hidden > 0:
        print(f"\n{page.total} in all; these are the oldest")


def _line(one: Generation, ids: int, owners: int, now: datetime) -> str:
    """Show a request as one line; how it went stands where it is known."""
    at = datetime.fromisoformat(one.created_at)
    old = wording.age(max(0.0, (now - at).total_seconds()))
    how = one.error_code or one.model_used or "-"
    took = "" if one.generation_time_seconds is None else f"{one.generation_time_seconds:.1f} s"
    prompt = "(unreadable)" if one.prompt is None else wording.cut(one.prompt)
    who = f"{wording.plain(one.request_id):<{ids}}  {wording.plain(one.requester):<{owners}}"
    return f"{old:>8}  {who}  {one.status:<10}  {wording.plain(how):<16} {took:>8}  {prompt}"
