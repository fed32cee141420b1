"""`python -m tests.chaos`: random trials, directed cases, and the table of all results so far.

    python -m tests.chaos --trials 100 --seed 7             one server
    python -m tests.chaos --trials 10 --seed 7 --cluster 3  three servers, leaders are killed
    python -m tests.chaos --case takeover                   one directed measurement
    python -m tests.chaos --mutant no-fence --case frozen   a broken build: exit code 1 expected
    python -m tests.chaos --report                          the table

Exit code 1 at the first violation: its seed, trial and chain are printed and its folder is kept.
"""

import argparse
import asyncio
import logging
import shutil
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import structlog

from tests.chaos import cases, report
from tests.chaos.lab import SLOW_WORKER, Asked
from tests.chaos.mutant import MUTANTS
from tests.chaos.plan import make
from tests.chaos.trial import WORKER, Result, Trial

FOLDER = Path("data/chaos")
ACK_WAIT_S = 3.0
ACK_WAIT_REPLICATED_S = 15.0


def main() -> int:
    """Run what was asked for."""
    arguments = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    results: Path = arguments.results
    if arguments.report:
        _say(report.table(report.read(results)))
        return 0
    module = ("tests.chaos.mutant", arguments.mutant, "worker") if arguments.mutant else WORKER
    if arguments.case:
        return asyncio.run(_case(arguments, module))
    return asyncio.run(_trials(arguments, module))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=10, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first one")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--cluster", type=int, default=1, choices=(1, 3))
    parser.add_argument("--requests-per-trial", type=int, default=18, metavar="M")
    parser.add_argument("--ack-wait", type=float, metavar="SECONDS")
    parser.add_argument("--results", type=Path, default=FOLDER / "results.jsonl", metavar="FILE")
    parser.add_argument("--engine", choices=("sketch", "comfyui"), default="sketch")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good trials too")
    parser.add_argument("--case", choices=sorted(cases.CASES), help="a directed measurement")
    parser.add_argument("--times", type=int, metavar="N", help="how often, for a directed one")
    parser.add_argument("--only", default="", metavar="TEXT", help="crash points with this name")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="run a build with a broken rule")
    parser.add_argument("--report", action="store_true", help="print the table of all results")
    parsed = parser.parse_args()
    if parsed.ack_wait is None:
        parsed.ack_wait = ACK_WAIT_S if parsed.cluster == 1 else ACK_WAIT_REPLICATED_S
    return parsed


async def _trials(arguments: argparse.Namespace, module: tuple[str, ...]) -> int:
    _end_in_order()
    for number in range(arguments.first, arguments.first + arguments.trials):
        plan = make(
            arguments.seed,
            number,
            requests=arguments.requests_per_trial,
            ack_wait_s=arguments.ack_wait,
            cluster=arguments.cluster,
            engine=arguments.engine,
        )
        folder = FOLDER.absolute() / f"{plan.engine}-{arguments.seed}-trial-{number}"
        trial = Trial(plan, folder, module)
        result = await trial.run()
        if not _finish(arguments, result, trial.said, folder):
            _say(f"faults: {plan.as_json()['faults']}")
            return 1
    return 0


async def _case(arguments: argparse.Namespace, module: tuple[str, ...]) -> int:
    _end_in_order()
    folder = FOLDER.absolute() / f"case-{arguments.case}-{arguments.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    run = cases.CASES[arguments.case]
    asked = Asked(
        folder=folder,
        seed=arguments.seed,
        times=arguments.times,
        ack_wait_s=arguments.ack_wait,
        module=module if arguments.mutant else SLOW_WORKER,
        only=arguments.only,
    )
    async with aclosing(run(asked)) as verdicts:
        async for result, said in verdicts:
            if not _finish(arguments, result, said, folder):
                return 1
    return 0


def _finish(arguments: argparse.Namespace, result: Result, said: str, folder: Path) -> bool:
    """Keep and print a result; True if nothing was violated."""
    result.mutant = arguments.mutant or ""
    report.append(arguments.results, result)
    faults = ", ".join(f"{n} {kind}" for kind, n in sorted(result.faults.items()) if n)
    measured = (
        f" p50 {report.seconds(report.percentile(result.times_s, 0.5))} s,"
        f" p99 {report.seconds(report.percentile(result.times_s, 0.99))} s;"
        if result.times_s
        else ""
    )
    _say(
        f"{result.what} {result.seed}/{result.trial}: {result.accepted}/{result.requests} accepted,"
        f" {result.ends}; {faults};{measured} settled {result.settled_s} s,"
        f" {result.superseded} superseded, {result.wall_s} s"
    )
    if not result.violations:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
        return True
    _say(f"VIOLATED: seed {result.seed}, trial {result.trial}; kept in {folder}")
    _say(said)
    for violation in result.violations:
        _say(f"{violation['rule']} {violation['who']}: {violation['what']}")
    return False


def _end_in_order() -> None:
    """Treat SIGTERM like Ctrl-C: no process of a trial may be left behind."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
