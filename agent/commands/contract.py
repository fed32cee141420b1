"""`mmg schema`: the schemas and examples of all messages, printed, written or compared.

They are made in `contracts.schema`; this only puts them where they are wanted.
"""

import argparse

from agent.commands import exits
from agent.commands.faults import complain
from contracts import schema


def run(arguments: argparse.Namespace) -> int:
    """List, print, write or check."""
    if arguments.write:
        for name in schema.write():
            print(f"written: {name}")
        return exits.OK
    if arguments.check:
        return _check()
    if arguments.name is None:
        for name in schema.files():
            print(name)
        return exits.OK
    return _print(arguments.name)


def _check() -> int:
    stale = schema.stale()
    for name in stale:
        print(f"stale: {name}")
    if stale:
        complain("contracts/schemas is not what the code says", "Write it anew: mmg schema --write")
        return exits.FAILED
    print("contracts/schemas is what the code says")
    return exits.OK


def _print(name: str) -> int:
    """Print the one schema of this name; a folder or an ending may be left out."""
    files = schema.files()
    found = [path for path in files if name in (path, path.split(".")[0], _last(path), _stem(path))]
    if len(found) != 1:
        what = "several files are" if found else "no file is"
        complain(f"{what} called {name!r}", "There are: " + ", ".join(found or files))
        return exits.USAGE
    print(files[found[0]].decode(), end="")
    return exits.OK


def _last(path: str) -> str:
    return path.rsplit("/", maxsplit=1)[-1]


def _stem(path: str) -> str:
    return _last(path).split(".")[0]
