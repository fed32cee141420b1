"""The words of one job: the requester's own, or what the language model made of them.

Asked for once, before the card is: afterwards the model may have been unloaded for this very job.
On any failure the requester's words are used, and the link says why.
"""

from typing import Protocol

from agent.core.catalog import seed_for
from agent.core.enhancing import Enhanced, Kept
from agent.core.job import StoredRequest
from agent.core.routing import Candidate
from contracts.requests import Style

DRAWS_WORDS = "cpu"
"""The sketch engine sets the prompt in type: there it stays as it was written."""


class Extender(Protocol):
    """Extends a prompt, or says why it is kept; never raises, has a time limit of its own."""

    async def enhance(
        self, prompt: str, style: Style | None, *, seed: int = 0, may_load: bool = False
    ) -> Enhanced | Kept:
        """Return the extended prompt, or the old one and the reason."""
        ...


class Prompting:
    """The prompt of one job. `extended` is the model's, None: there is none."""

    def __init__(self, extender: Extender | None, stored: StoredRequest) -> None:
        """Begin with the requester's words."""
        request = stored.request
        self.prompt = request.prompt.strip() if request is not None else ""
        self.extended: str | None = None
        self._extender = extender
        self._stored = stored
        self._said = ""

    async def extend(self, candidate: Candidate) -> None:
        """Ask for better words, if the request wants them and nobody asked before."""
        request = self._stored.request
        if request is None or not request.options.enhance_prompt or self._said:
            return
        if candidate.slot == DRAWS_WORDS:
            return
        if self._extender is None:
            self._said = "the prompt is used as it is: no language model is configured"
            return
        answer = await self._extender.enhance(
            self.prompt, request.options.style, seed=seed_for(self._stored.who)
        )
        match answer:
            case Enhanced(prompt=prompt, model=model):
                self.prompt = self.extended = prompt
                self._said = f"the prompt was extended by {model}"
            case Kept(reason=reason):
                self._said = f"the prompt is used as it is: {reason}"

    def told(self, candidate: Candidate) -> Candidate:
        """Say in the reason of a candidate what became of the prompt."""
        return candidate.because(self._said) if self._said else candidate
