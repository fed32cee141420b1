"""One prompt on one server, from the POST to its verdict.

The socket makes it quick; /history and /queue make it certain. A prompt in neither, looked for
twice, is lost. Ends within a step when asked to stop, with proof.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from agent.clock import Clock
from agent.core.faults import CancelledFault, EngineDownFault, Remedy
from agent.engines.comfyui import failure
from agent.engines.comfyui.api import (
    AnswerError,
    Api,
    FileRef,
    Graph,
    Record,
    Refused,
    ServerAwayError,
)
from agent.engines.comfyui.progress import Progress, Tempo
from agent.engines.comfyui.socket import Frame, Inbox, Socket
from agent.engines.protocol import Report, Step

POSTS_MAX: Final = 3
LOOK_EVERY_S: Final = 1.0
"""How long nothing may be heard of a prompt before HTTP is asked."""
RECORD_PAUSES_S: Final = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
"""The history is written after the last frame: `{}` in 18 of 60 first looks [1]."""
LOST_LOOKS: Final = 2
AWAY_MAX_S: Final = 10.0
"""A server that answers nothing for so long is down; a frozen second is no death."""
AWAY_AGAIN_S: Final = 0.25
STOP_MAX_S: Final = 15.0
STOP_AGAIN_S: Final = 0.2
DEAF_S: Final = 2.0
"""Running by HTTP, and nothing heard on the socket for so long: it is deaf [7]. Then doubled."""
OPEN_MAX_S: Final = 1.0
DOUBT_PAUSES_S: Final = (0.05, 0.2, 0.5)
OVER: Final = ("execution_success", "execution_error", "execution_interrupted")

log = structlog.get_logger()


class PromptLostFault(EngineDownFault):
    """The server forgot the prompt: it was restarted, or somebody cleared its queue."""

    remedy = Remedy.RETRY


class Run:
    """One prompt. Order: `post`, then `verdict`; or `verdict` alone for one to adopt."""

    def __init__(self, api: Api, socket: Socket, clock: Clock, step_timeout_s: float) -> None:
        """Nothing is sent before `post`."""
        self._api = api
        self._socket = socket
        self._clock = clock
        self._step_timeout_s = step_timeout_s
        self._stopping = False
        self._posted = False
        self._told = Step(step=0, steps=0, message="")
        self._deaf_s = DEAF_S
        self._inbox: Inbox | None = None
        self._heard_s = 0.0
        self._away_since_s: float | None = None
        self.on_files: Callable[[str, tuple[FileRef, ...]], None] = _nobody

    def stop(self) -> None:
        """Make `verdict` end the prompt and raise CancelledFault."""
        self._stopping = True
        if self._inbox is not None:
            self._inbox.heard.set()

    async def post(self, prompt_id: str, graph: Graph, extra: dict[str, Any]) -> None:
        """Queue the prompt once, whatever the answer does [12]; the socket is open before [8].

        Raises: WorkflowInvalidFault or ModelMissingFault if it can never run, EngineDownFault,
        CancelledFault if it was stopped before.
        """
        await self._until_open()
        if self._stopping:
            raise CancelledFault("stopped before ComfyUI had it")
        self._posted = True
        self._socket.doubt()
        body = {
            "prompt": graph,
            "prompt_id": prompt_id,
            "client_id": self._socket.client_id,
            "extra_data": {"mmg": extra},
        }
        reason = ""
        for _ in range(POSTS_MAX):
            try:
                answer = await self._api.post(body)
            except (ServerAwayError, AnswerError) as error:
                reason = str(error)
                if isinstance(error, ServerAwayError) and not error.reached:
                    break
                log.info("comfyui.post_in_doubt", prompt_id=prompt_id, reason=reason)
                if await self._is_known(prompt_id):
                    return
                continue
            if isinstance(answer, Refused):
                raise failure.refusal(answer)
            if answer.node_errors:
                await self._end(prompt_id)
                raise failure.refusal(Refused({}, answer.node_errors))
            return
        raise EngineDownFault(f"ComfyUI at {self._api.url} does not take prompts: {reason}")

    async def verdict(
        self, prompt_id: str, inbox: Inbox, graph: Graph, report: Report, tempo: Tempo
    ) -> Record:
        """Follow the prompt to its end and return its record; only a success is returned.

        A cancelled task ends the prompt first, also one that was adopted. Raises: CancelledFault,
        HangFault, PromptLostFault, EngineDownFault, and what the record of a failure says.
        """
        try:
            return await self._follow(prompt_id, inbox, graph, report, tempo)
        except asyncio.CancelledError:
            await self._end(prompt_id)  # What it occupied is free before the cancellation leaves.
            raise

    async def _follow(
        self, prompt_id: str, inbox: Inbox, graph: Graph, report: Report, tempo: Tempo
    ) -> Record:
        """Listen and look until there is a verdict. Raises: as `verdict`."""
        progress = Progress(graph, tempo)
        self._inbox = inbox
        self._heard_s = self._clock.monotonic_s()
        missed = 0
        while True:
            over = await self._listen(inbox, progress, report)
            if self._stopping:
                await self._end(prompt_id)
                raise CancelledFault("stopped in ComfyUI")
            try:
                found = await self._look(prompt_id, over=over)
                self._away_since_s = None
            except (ServerAwayError, AnswerError) as error:
                self._judge_away(error)
                continue
            if isinstance(found, Record):
                self._learn(progress, tempo)
                record = self._judge(found)
                if progress.end():  # Its last frame is late, or lost.
                    self._tell(report, progress.step(self._clock.monotonic_s()))
                return record
            missed = missed + 1 if found == "nowhere" else 0
            if missed >= LOST_LOOKS:
                raise PromptLostFault(f"ComfyUI at {self._api.url} has lost the prompt")
            await self._judge_silence(prompt_id, running=found == "running")

    async def _listen(self, inbox: Inbox, progress: Progress, report: Report) -> bool:
        """Take in what is heard until something ends it, silence, or a stop; True if it is over."""
        while not self._stopping:
            if not await self._heard(inbox):
                return False
            frames = inbox.take()
            now_s = self._clock.monotonic_s()
            moved = [frame for frame in frames if progress.on(frame, now_s)]
            if moved:
                self._heard_s = now_s
                self._tell(report, progress.step(now_s, inbox.take_preview()))
            for frame in frames:
                if frame.kind == "executed":
                    self._tell_files(frame)
            if any(_is_over(frame) for frame in frames):
                return True
            if inbox.fell:
                inbox.fell = False
                return False  # Something may have been missed: ask over HTTP.
        return False

    def _tell(self, report: Report, step: Step) -> None:
        """Report a step; a second prompt of the same job does not go back behind the first."""
        done = max(step.step, self._told.step)
        share = max(step.share, self._told.share)
        self._told = msgspec.structs.replace(step, step=min(done, step.steps), fraction=share)
        report(self._told)

    def _tell_files(self, frame: Frame) -> None:
        """Pass on files that are complete by now, so that they can be fetched at once [1]."""
        output = frame.payload.get("output")
        images = output.get("images") if isinstance(output, dict) else None
        try:
            files = msgspec.convert(images or [], tuple[FileRef, ...])
        except msgspec.ValidationError:
            return  # The record will name them.
        self.on_files(str(frame.payload.get("node")), files)

    async def _heard(self, inbox: Inbox) -> bool:
        """Wait for a frame or a stop, at most a second."""
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await inbox.heard.wait()
        except TimeoutError:
            return False
        return not self._stopping

    async def _look(self, prompt_id: str, *, over: bool) -> Record | str:
        """Ask over HTTP: the record, or `running`, `pending`, `nowhere`.

        `over`: the end was heard, so the record must come; it may take a moment [1].
        """
        for pause_s in RECORD_PAUSES_S if over else (0.0,):
            await asyncio.sleep(pause_s)
            record = await self._api.record(prompt_id)
            if record is not None:
                return record
        for item in await self._api.queue():
            if item.prompt_id == prompt_id:
                return "running" if item.running else "pending"
        # It may have ended between the two questions.
        return await self._api.record(prompt_id) or "nowhere"

    def _judge(self, record: Record) -> Record:
        """Return a success; raise what a failure means [3]."""
        if record.succeeded:
            return record
        kind, payload = record.last
        if kind == "execution_interrupted":
            raise CancelledFault("somebody interrupted the prompt in ComfyUI")
        raise failure.run_time(payload)

    def _judge_away(self, error: Exception) -> None:
        """A server that is away may come back; not for ever."""
        now_s = self._clock.monotonic_s()
        if self._away_since_s is None:
            self._away_since_s = now_s
        if now_s - self._away_since_s > AWAY_MAX_S:
            raise EngineDownFault(f"ComfyUI at {self._api.url} is gone: {error}") from error

    async def _judge_silence(self, prompt_id: str, *, running: bool) -> None:
        """No news of a running prompt: a deaf socket after 2 s, a hang after its time limit."""
        silent_s = self._clock.monotonic_s() - self._heard_s
        if not running:
            self._heard_s = self._clock.monotonic_s()  # Waiting behind others is no silence.
            return
        if silent_s > self._step_timeout_s:
            await self._end(prompt_id)
            raise failure.hang("running in its queue", silent_s)
        if self._posted and silent_s > self._deaf_s and not self._socket.proven:
            self._deaf_s *= 2  # It may be a long step after all: doubt ever more slowly.
            await self._socket.distrust()

    async def _until_open(self) -> None:
        """Wait a moment for the socket; without it only speed and progress are lost."""
        try:
            async with asyncio.timeout(OPEN_MAX_S):
                await self._socket.opened.wait()
        except TimeoutError:
            log.info("comfyui.posts_unheard", server=self._api.url)

    async def _is_known(self, prompt_id: str) -> bool:
        """Look for a prompt whose POST got no clear answer, until the server gives one.

        Raises: EngineDownFault if it stays away: a frozen server may have the prompt still.
        """
        nowhere = 0
        while nowhere < len(DOUBT_PAUSES_S):
            await asyncio.sleep(DOUBT_PAUSES_S[nowhere])
            try:
                if await self._look(prompt_id, over=False) != "nowhere":
                    return True
            except (ServerAwayError, AnswerError) as error:
                if isinstance(error, ServerAwayError) and not error.reached:
                    return False  # It died, and with it what it may have had [17].
                self._judge_away(error)
                await asyncio.sleep(AWAY_AGAIN_S)
                continue
            self._away_since_s = None
            nowhere += 1
        return False

    async def end(self, prompt_id: str) -> None:
        """Stop the prompt, with proof; for who is being cancelled. Never raises."""
        await self._end(prompt_id)

    async def _end(self, prompt_id: str) -> None:
        """Delete and interrupt until the prompt has ended or is in no queue [9]."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + STOP_MAX_S
        while loop.time() < deadline_s:
            try:
                await self._api.stop(prompt_id)
                found = await self._look(prompt_id, over=False)
            except (ServerAwayError, AnswerError) as error:
                log.warning("comfyui.not_stopped", prompt_id=prompt_id, reason=str(error))
                return
            if isinstance(found, Record) or found == "nowhere":
                return
            await asyncio.sleep(STOP_AGAIN_S)
        log.warning("comfyui.still_running", prompt_id=prompt_id, asked_for_s=STOP_MAX_S)

    def _learn(self, progress: Progress, tempo: Tempo) -> None:
        if progress.sampled_s is not None:
            after_s = self._clock.monotonic_s() - progress.sampled_s
            tempo.learn(after_s, progress.after_sampling())


def _is_over(frame: Frame) -> bool:
    """Tell whether a frame ends its prompt; `node: null` means over, not succeeded."""
    return frame.kind in OVER or (frame.kind == "executing" and frame.payload.get("node") is None)


def _nobody(_node: str, _files: tuple[FileRef, ...]) -> None:
    """Hear of finished files where nobody wants to."""
