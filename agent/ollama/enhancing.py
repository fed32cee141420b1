"""Asks the language model that is loaded to extend a prompt.

Nobody waits long for it and nothing depends on it: on any failure the requester's own prompt is
kept. It must not decide whether a model may be loaded for it: who calls knows the card.
"""

import asyncio
from typing import Any, Final

import msgspec
import structlog

from agent.clock import Clock
from agent.core.enhancing import Enhanced, Kept, UnusableError, extended, task, why_not
from agent.ollama.client import Answer, Listed, NoTextError, Ollama
from agent.tenants import TenantError
from contracts.requests import Style

ENHANCE_S: Final = 20.0
RELOADED_S: Final = 1.0
"""From here on a model was loaded for the answer, not only looked up."""
WRITING: Final = {"temperature": 0.4, "num_predict": 400}
SEED_LIMIT: Final = 2**31
log = structlog.get_logger()


class _Candidate(msgspec.Struct, frozen=True):
    """A model to ask. `context_length` 0: leave it to Ollama."""

    name: str
    is_loaded: bool
    context_length: int = 0


class Enhancer:
    """Extends prompts with the model that is loaded, or with the one that is configured.

    The configured one comes first if it is loaded; of the others those that are wholly on the card
    before those that are not, and the larger before the smaller. Only where none of them writes
    texts is the configured one loaded, if that is allowed, and unloaded with its answer: nobody
    else asked for it.
    """

    def __init__(
        self, ollama: Ollama, model: str | None, clock: Clock, limit_s: float = ENHANCE_S
    ) -> None:
        """`model` None: only models that are loaded anyway are asked."""
        self._ollama = ollama
        self._model = model
        self._clock = clock
        self._limit_s = limit_s

    async def enhance(
        self, prompt: str, style: Style | None, *, seed: int = 0, may_load: bool = False
    ) -> Enhanced | Kept:
        """Extend a prompt within the limit, or say why it is kept; never raises.

        `may_load`: the card has nothing better to do, and no model is owed. A model that is
        unloaded in the moment between the look and the question is loaded again by Ollama; nothing
        can prevent that.
        """
        began_s = self._clock.monotonic_s()
        reason = why_not(prompt)
        if reason is None:
            try:
                async with asyncio.timeout(self._limit_s):
                    name, text, load_s = await self._ask(prompt, style, seed, may_load=may_load)
            except TimeoutError:
                reason = f"the language model took longer than {self._limit_s:g} s"
            except (TenantError, UnusableError) as error:
                reason = str(error)
            else:
                took_s = self._clock.monotonic_s() - began_s
                log.info("prompt.extended", model=name, took_s=round(took_s, 3))
                return Enhanced(prompt=text, model=name, took_s=took_s, load_s=load_s)
        log.info("prompt.kept", reason=reason)
        return Kept(prompt=prompt, reason=reason)

    async def _ask(
        self, prompt: str, style: Style | None, seed: int, *, may_load: bool
    ) -> tuple[str, str, float]:
        """Return model, text and load time. Raises: TenantError, UnusableError."""
        candidates = self._candidates(await self._ollama.listing(), may_load=may_load)
        for one in candidates:
            try:
                answer = await self._write(one, prompt, style, seed)
            except NoTextError:
                continue
            if one.is_loaded and answer.load_s >= RELOADED_S:
                # What it ran with is not all in the listing: num_batch, num_thread, shift.
                log.warning("ollama.reloaded", model=one.name, load_s=round(answer.load_s, 3))
            return one.name, extended(prompt, answer.text), answer.load_s
        if candidates:
            raise TenantError("no model that is loaded writes texts")
        raise TenantError(self._why_none(may_load=may_load))

    async def _write(self, one: _Candidate, prompt: str, style: Style | None, seed: int) -> Answer:
        """Ask one model. Raises: NoTextError, TenantError.

        Ollama loads a model anew for a request whose runner options differ from those it runs with
        (num_ctx, num_batch, num_gpu, main_gpu, use_mmap, num_thread, draft_num_predict); those of
        the answer (temperature, seed, num_predict) do not. Sending no num_ctx is not the same as
        sending the one it has: where somebody loaded it with a num_ctx, a request without one
        loads it anew. So it is sent back as the listing tells it.
        Source: `needsReload` in server/sched.go, `Runner` and `Options` in api/types.go.
        """
        options: dict[str, Any] = {**WRITING, "seed": seed % SEED_LIMIT}
        if one.context_length:
            options["num_ctx"] = one.context_length
        body: dict[str, Any] = {
            "model": one.name,
            "system": task(style),
            "prompt": prompt,
            "think": False,  # One that can think does so unless told; the others take no harm.
            "options": options,
        }
        if not one.is_loaded:
            body["keep_alive"] = 0
        return await self._ollama.write(body, 2 * self._limit_s)  # The limit is over all of it.

    def _candidates(self, listed: tuple[Listed, ...], *, may_load: bool) -> list[_Candidate]:
        wanted = _full(self._model or "")
        order = sorted(
            listed, key=lambda one: (_full(one.name) != wanted, one.size_vram < one.size, -one.size)
        )
        found = [_Candidate(one.name, True, one.context_length) for one in order]
        names = {_full(one.name) for one in listed}
        if self._model is not None and may_load and wanted not in names:
            found.append(_Candidate(self._model, is_loaded=False))
        return found

    def _why_none(self, *, may_load: bool) -> str:
        if self._model is not None and not may_load:
            return f"no language model is loaded, and {self._model} may not be loaded now"
        return "no language model is loaded"


def _full(name: str) -> str:
    """Return a model's name with its tag, as the listing writes it."""
    return name.lower() if ":" in name.rpartition("/")[2] else f"{name.lower()}:latest"
