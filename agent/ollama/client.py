"""Ollama as a tenant of the card: what it holds, unload, load, and a text from a model.

It must not decide who gets the card, and it keeps no picture of what is loaded: others load and
unload at any time. Source: ollama/ollama at fb30760 (2026-08-21, v0.33), `server/routes.go` and
`server/sched.go`.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
import structlog

from agent.clock import Clock
from agent.core.card import Loaded, Tenant
from agent.ollama.line import Line, RefusedError
from agent.tenants import Installed, TenantError, UnknownModelError

LISTING_S: Final = 2.0
UNLOAD_S: Final = 5.0
LOAD_S: Final = 120.0
KEEP_ALIVE: Final = timedelta(minutes=5)
"""Ollama's own, where nobody says otherwise (OLLAMA_KEEP_ALIVE)."""
FOREVER: Final = timedelta(days=20 * 365)
"""From here on a model stays for good, as `ollama ps` says too; -1 shows as some 292 years."""
MIB: Final = 1024 * 1024
_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400
_NO_TEXT: Final = "does not support generate"
"""What an embedding model answers to /api/generate, before anything is loaded."""

_T = TypeVar("_T")
log = structlog.get_logger()


class NoTextError(TenantError):
    """The model makes embeddings only."""


class Listed(msgspec.Struct, frozen=True):
    """One model as `/api/ps` lists it. Units: bytes; `context_length` in tokens, 0: not told."""

    name: str
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]
    size: int = 0
    size_vram: int = 0
    context_length: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model wrote, and how long it had to be loaded for that. Units: seconds."""

    text: str
    load_s: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How Ollama is, for people. `detail` says why it is not up."""

    up: bool
    version: str = ""
    detail: str = ""
    models: tuple[Loaded, ...] = ()


class _Listing(msgspec.Struct, frozen=True):
    models: tuple[Listed, ...] | None = ()


class _Tag(msgspec.Struct, frozen=True):
    name: str
    size: int = 0


class _Tags(msgspec.Struct, frozen=True):
    models: tuple[_Tag, ...] | None = ()


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Done(msgspec.Struct, frozen=True):
    done: bool = False
    response: str = ""
    error: str = ""
    load_duration: int = 0


class Ollama:
    """One Ollama server. Order: `open` first, `close` last."""

    name: Final = "ollama"

    def __init__(self, url: str, clock: Clock) -> None:
        """Nothing is opened before `open`."""
        self._line = Line(url)
        self._clock = clock
        self._away: str | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return self._line.url

    async def open(self) -> Self:
        """Make the session; no connection yet."""
        await self._line.open()
        return self

    async def close(self) -> None:
        """Close all connections; a load under way is given up by Ollama too."""
        await self._line.close()

    # --- the tenant ----------------------------------------------------------------------------

    async def loaded(self) -> Tenant:
        """Tell what it holds; never raises. Units: MiB, rounded up.

        A model that is being loaded has memory already and is not listed before it is there. One
        that was unloaded is off the list a little before its memory is free.
        """
        try:
            listed = await self.listing()
        except TenantError as error:
            self._note(str(error))
            return Tenant(name=self.name, answers=False)
        self._note("")
        now = self._clock.now()
        return Tenant(name=self.name, loaded=tuple(_loaded(one, now) for one in listed))

    async def installed(self) -> tuple[Installed, ...]:
        """Tell what it could load, by /api/tags. Units: MiB, rounded up. Raises: TenantError."""
        tags = _shaped(await self._line.get("/api/tags", LISTING_S), _Tags).models or ()
        return tuple(Installed(name=one.name, size_mib=_mib(one.size)) for one in tags)

    async def unload(self, model: str) -> None:
        """Ask it to unload a model.

        The answer comes before anything happens: a model in use goes when its last request ends,
        one that is being loaded not at all; one that is not loaded is fine too.
        Raises: UnknownModelError, TenantError.
        """
        await self._generate({"model": model, "keep_alive": 0}, UNLOAD_S)

    async def load(self, model: str, keep_alive_s: int | None) -> None:
        """Load a model and wait until it is; None: for good. Sends no options.

        For a model that is loaded it changes the keep-alive, which takes back an unload that has
        not happened yet. Giving up the call makes Ollama give up the load. Without enough free
        memory it loads with a part on the CPU and says nothing: look at `loaded`.
        Raises: UnknownModelError, TenantError.
        """
        assert keep_alive_s is None or keep_alive_s > 0, "a keep-alive of 0 unloads"
        body = {"model": model, "keep_alive": -1 if keep_alive_s is None else keep_alive_s}
        try:
            await self._generate(body, LOAD_S)
        except NoTextError:
            # An embedding of nothing loads such a model as a text of nothing loads the others.
            await self._post("/api/embed", {**body, "input": []}, LOAD_S)

    # --- for people, and for prompts ------------------------------------------------------------

    async def listing(self) -> tuple[Listed, ...]:
        """List the models that are loaded, as Ollama tells it. Raises: TenantError."""
        return _shaped(await self._line.get("/api/ps", LISTING_S), _Listing).models or ()

    async def version(self) -> str:
        """Ask which version it is. Raises: TenantError."""
        return _shaped(await self._line.get("/api/version", LISTING_S), _Version).version

    async def health(self) -> Health:
        """Say how it is; never raises."""
        try:
            version = await self.version()
            listed = await self.listing()
        except TenantError as error:
            return Health(up=False, detail=str(error))
        now = self._clock.now()
        models = tuple(_loaded(one, now) for one in listed)
        return Health(up=True, version=version, models=models)

    async def write(self, body: dict[str, Any], timeout_s: float) -> Answer:
        """Let a model write a text: the body of /api/generate, not streamed.

        Raises: UnknownModelError, NoTextError, TenantError.
        """
        done = await self._generate({**body, "stream": False}, timeout_s)
        if not done.done:
            raise TenantError("Ollama's answer has no end")
        return Answer(text=done.response, load_s=done.load_duration / 1e9)

    # --- inside ---------------------------------------------------------------------------------

    async def _generate(self, body: dict[str, Any], timeout_s: float) -> _Done:
        return await self._post("/api/generate", body, timeout_s)

    async def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> _Done:
        try:
            text = await self._line.post(path, body, timeout_s)
        except RefusedError as error:
            if error.status == _NOT_FOUND and error.words.startswith("model "):
                raise UnknownModelError(str(body["model"]), error.words) from error
            if error.status == _BAD_REQUEST and _NO_TEXT in error.words:
                raise NoTextError(error.words) from error
            raise
        done = _shaped(text, _Done)
        if done.error:  # What goes wrong after the headers comes with a 200.
            raise TenantError(f"Ollama failed: {done.error}")
        return done

    def _note(self, away: str) -> None:
        """Log that it went or came back: once, not with every reading."""
        if away and not self._away:
            log.info("ollama.away", url=self.url, reason=away)
        elif not away and self._away:
            log.info("ollama.answers_again", url=self.url, after=self._away)
        self._away = away


def _loaded(one: Listed, now: datetime) -> Loaded:
    return Loaded(
        name=one.name,
        size_mib=_mib(one.size),
        vram_mib=_mib(one.size_vram),
        expires_at=_expires_at(one.expires_at, now),
    )


def _expires_at(told: datetime, now: datetime) -> datetime | None:
    """Say until when a model stays by itself.

    1. Far in the future -> None: for good.
    2. Over, and it is there all the same: it is in use, and its keep-alive, which is not told,
       begins again with the end of that -> as if it were Ollama's own.
    3. As told.
    """
    if told - now > FOREVER:
        return None  # 1
    if told <= now:
        return now + KEEP_ALIVE  # 2
    return told.astimezone(UTC)  # 3


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)


def _shaped(text: bytes, kind: type[_T]) -> _T:
    """Read an answer as what it should be. Raises: TenantError where it is something else."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise TenantError(f"not what Ollama answers: {error}") from error
