"""A FastStream app on JetStream: python faststream_worker.py NATS_URL SLOTS. Needs peers.lock.

It takes messages from the stream that the bench has made, and tells the end of each.
"""

import asyncio
import logging
import sys
from typing import Any

from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub


async def main(url: str, slots: int) -> None:
    """Work until killed."""
    broker = NatsBroker(url, log_level=logging.WARNING)

    async def bench(body: dict[str, Any]) -> None:
        await broker.publish(b"{}", f"bench.done.{body['number']}")

    several = {"max_workers": slots} if slots > 1 else {}
    broker.subscriber(
        "bench.faststream",
        stream=JStream("FASTSTREAM", declare=False),
        durable="bench",
        pull_sub=PullSub(batch_size=1),
        **several,
    )(bench)
    app = FastStream(broker)
    app.after_startup(lambda: print("ready", flush=True))
    await app.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
