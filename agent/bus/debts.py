"""What is owed to the tenants of a card, on the server: it outlives a worker that unloaded them.

Keys are never deleted: a debt that is paid is one of no models.
"""

import msgspec

from agent.bus import state
from agent.bus.connection import Bus, BusError
from agent.core.card import Debt, DebtError


class Debts:
    """The debts of the cards that this worker keeps. Changed by compare-and-set."""

    def __init__(self, bus: Bus) -> None:
        """Nothing is read yet."""
        self._bus = bus
        self._revisions: dict[str, int] = {}
        self._last: dict[str, Debt] = {}
        self._unsure: dict[str, Debt] = {}
        """What was written last and not answered: the server may have it."""

    async def read(self, card: str) -> Debt | None:
        """Return what is owed to the tenants of a card. Raises: DebtError."""
        try:
            entry = await state.read(self._bus, _key(card))
            self._revisions[card] = 0 if entry is None else entry.revision
            debt = None if entry is None else msgspec.json.decode(entry.data, type=Debt)
        except BusError as error:
            raise DebtError(str(error)) from error
        except msgspec.DecodeError as error:
            raise DebtError(f"it was written by another version: {error}") from error
        if debt is None or not debt.owed:
            return None
        self._last[card] = debt
        return debt

    async def write(self, card: str, debt: Debt) -> None:
        """Keep a debt. Order: `read` first. Raises: DebtError, also if somebody else wrote it."""
        try:
            await self._settle_doubt(card)
            revision = self._revisions.get(card, 0)
            self._revisions[card] = await state.write(self._bus, _key(card), debt, revision)
        except state.StaleRevisionError as error:
            raise DebtError("another worker has changed it") from error
        except BusError as error:
            self._unsure.setdefault(card, debt)
            raise DebtError(str(error)) from error
        self._last[card] = debt

    async def clear(self, card: str) -> None:
        """Forget a debt: it is paid. Raises: DebtError."""
        last = self._last.get(card)
        if last is not None:
            await self.write(card, msgspec.structs.replace(last, owed=()))

    async def _settle_doubt(self, card: str) -> None:
        """Find out whether a write without an answer was stored: its revision is needed then."""
        if card not in self._unsure:
            return
        entry = await state.read(self._bus, _key(card))
        if entry is not None and entry.data == msgspec.json.encode(self._unsure[card]):
            self._revisions[card] = entry.revision
            self._last[card] = self._unsure[card]
        del self._unsure[card]


def _key(card: str) -> str:
    return f"debt.{card}"
