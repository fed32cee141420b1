"""What operators see and do at one worker: status, alerts, recorded decisions, load and unload.

It puts these parts together and runs them; it must not decide anything.
"""

from collections.abc import Coroutine
from pathlib import Path

from agent.alarms import Alarms
from agent.control import Control
from agent.core.job import StoredRequest
from agent.decisions import Recorder
from agent.dispatch import Dispatch
from agent.engines.protocol import EngineJob, order_for
from agent.readiness import Readiness
from agent.report import Reporter
from agent.slots import Slots
from agent.tools import Tools
from contracts.requests import Priority, Request
from contracts.subjects import Identity


class Desk:
    """The desk of one worker. Order: `open`, `endless` beside the worker, `close`."""

    def __init__(
        self, tools: Tools, dispatch: Dispatch, readiness: Readiness, recorder: Recorder
    ) -> None:
        """Sit beside a worker that is built and does not run yet."""
        trial = usual_picture(tools)
        self._alerts = readiness.alerts
        self._alarms = Alarms(tools, self._alerts, trial)
        self._recorder = recorder
        self.reporter = Reporter(tools, dispatch, self._alerts, recorder, trial)
        self._control = Control(tools, dispatch, self.reporter)

    async def open(self) -> None:
        """Begin to answer. Raises: BusError."""
        await self._alerts.open()
        await self._control.open()

    def endless(self) -> list[Coroutine[None, None, None]]:
        """Return what goes on until it is cancelled."""
        return [self._alarms.run(), self._recorder.run()]

    async def close(self) -> None:
        """Answer no more, and write down what was decided last."""
        await self._control.close()
        await self._recorder.close()


async def recorded(data_dir: Path, slots: Slots, worker: str) -> Recorder:
    """Open the cards, with somebody who writes down what is decided from the first moment on."""
    recorder = Recorder(data_dir, worker)
    await recorder.open()
    for keeper in slots.keepers.values():
        keeper.on_decided.append(recorder.arbitrated)
        await keeper.open()
    return recorder


def usual_picture(tools: Tools) -> EngineJob:
    """Return the order for one picture of quality standard, to ask engines for its price."""
    stored = StoredRequest(
        who=Identity("mmg", "price"),
        priority=Priority.MEDIUM,
        seq=0,
        stored_at=tools.clock.now(),
        request=Request(type="image", prompt="a usual picture"),
    )
    return order_for(stored, tools.book)
