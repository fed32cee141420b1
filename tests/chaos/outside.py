"""The outside of a trial: a plain NATS client that asks, asks again, cancels and listens.

It knows the wire and nothing of ours, and keeps what it was promised as evidence.
"""

import asyncio
import contextlib
import json
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.chaos.auditor import ENDS, CancelAnswer
from tests.chaos.plan import Order

ANSWER_S = 1.0
PAUSE_S = 0.1
CANCEL_ASKS = 6
NEARLY = 60
NEARLY_S = 10.0
STORED_ALREADY = 10077

GONE = (TimeoutError, nats.errors.Error, OSError)


class Outside:
    """Requesters and listeners. `asking` may be cut off, `listening` never is."""

    def __init__(self, asking: Client, listening: Client) -> None:
        """Use `listen` first."""
        self._asking = asking
        self._listening = listening
        self._nearly: dict[str, asyncio.Event] = {}
        self.accepted: list[str] = []
        self.cancels: list[CancelAnswer] = []
        self.heard: list[tuple[str, str]] = []
        self.started: dict[str, list[dict[str, Any]]] = {}
        self.progress: dict[str, int] = {}
        self.unanswered = 0

    async def listen(self) -> None:
        """Hear everything that is said on reply subjects."""
        await self._listening.subscribe("mmg.event.>", cb=self._on_event)
        await self._listening.subscribe("mmg.progress.>", cb=self._on_progress)
        await self._listening.flush()

    async def ask(self, order: Order) -> None:
        """Publish until the server has answered; then cancel or publish again if that is asked."""
        await self._publish(order, order.lane)
        self.accepted.append(order.who)
        if order.again:
            await self._publish(order, order.again)
        if order.cancel == "end":
            await self.nearly_drawn(order)
        if order.cancel:
            await self.cancel(order)

    async def nearly_drawn(self, order: Order) -> None:
        """Wait until a request is nearly drawn, or has ended, or seems to do neither."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEARLY_S):
                await self._nearly.setdefault(order.who, asyncio.Event()).wait()

    async def cancel(self, order: Order) -> str | None:
        """Ask for the end of a request until somebody answers; return the answer."""
        for _ in range(CANCEL_ASKS):
            try:
                answer = await self._listening.request(
                    f"mmg.cancel.{order.agent}.{order.request_id}", b"", timeout=ANSWER_S
                )
            except GONE:
                await asyncio.sleep(PAUSE_S)
                continue
            body = json.loads(answer.data)
            kind = str(body.get("code") or body.get("kind"))
            if kind != "internal":
                self.cancels.append(CancelAnswer(order.who, kind, str(body.get("id", ""))))
            return kind
        return None

    async def _publish(self, order: Order, lane: str) -> None:
        """Publish as a plain client does: the same bytes until there is an answer."""
        subject = f"mmg.request.{lane}.{order.agent}.{order.request_id}"
        data = b"{no json" if order.body is None else json.dumps(order.body).encode()
        while True:
            headers = {"Nats-Msg-Id": order.who} if order.message_id else None
            try:
                answer = await self._asking.request(
                    subject, data, timeout=ANSWER_S, headers=headers
                )
                error = json.loads(answer.data).get("error")
            except GONE:
                self.unanswered += 1
            else:
                if error is None or error.get("err_code") == STORED_ALREADY:
                    return
            await asyncio.sleep(PAUSE_S)

    async def _on_event(self, msg: Msg) -> None:
        _, _, agent, request_id, kind = msg.subject.split(".")
        who = f"{agent}.{request_id}"
        body = json.loads(msg.data)
        if kind in ENDS:
            self.heard.append((who, body["id"]))
            self._nearly.setdefault(who, asyncio.Event()).set()
        if kind == "started":
            self.started.setdefault(who, []).append(body)

    async def _on_progress(self, msg: Msg) -> None:
        _, _, agent, request_id = msg.subject.split(".")
        who = f"{agent}.{request_id}"
        percent = json.loads(msg.data)["progress_percent"]
        self.progress[who] = percent
        if percent >= NEARLY:
            self._nearly.setdefault(who, asyncio.Event()).set()
