"""A simulated graphics card: one JSON file that doubles in several processes share.

Who holds what is written here by the doubles that would hold it, and read by `tests.doubles.nvml`
for the worker. A process that dies gives back what it held, as a driver does. It runs nothing.
`python -m tests.doubles.card --help` makes, shows, breaks and fills one by hand.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast, get_args

from filelock import FileLock, Timeout

Fault = Literal[
    "lost",
    "driver_gone",
    "driver_upgraded",
    "hang",
    "reset_required",
    "no_permission",
    "no_library",
]
"""What the next calls of NVML meet; `tests.doubles.nvml` says what each does."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
STALE_AFTER = ("driver_gone", "driver_upgraded")
"""After these a library that was initialised before has to be initialised again."""

LOCK_S = 10
POLL_S = 0.002
UUID = "GPU-5e1ec7ed-0000-4000-8000-00000000c0de"

_MINE: dict[Path, FileLock] = {}
"""The signs of life of this process, one a card: locks that end with the process."""
_ONE_AT_A_TIME = Lock()
"""Threads of this process; other processes are kept out by the card's lock."""


class SharedCard:
    """One card. *Units*: MiB. Every call reads the file, so that all see the same."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        total_mib: int = 24576,
        name: str = "NVIDIA GeForce RTX 4090",
        uuid: str = UUID,
    ) -> "SharedCard":
        """Write an empty card, over one that was there."""
        card = cls(path)
        card.path.parent.mkdir(parents=True, exist_ok=True)
        with card._locked():
            card._write(
                {
                    "name": name,
                    "uuid": uuid,
                    "driver": "570.133.07",
                    "total_mib": total_mib,
                    "fault": None,
                    "driver_starts": 1,
                    "xids": [],
                    "held": {},
                    "claims": [],
                }
            )
        return card

    def claim(self, owner: str, mib: int) -> bool:
        """Set what this owner in this process holds; False and nothing changed if it is too much.

        It ends with the process, however that ends. 0: nothing any more.
        """

        def change(content: dict[str, Any]) -> bool:
            claims = content["claims"]
            others = [one for one in claims if (one["pid"], one["owner"]) != (os.getpid(), owner)]
            if mib > content["total_mib"] - _sum(content["held"], others):
                return False
            mine = [{"pid": os.getpid(), "owner": owner, "mib": mib}] if mib > 0 else []
            content["claims"] = others + mine
            return True

        return self._change(change, alive=True)

    def hold(self, owner: str, mib: int) -> None:
        """Set what something without a process holds, as a desktop does; 0: nothing any more.

        *Raises* ValueError if it does not fit.
        """

        def change(content: dict[str, Any]) -> bool:
            held = {name: size for name, size in content["held"].items() if name != owner}
            if mib > content["total_mib"] - _sum(held, content["claims"]):
                return False
            content["held"] = held | ({owner: mib} if mib > 0 else {})
            return True

        if not self._change(change):
            raise ValueError(f"{mib} MiB for {owner} do not fit; {self.free_mib} MiB are free")

    def claims(self) -> dict[str, int]:
        """Return what each owner holds, of living processes and of what is held without one."""
        content = self._content()
        found: dict[str, int] = dict(content["held"])
        for one in content["claims"]:
            found[one["owner"]] = found.get(one["owner"], 0) + one["mib"]
        return found

    def processes(self) -> dict[int, int]:
        """Return what each living process holds, by its pid."""
        found: dict[int, int] = {}
        for one in self._content()["claims"]:
            found[one["pid"]] = found.get(one["pid"], 0) + one["mib"]
        return found

    @property
    def used_mib(self) -> int:
        """What all together hold."""
        content = self._content()
        return _sum(content["held"], content["claims"])

    @property
    def free_mib(self) -> int:
        """What nobody holds."""
        content = self._content()
        return int(content["total_mib"]) - _sum(content["held"], content["claims"])

    @property
    def total_mib(self) -> int:
        """The whole card."""
        return int(self._read()["total_mib"])

    @property
    def name(self) -> str:
        """What it is sold as."""
        return str(self._read()["name"])

    @property
    def uuid(self) -> str:
        """Which one it is."""
        return str(self._read()["uuid"])

    @property
    def driver(self) -> str:
        """The version of its driver."""
        return str(self._read()["driver"])

    @property
    def driver_starts(self) -> int:
        """How often its driver was loaded: a library that knows an older start is stale."""
        return int(self._read()["driver_starts"])

    @property
    def fault(self) -> Fault | None:
        """What calls of NVML meet now."""
        return cast(Fault | None, self._read()["fault"])

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        if fault is not None and fault not in FAULTS:
            raise ValueError(f"no fault {fault!r}; known: {', '.join(FAULTS)}")

        def change(content: dict[str, Any]) -> bool:
            content["fault"] = fault
            content["driver_starts"] += fault in STALE_AFTER
            return True

        self._change(change)

    @property
    def xids(self) -> list[int]:
        """All critical errors so far, by the numbers that the driver logs."""
        return list(self._read()["xids"])

    def raise_xid(self, number: int) -> None:
        """Tell those who wait for critical errors of this one."""

        def change(content: dict[str, Any]) -> bool:
            content["xids"].append(number)
            return True

        self._change(change)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._beside("lock"))
        with _ONE_AT_A_TIME, lock.acquire(timeout=LOCK_S, poll_interval=POLL_S):
            yield

    def _change(self, change: Callable[[dict[str, Any]], bool], *, alive: bool = False) -> bool:
        """Change the file if the change says so, in one step for all processes."""
        with self._locked():
            content = self._read()
            if alive and self._show_life():
                # What stands under this pid is of a dead process that had the same number.
                content["claims"] = [c for c in content["claims"] if c["pid"] != os.getpid()]
            self._bury(content)
            done = change(content)
            self._write(content)
        return done

    def _content(self) -> dict[str, Any]:
        """Read the file without what dead processes held."""
        with self._locked():
            content = self._read()
            if self._bury(content):
                self._write(content)
        return content

    def _bury(self, content: dict[str, Any]) -> bool:
        """Take out the claims of dead processes; True if there were any."""
        pids = {one["pid"] for one in content["claims"]}
        dead = {pid for pid in pids if not self._lives(pid)}
        content["claims"] = [one for one in content["claims"] if one["pid"] not in dead]
        for pid in dead:
            self._beside(f"{pid}.alive").unlink(missing_ok=True)
        return bool(dead)

    def _show_life(self) -> bool:
        """Hold this process's sign of life; True if it did not yet."""
        sign = self._beside(f"{os.getpid()}.alive")
        if sign in _MINE:
            return False
        _MINE[sign] = FileLock(sign, thread_local=False)
        _MINE[sign].acquire(timeout=LOCK_S, poll_interval=POLL_S)
        return True

    def _lives(self, pid: int) -> bool:
        """Tell whether a process holds its sign of life.

        Its pid alone would not do: a killed child that nobody waited for still has one.
        """
        sign = self._beside(f"{pid}.alive")
        if sign in _MINE:
            return True
        if not sign.exists():
            return False
        try:
            with FileLock(sign).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _read(self) -> dict[str, Any]:
        """Read the file as it is. It is replaced whole, so that no lock is needed."""
        return cast(dict[str, Any], json.loads(self.path.read_text(encoding="utf-8")))

    def _write(self, content: dict[str, Any]) -> None:
        new = self._beside("new")
        new.write_text(json.dumps(content, indent=1), encoding="utf-8")
        new.replace(self.path)


def _sum(held: dict[str, int], claims: list[dict[str, Any]]) -> int:
    return sum(held.values()) + sum(int(one["mib"]) for one in claims)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parsed = argparse.ArgumentParser(
        prog="python -m tests.doubles.card",
        description="A simulated graphics card in a file, for doubles and NVML readings.",
        epilog="Put tests/doubles/nvml first on PYTHONPATH and the file's path into"
        " MMG_DOUBLE_CARD, and a worker sees this card.",
    )
    acts = parsed.add_subparsers(dest="act", required=True)

    def act(name: str, help_text: str) -> argparse.ArgumentParser:
        made = acts.add_parser(name, help=help_text)
        made.add_argument("path", type=Path, metavar="PATH", help="the card's file")
        return made

    create = act("create", "write an empty card")
    create.add_argument("--total-mib", type=int, default=24576, help="(%(default)s)")
    create.add_argument("--name", default="NVIDIA GeForce RTX 4090", help="(%(default)s)")
    create.add_argument("--uuid", default=UUID, help="(%(default)s)")
    act("show", "print it as JSON, with who holds what")
    act("fault", "break it, or mend it").add_argument("what", choices=("none", *FAULTS))
    act("xid", "report a critical error").add_argument("number", type=int, help="such as 79")
    hold = act("hold", "let something without a process hold memory")
    hold.add_argument("owner", help="its name, such as desktop")
    hold.add_argument("mib", type=int, help="0: nothing any more")
    return parsed


def main(arguments: list[str]) -> None:
    """Do one act and print the card."""
    options = parser().parse_args(arguments)
    card = SharedCard(options.path)
    if options.act == "create":
        card = SharedCard.create(
            options.path, total_mib=options.total_mib, name=options.name, uuid=options.uuid
        )
    elif options.act == "fault":
        card.fault = None if options.what == "none" else options.what
    elif options.act == "xid":
        card.raise_xid(options.number)
    elif options.act == "hold":
        card.hold(options.owner, options.mib)
    shown = {
        "name": card.name,
        "uuid": card.uuid,
        "fault": card.fault,
        "total_mib": card.total_mib,
        "used_mib": card.used_mib,
        "free_mib": card.free_mib,
        "claims": card.claims(),
    }
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
