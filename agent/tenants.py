"""The one protocol of all tenants: programs beside ComfyUI that hold models on the card.

Ollama is one; vLLM with its sleep mode could stand beside it. A tenant's client does what it is
asked and says what it sees; it must not decide anything: `agent.core.arbiter` does.
"""

from typing import Protocol

import msgspec

from agent.core.card import Tenant


class TenantError(Exception):
    """A tenant is away or refused; the text says how, for people."""


class UnknownModelError(TenantError):
    """The tenant does not know the model any more; asking again does not help."""

    def __init__(self, model: str, why: str) -> None:
        """Keep which one."""
        super().__init__(why)
        self.model = model


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a tenant's disk. Units: MiB of its files; loaded it takes somewhat more."""

    name: str
    size_mib: int


class TenantClient(Protocol):
    """One tenant. Each call has a time limit of its own and passes a cancellation on."""

    @property
    def name(self) -> str:
        """What it is called in readings and debts."""
        ...

    async def loaded(self) -> Tenant:
        """Tell what it holds; never raises. One that is away has `answers` False."""
        ...

    async def installed(self) -> tuple[Installed, ...]:
        """Tell what it could load. Raises: TenantError."""
        ...

    async def unload(self, model: str) -> None:
        """Ask it to unload a model.

        The answer proves nothing: look at `loaded` and at the card. Raises: UnknownModelError,
        TenantError.
        """
        ...

    async def load(self, model: str, keep_alive_s: int | None) -> None:
        """Load a model and wait until it is; None: for good.

        For a model that is loaded it changes the keep-alive and takes back an unload that has not
        happened yet. Raises: UnknownModelError, TenantError.
        """
        ...
