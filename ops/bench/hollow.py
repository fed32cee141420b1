"""`mmg` with an engine that draws nothing: what is left is what mmg itself does for a request.

Run: BENCH_SECONDS=0.02 python -m ops.bench.hollow worker. The engine waits so long, reports one
step and hands over the same plain square each time. The assets keep nothing, unless BENCH_DISK=1:
then each square is stored as any picture is, with its record and three calls of fsync.
"""

import asyncio
import io
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from PIL import Image

from agent import building, cli
from agent.assets import AssetStore
from agent.core.faults import CancelledFault
from agent.core.picture import Picture
from agent.engines.protocol import EngineJob, Generation, Report, Step
from agent.engines.sketch import SketchEngine
from contracts.events import Output
from contracts.subjects import Identity

SIZE = 256
NO_SHA256 = "0" * 64
SECONDS = float(os.environ.get("BENCH_SECONDS", "0"))
DISK = bool(os.environ.get("BENCH_DISK"))


def square() -> Picture:
    """Draw the one picture."""
    out = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (63, 107, 125)).save(out, "PNG", compress_level=1)
    return Picture(data=out.getvalue(), width=SIZE, height=SIZE, format="png")


class HollowEngine(SketchEngine):
    """Stands in the place of the built-in engine and waits."""

    def __init__(self, *, threads: int = 1, fallback: bool = False) -> None:
        """Draw the square once; `threads` and `fallback` are those of the engine it replaces."""
        super().__init__(threads=threads, fallback=fallback)
        self._square = square()
        self._stops: dict[tuple[str, str, int], asyncio.Event] = {}

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Report the only step, wait, hand over the square. Raises: CancelledFault."""
        stop = self._stops[job.key] = asyncio.Event()
        try:
            report(Step(step=1, steps=1, message="waiting"))
            await asyncio.sleep(0)
            if SECONDS:
                async with asyncio.timeout(SECONDS):
                    await stop.wait()
                raise CancelledFault("cancelled")
        except TimeoutError:
            pass
        finally:
            del self._stops[job.key]
        return Generation(pictures=(self._square,), model_used="square", seed=job.seed)

    async def cancel(self, job: EngineJob) -> None:
        """End the wait of a job."""
        if job.key in self._stops:
            self._stops[job.key].set()


class Nowhere(AssetStore):
    """Says where a picture would lie and keeps none."""

    async def store(
        self,
        who: Identity,
        attempt: int,
        stored_at: datetime,
        pictures: Sequence[Picture],
        record: Mapping[str, object],
    ) -> tuple[Output, ...]:
        """Name the pictures as the real store does."""
        del record
        place = f"{stored_at:%Y-%m}/{who}.{attempt}"
        return tuple(
            Output(
                url=f"{self._url}/{place}.{n}.png",
                file_path=f"{place}.{n}.png",
                thumbnail_url=f"{self._url}/{place}.{n}.thumb.jpg",
                file_size_bytes=len(each.data),
                width=each.width,
                height=each.height,
                format=each.format,
                sha256=NO_SHA256,
            )
            for n, each in enumerate(pictures, start=1)
        )

    async def thumbnails(self, outputs: Sequence[Output]) -> None:
        """Make none."""
        del outputs


def bend() -> None:
    """Put the hollow parts in the places of the real ones."""
    building.SketchEngine = HollowEngine  # type: ignore[attr-defined, assignment]
    if not DISK:
        building.AssetStore = Nowhere  # type: ignore[attr-defined]


if __name__ == "__main__":
    bend()
    sys.exit(cli.main(sys.argv[1:]))
