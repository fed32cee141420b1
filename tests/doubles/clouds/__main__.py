"""The doubles as a program: `python -m tests.doubles.clouds --stability 8101 --openai 8102`."""

import argparse
import asyncio
import signal
import sys

from tests.doubles.clouds.openai import OpenAIDouble
from tests.doubles.clouds.server import KEY
from tests.doubles.clouds.stability import StabilityDouble
from tests.doubles.clouds.traps import TRAPS


def parser() -> argparse.ArgumentParser:
    """Return the command line, with every trap in its help."""
    traps = "\n".join(f"  {name:<12} {text} {values}" for name, (text, values) in TRAPS.items())
    parsed = argparse.ArgumentParser(
        prog="python -m tests.doubles.clouds",
        description="Doubles of Stability AI and OpenAI images.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"POST /double/trap takes name, times and values; GET /double/ledger.\n{traps}",
    )
    add = parsed.add_argument
    add("--stability", type=int, default=0, help="port; 0: a free one, printed")
    add("--openai", type=int, default=0, help="port; 0: a free one, printed")
    add("--key", default=KEY, help="the key both accept (%(default)s)")
    add("--draw-s", type=float, default=2.0, help="how long a picture takes (%(default)s)")
    add("--credit-usd", type=float, default=10.0, help="money of each account (%(default)s)")
    return parsed


async def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    shared = {"key": options.key, "draw_s": options.draw_s, "credit_usd": options.credit_usd}
    async with (
        StabilityDouble(port=options.stability, **shared) as stability,
        OpenAIDouble(port=options.openai, **shared) as openai,
    ):
        sys.stdout.write(f"Stability double: {stability.url}\nOpenAI double: {openai.url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(parser().parse_args()))
