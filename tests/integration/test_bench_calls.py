"""Goal: the bare loop of `make bench` asks of the bus what a worker asks, so that the price of our
own code is the difference; whoever changes the worker's calls has to change the loop.

Method: both as processes on a real server; each publish is heard on the bus, with its headers.
"""

from ops.bench import calls
from ops.bench.contenders import Contender, server

JOBS = 4


async def test_the_bare_loop_makes_the_bus_calls_of_a_worker():
    async with server() as running:
        bare = await calls.alone(Contender(name="bare"), running.url, JOBS)
        ours = await calls.alone(Contender(name="mmg"), running.url, JOBS)
    assert [calls.own(job) for job in bare] == [calls.own(job) for job in ours]
    assert calls.usual(bare) == calls.usual(ours)
    assert [name.split()[0] for name in calls.own(ours[0])] == ["chain", "progress", "chain", "ACK"]
