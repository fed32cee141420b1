"""A mutant that unit tests have to notice, and the hunt for it."""

import time

import msgspec

from tests.simulation.retest import failing
from tests.simulation.search import Found
from tests.simulation.source import Edit


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One rule less: where, what stands there, what it becomes, and the files of tests to run."""

    name: str
    module: str
    files: tuple[str, ...]
    old: str
    new: str


def mutant(name: str, module: str, files: tuple[str, ...], old: str, new: str) -> Mutant:
    return Mutant(name=name, module=module, files=files, old=old, new=new)


def hunt(one: Mutant) -> Found:
    """Run the tests until one notices. In what is found `rule` is that test, `states` are cases."""
    began = time.perf_counter()
    test, cases = failing(one.files, Edit(one.module, one.old, one.new))
    return Found(
        name=", ".join(one.files),
        states=cases,
        steps=cases,
        positions=0,
        seconds=time.perf_counter() - began,
        complete=test is None,
        rule=test,
    )
