"""What an idle system costs: CPU and memory of one worker and one gateway with nothing to do.

Run: python -m ops.bench.idle [--seconds 30]. Linux only (/proc). The floor beside it is a Python
that has imported nothing and sleeps.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer

SETTLE_S = 3.0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used, its children and ended threads left out.

    By the scheduler's own count: that of /proc/PID/stat misses what begins and ends between two
    ticks, which is nearly all of an idle program.
    """
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text(encoding="ascii").split()[0]) for one in threads) / 1e9


def pss_mb(pid: int) -> float:
    """Return the memory of a process in MB, shared pages counted by their share (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


@asynccontextmanager
async def process(folder: Path, *command: str, **settings: str) -> AsyncIterator[int]:
    """Run a Python process for the length of the block; yields its pid."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())} | settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child.pid
    finally:
        child.terminate()
        await child.wait()


async def measure(seconds: float) -> None:
    """Print one row a process and the sum of worker and gateway."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = EmbeddedServer(folder / "nats", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        async with await connect([server.url], "provision") as bus:
            await provision(bus, Plan())
        settings = {"MMG_NATS_URL": server.url, "MMG_HTTP_PORT": "0"}
        pids = {
            "python, asleep (floor)": await stack.enter_async_context(
                process(folder, "-c", "import time; time.sleep(3600)")
            ),
            "mmg worker": await stack.enter_async_context(
                process(folder, "-m", "agent", "worker", **settings)
            ),
            "mmg gateway": await stack.enter_async_context(
                process(folder, "-m", "agent", "gateway", **settings)
            ),
            "nats-server": server.pid,
        }
        await asyncio.sleep(SETTLE_S)
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        began = time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        rows = {
            name: (100 * (cpu_s(pid) - before[name]) / passed, pss_mb(pid))
            for name, pid in pids.items()
        }
    print(f"idle for {passed:.0f} s        CPU of one core   PSS")
    for name, (cpu, memory) in rows.items():
        print(f"{name:<24} {cpu:>8.2f} %     {memory:>6.1f} MB")
    both = [rows["mmg worker"], rows["mmg gateway"]]
    print(
        f"{'worker + gateway':<24} {sum(r[0] for r in both):>8.2f} %     "
        f"{sum(r[1] for r in both):>6.1f} MB"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to watch (30)")
    asyncio.run(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
