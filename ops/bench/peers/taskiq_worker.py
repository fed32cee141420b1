"""A taskiq worker on JetStream: python taskiq_worker.py NATS_URL SLOTS. Needs peers.lock, not mmg.

It takes `bench` tasks from the stream that the bench has made, and tells the end of each.
"""

import asyncio
import sys

from nats.js.api import ConsumerConfig, StreamConfig
from taskiq.api import run_receiver_task
from taskiq_nats import PullBasedJetStreamBroker


async def main(url: str, slots: int) -> None:
    """Work until killed."""
    broker = PullBasedJetStreamBroker(
        [url],
        subject="bench.taskiq",
        stream_name="TASKIQ",
        durable="bench",
        stream_config=StreamConfig(name="TASKIQ", subjects=["bench.taskiq"]),
        consumer_config=ConsumerConfig(durable_name="bench", ack_wait=30),
    )

    async def bench(number: str, body: str) -> None:
        del body
        await broker.client.publish(f"bench.done.{number}", b"{}")

    broker.register_task(bench, task_name="bench")
    await broker.startup()
    print("ready", flush=True)
    await run_receiver_task(broker, max_async_tasks=slots, run_startup=False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
