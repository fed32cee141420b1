"""What a webhook has to fulfil to be taken, and whose secret signs it. Must not send anything."""

import asyncio
from typing import Final

import structlog

from agent.bus import hooks
from agent.bus.connection import Bus, BusError
from agent.clock import Clock, SystemClock
from agent.core import webhook, webhook_url
from agent.gateway import keys
from agent.gateway.problems import problem
from agent.gateway.settings import GatewaySettings
from contracts.errors import ErrorCode
from contracts.subjects import Identity

PATH: Final = "$.webhook_url"

log = structlog.get_logger()


class HookDoor:
    """Looks at the webhook of a request before it is taken."""

    def __init__(self, bus: Bus, settings: GatewaySettings, clock: Clock | None = None) -> None:
        """Read nothing yet."""
        self._bus = bus
        self._clock = clock or SystemClock()
        self._settings = settings

    async def require(self, url: str | None, requester: str) -> None:
        """Refuse an address that could not be told, and one that nobody could sign for.

        Raises: Problem, ContractError, BusError.
        """
        if url is None:
            return
        reason = webhook_url.refusal(url, self._settings.hooks.allowed)
        if reason is not None:
            raise problem(ErrorCode.INVALID_REQUEST, f"webhook_url: {reason}", PATH)
        if not await self.secrets_of(requester):
            raise problem(
                ErrorCode.NOT_ENABLED,
                f"no secret signs webhooks for {requester}, and unsigned ones are not sent: set"
                " MMG_WEBHOOK_SECRET for the gateway, or give the agent a key (`mmg key add`)",
                PATH,
            )
        try:
            await hooks.require_room(self._bus)
        except hooks.NoRoomError as error:
            raise problem(ErrorCode.QUEUE_FULL, f"webhook_url: {error}", PATH) from error

    async def keep(self, who: Identity, url: str | None) -> None:
        """Keep the address of a request that was just stored.

        Where that fails, the worker that takes the request does it: its body has the address, too.
        """
        if url is None:
            return
        try:
            await hooks.keep(self._bus, who, url, self._clock.now())
        except (hooks.NoRoomError, BusError) as error:
            log.warning("webhook.not_kept", request=str(who), reason=str(error))

    async def secrets_of(self, requester: str) -> tuple[bytes, ...]:
        """Return what signs for a requester: its own secret, else that of the site; or nothing.

        Raises: KeyFileError.
        """
        own = await asyncio.to_thread(self._own, requester)
        texts = self._settings.hooks.secrets if own is None else (own,)
        try:
            return tuple(webhook.read_secret(text) for text in texts)
        except ValueError as error:
            raise keys.KeyFileError(f"the webhook secret of {requester}: {error}") from error

    def _own(self, requester: str) -> str | None:
        """Read the requester's own secret. Raises: KeyFileError."""
        path = self._settings.keys_file
        found = None if path is None else keys.read(path)
        return None if found is None else found.webhook_secret(requester)
