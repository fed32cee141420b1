"""Debian's promtool and prometheus, as the tests of metrics and alerts call them.

Who lacks them is told how to get them: such a test fails, it is never skipped.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rig import ROOT, until

HERE = ROOT / ".tools" / "prometheus" / "usr" / "bin"
RULES = ROOT / "ops" / "prometheus" / "mmg.rules.yml"
RULE_TESTS = ROOT / "ops" / "prometheus" / "mmg.rules.test.yml"
PATIENCE_S = 30.0


def program(name: str) -> str:
    """Return promtool or prometheus: from PATH, else what ops/prometheus/fetch brought."""
    found = shutil.which(name) or shutil.which(name, path=str(HERE))
    if found is None:
        pytest.fail(f"no {name} here; get it with ops/prometheus/fetch", pytrace=False)
    return found


def promtool(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run promtool and return what it says."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        input=text,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def lint(text: bytes) -> str:
    """Return what promtool dislikes about metrics; nothing: they are clean."""
    done = promtool("check", "metrics", text=text)
    assert done.returncode == 0 or done.stdout + done.stderr, done
    return "" if done.returncode == 0 else done.stdout + done.stderr


class Prometheus:
    """A running Prometheus, asked over HTTP."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        """Use `prometheus`."""
        self._url = url
        self._http = http

    async def get(self, path: str, **query: str) -> Any:
        """Return the data of an answer of its API."""
        async with self._http.get(f"{self._url}/api/v1/{path}", params=query) as answer:
            return (await answer.json())["data"]

    async def query(self, expr: str) -> list[float]:
        """Return the values of an expression now."""
        found = await self.get("query", query=expr)
        return [float(one["value"][1]) for one in found["result"]]

    async def alerts(self) -> dict[str, str]:
        """Return the alerts that are pending or firing, with their state."""
        found = await self.get("alerts")
        return {one["labels"]["alertname"]: one["state"] for one in found["alerts"]}

    async def is_ready(self) -> bool:
        """Tell whether it serves queries."""
        try:
            async with self._http.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def prometheus(
    folder: Path, port: int, targets: Mapping[str, str]
) -> AsyncIterator[Prometheus]:
    """Run one that scrapes `targets` (job, host:port) every 2 s, with our rules at once.

    What an alert waits for (`for:`) is left out: it is tested with the clock of promtool.
    """
    rules = [line for line in RULES.read_text().splitlines() if not line.strip().startswith("for:")]
    (folder / "rules.yml").write_text("\n".join(rules))
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML.
    words = folder / "prometheus.log"
    with words.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=out,
            stderr=out,
        )
    try:
        async with aiohttp.ClientSession() as http:
            running = Prometheus(f"http://127.0.0.1:{port}", http)
            try:
                await until(running.is_ready, "a Prometheus that is ready", PATIENCE_S)
            except AssertionError as error:
                raise AssertionError(f"{error}; it said:\n{words.read_text()}") from error
            yield running
    finally:
        process.terminate()
        await process.wait()
