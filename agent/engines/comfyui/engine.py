"""The engine: takes a job to one of its servers and brings the pictures back.

Which server is settled by the slot that was taken; what is on it from an earlier, lost worker is
adopted. It must not write files of ours, and never touches prompts of other people.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from uuid import NAMESPACE_URL, uuid5

import msgspec
import structlog

from agent.clock import Clock
from agent.core import catalog, workflow
from agent.core.faults import EngineDownFault, Fault, InternalFault
from agent.core.picture import Picture
from agent.core.routing import EngineFacts
from agent.core.workflow import Workflow
from agent.engines.comfyui.api import AnswerError, FileRef, Graph, Record, ServerAwayError
from agent.engines.comfyui.graph import Values, fill, prefix, spelled
from agent.engines.comfyui.png import SIGNATURE, without_text
from agent.engines.comfyui.run import PromptLostFault, Run
from agent.engines.comfyui.server import Server
from agent.engines.protocol import Attempt, EngineJob, Generation, Health, Report

STEP_TIMEOUT_S: Final = 120.0
AGAIN_MAX: Final = 3
"""How often one attempt may be drawn anew on a card that ran out of memory."""

log = structlog.get_logger()


def prompt_id(agent: str, request_id: str, attempt: int, again: int = 0) -> str:
    """Return the id of an attempt's prompt: known before the POST, and to who takes over.

    Canonical lower case, because newer servers refuse any other form.
    """
    name = f"mmg:{agent}/{request_id}/{attempt}{f'/again{again}' if again else ''}"
    return str(uuid5(NAMESPACE_URL, name))


_Pictures = dict[FileRef, Picture]


class ComfySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How ComfyUI is used. Units: seconds.

    `output_dir` is the servers' output folder where it can be reached, to clean it; `restart` the
    command, as an argument list, that brings a dead server back.
    """

    output_dir: Path | None = None
    step_timeout_s: float = STEP_TIMEOUT_S
    restart: tuple[str, ...] = ()


class ComfyEngine:
    """One or several ComfyUI servers, each a slot of the card."""

    name: str = "comfyui"
    slot: Literal["gpu", "cpu", "cloud"] = "gpu"

    def __init__(
        self,
        urls: Sequence[str],
        workflows: Mapping[str, Workflow],
        clock: Clock,
        *,
        worker: str = "worker",
        settings: ComfySettings | None = None,
    ) -> None:
        """Talk to the servers at `urls`; `worker` marks our prompts among everybody's."""
        assert urls, "an engine without a server is not built"
        self._settings = settings or ComfySettings()
        servers = (Server(url, workflows, clock, self._settings.restart) for url in urls)
        self._servers = {server.url: server for server in servers}
        self._worker = worker
        self._workflows = dict(workflows)
        self._clock = clock
        self._runs: dict[tuple[str, str, int], Run] = {}
        self.places: tuple[str, ...] = tuple(self._servers)
        self.adopted = 0

    async def open(self) -> None:
        """Open the sessions and look at each server once."""
        for server in self._servers.values():
            await server.open()
            await server.run_once()

    def drawers(self) -> dict[str, Server]:
        """Return the servers by their address, for who keeps their cards."""
        return dict(self._servers)

    @property
    def facts(self) -> EngineFacts:
        """What routing may know now: what any server that is up can run."""
        up = [server for server in self._servers.values() if server.state == "up"]
        problems = (up or list(self._servers.values()))[0].problems
        down = "; ".join(f"{s.url} {s.reason}" for s in self._servers.values())
        return EngineFacts(
            name=self.name,
            slot=self.slot,
            models=workflow.models(self._workflows, problems),
            up=bool(up),
            down="" if up else down,
            workflows=self._workflows,
            problems=problems,
        )

    async def run(self) -> None:
        """Keep sockets open and states true, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers.values():
                group.create_task(server.run(), name=f"comfyui {server.url}")

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Make the pictures of `job`, or fetch those that a lost worker's prompt has made.

        Raises: Fault; CancelledFault after `cancel`.
        """
        server = self._servers.get(job.server or "") or next(iter(self._servers.values()))
        chosen = self._workflow(job)
        run = self._runs[job.key] = Run(
            server.api, server.socket, self._clock, self._settings.step_timeout_s
        )
        try:
            record = await self._adopt(job, run, report)
            early: _Pictures = {}
            if record is None:
                record = await self._draw(job, server, run, report, early)
                if chosen.manifest.model not in server.held:
                    server.held = (*server.held, chosen.manifest.model)
            files = record.files(chosen.manifest.output)
            pictures = tuple([early.get(file) or await self._fetch(server, file) for file in files])
        except EngineDownFault:
            server.suspect()
            raise
        finally:
            del self._runs[job.key]
        if len(pictures) != job.count:
            raise InternalFault(f"ComfyUI made {len(pictures)} pictures, not {job.count}")
        return Generation(
            pictures=pictures, model_used=chosen.manifest.model, seed=job.seed, cost_usd=0.0
        )

    async def cancel(self, job: EngineJob) -> None:
        """Stop `job` at its next step; its `generate` then raises CancelledFault."""
        run = self._runs.get(job.key)
        if run is not None:
            run.stop()

    async def forget(self, job: EngineJob) -> None:
        """Remove what the server still holds of an attempt; never raises."""
        server = self._servers.get(job.server or "") or next(iter(self._servers.values()))
        numbers = (job.attempt, *(number for number, _ in job.earlier))
        names = [prompt_id(job.agent, job.request_id, number) for number in numbers]
        names += [
            prompt_id(job.agent, job.request_id, job.attempt, again)
            for again in range(1, job.again + 1)
        ]
        for name in names:
            try:
                record = await server.api.record(name)
                if record is None:
                    continue
                # The record is what names the files: it goes last.
                if self._settings.output_dir is not None:
                    await asyncio.to_thread(_remove, self._settings.output_dir, record)
                await server.api.forget(name)
            except (ServerAwayError, AnswerError, OSError) as error:
                log.info("comfyui.not_forgotten", prompt_id=name, reason=str(error))

    async def leftovers(self) -> tuple[Attempt, ...]:
        """Return the attempts whose prompts a worker of this name left in the queues."""
        found: list[Attempt] = []
        for server in self._servers.values():
            try:
                queue = await server.api.queue()
            except (ServerAwayError, AnswerError):
                continue
            for item in queue:
                mark = item.extra.get("mmg")
                if isinstance(mark, dict) and mark.get("worker") == self._worker:
                    found.append(msgspec.convert(mark, Attempt))
        return tuple(found)

    async def drop(self, attempt: Attempt) -> None:
        """Remove the prompt of an attempt that nobody carries any more; never raises."""
        name = prompt_id(attempt.agent, attempt.request_id, attempt.attempt)
        for server in self._servers.values():
            await Run(server.api, server.socket, self._clock, self._settings.step_timeout_s).end(
                name
            )

    async def health(self) -> Health:
        """Say how the servers are, by the last look at each."""
        words = [f"{s.url}: {s.reason} (since {s.since_s:.0f} s)" for s in self._servers.values()]
        states = {server.state for server in self._servers.values()}
        state: Literal["up", "starting", "down"] = "down"
        if "up" in states:
            state = "up"
        elif "starting" in states:
            state = "starting"
        warnings = tuple(
            f"{server.url} {what}" for server in self._servers.values() for what in server.warnings
        )
        return Health(state=state, detail="; ".join(words), warnings=warnings)

    def price_usd(self, _job: EngineJob) -> float:
        """Cost nothing: the card is ours."""
        return 0.0

    def time_limit_s(self, _job: EngineJob) -> None:
        """Take no longer than any engine may."""

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.close()

    # --- one job -------------------------------------------------------------------------------

    def _workflow(self, job: EngineJob) -> Workflow:
        if job.workflow is None or job.workflow not in self._workflows:
            problems = self.facts.problems
            return workflow.choose(job.options, self._workflows, problems).workflow
        return self._workflows[job.workflow]

    async def _draw(
        self, job: EngineJob, server: Server, run: Run, report: Report, early: _Pictures
    ) -> Record:
        """Post the job's prompt and follow it to its end; `early` takes pictures as they come.

        A job that draws `again` posts under another id: the server would keep only one record of
        the same. Raises: Fault.
        """
        chosen = self._workflow(job)
        graph = await self._graph(job, server, chosen)
        name = prompt_id(job.agent, job.request_id, job.attempt, job.again)
        extra = {
            "worker": self._worker,
            "agent": job.agent,
            "request_id": job.request_id,
            "attempt": job.attempt,
        }
        record: Record | Fault
        try:
            with server.socket.inbox(name) as inbox:
                await run.post(name, graph, extra)
                async with asyncio.TaskGroup() as group:
                    run.on_files = lambda node, files: self._fetch_early(
                        group, server, files if node == chosen.manifest.output else (), early
                    )
                    try:
                        record = await run.verdict(name, inbox, graph, report, server.tempo)
                    except Fault as fault:  # Raised below: a group would wrap it.
                        record = fault
        except asyncio.CancelledError:
            await run.end(name)  # What the job occupied is free before the cancellation leaves.
            raise
        if isinstance(record, Fault):
            raise record
        return record

    def _fetch_early(
        self,
        group: asyncio.TaskGroup,
        server: Server,
        files: tuple[FileRef, ...],
        early: _Pictures,
    ) -> None:
        """Begin to download files that are complete, while the verdict is still to come."""

        async def fetch(file: FileRef) -> None:
            try:
                early[file] = await self._fetch(server, file)
            except Fault as fault:
                log.info("comfyui.fetched_later", file=file.filename, reason=fault.message)

        for file in files:
            group.create_task(fetch(file), name=f"fetch {file.filename}")

    async def _graph(self, job: EngineJob, server: Server, chosen: Workflow) -> Graph:
        """Fill the workflow's holes. Raises: Fault."""
        manifest = chosen.manifest
        sheet = job.sheet
        assert sheet is not None, "a job for a model comes with its style sheet"
        settings = workflow.settings(job.options, sheet, manifest)
        width, height = workflow.size(job.options, sheet, manifest.sizes)
        prompt, negative = catalog.words(job.prompt, sheet, job.options)
        image = None
        if job.image is not None:
            image = await self._upload(server, job)
        values = Values(
            prompt=prompt,
            negative=negative,
            seed=job.seed,
            steps=settings.steps,
            cfg=settings.cfg,
            width=width,
            height=height,
            batch=job.count,
            prefix=prefix(job.agent, job.request_id, job.attempt, job.month),
            checkpoint=spelled(manifest.checkpoint or "", server.models.get("checkpoints", ())),
            image=image,
        )
        filled: dict[str, Any] = dict(
            fill(chosen, values, preview=self._settings.output_dir is None)
        )
        return filled

    async def _upload(self, server: Server, job: EngineJob) -> str:
        assert job.image is not None, "only a job with an input picture uploads one"
        name = f"{job.agent}.{job.request_id}.png"
        try:
            return await server.api.upload(name, job.image, "mmg")
        except (ServerAwayError, AnswerError) as error:
            raise EngineDownFault(f"ComfyUI takes no input picture: {error}") from error

    async def _adopt(self, job: EngineJob, run: Run, report: Report) -> Record | None:
        """Return the record of a lost worker's prompt, waiting for one that still runs."""
        for attempt, url in reversed(job.earlier):
            server = self._servers.get(url)
            for again in range(AGAIN_MAX, -1, -1) if server is not None else ():
                assert server is not None, "only known servers are asked"
                name = prompt_id(job.agent, job.request_id, attempt, again)
                try:
                    record = await self._outcome(server, name, run, report)
                except (ServerAwayError, AnswerError, Fault) as error:
                    log.info("comfyui.not_adopted", prompt_id=name, reason=str(error))
                    continue
                if record is not None and record.succeeded:
                    self.adopted += 1
                    log.info("comfyui.adopted", prompt_id=name, attempt=attempt)
                    return record
        return None

    async def _outcome(self, server: Server, name: str, run: Run, report: Report) -> Record | None:
        """Return the record of a prompt that may be there, waiting while it is queued or runs.

        Raises: ServerAwayError, AnswerError, Fault.
        """
        record = await server.api.record(name)
        if record is not None or all(item.prompt_id != name for item in await server.api.queue()):
            return record
        with server.socket.inbox(name) as inbox:
            return await run.verdict(name, inbox, {}, report, server.tempo)

    async def _fetch(self, server: Server, file: FileRef) -> Picture:
        """Download one picture; its bytes lose the text that holds the prompt. Raises: Fault."""
        try:
            data = without_text(await server.api.view(file))
        except (ServerAwayError, AnswerError) as error:
            raise PromptLostFault(f"ComfyUI has made {file.filename} but {error}") from error
        if not data.startswith(SIGNATURE):
            raise InternalFault(f"ComfyUI sent {file.filename}, which is no PNG")
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        return Picture(data=data, width=width, height=height, format="png")


def _remove(folder: Path, record: Record) -> None:
    """Delete a record's files from the servers' output folder, and nothing outside it."""
    root = folder.resolve()
    for output in record.outputs.values():
        for file in output.images:
            path = (root / file.subfolder / file.filename).resolve()
            if file.type == "output" and path.is_relative_to(root / "mmg"):
                path.unlink(missing_ok=True)
