"""Ten pictures one after the other: how long each takes, and what the card holds after it.

Run: python -m ops.bench.ten, on the ComfyUI double
with its simulated card of 24 GiB.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp

from ops.bench.engine import site

PICTURES = 10
MIB = 1024 * 1024


async def held_mib(url: str) -> float:
    """Return what the server's first device holds now."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/system_stats") as answer:
        device = (await answer.json())["devices"][0]
    used: float = (device["vram_total"] - device["vram_free"]) / MIB
    return used


async def measure() -> None:
    """Print one row a picture."""
    with tempfile.TemporaryDirectory() as name:
        async with site(Path(name), 20, 8394) as (url, requests):
            print(f"{'picture':>8}{'seconds':>10}{'MiB held':>10}")
            print(f"{'before':>8}{'':>10}{await held_mib(url):>10.0f}")
            for number in range(1, PICTURES + 1):
                began = time.perf_counter()
                ended = await (await requests.publish(f"picture{number}"))
                print(f"{number:>8}{ended - began:>10.3f}{await held_mib(url):>10.0f}")


def main() -> None:
    """Measure; `--help` says what."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(measure())


if __name__ == "__main__":
    main()
