"""Runs one prompt after the other and says so in the recorded order; it knows no HTTP."""

import copy
import time
from collections.abc import Callable
from typing import Any

from tests.doubles.comfyui import graph as graphs
from tests.doubles.comfyui.failures import Interrupted, NodeError, error_body
from tests.doubles.comfyui.nodes import NODES
from tests.doubles.comfyui.prompts import Item
from tests.doubles.comfyui.sockets import Sockets
from tests.doubles.comfyui.steps import Workshop

NO_CACHE = {"SaveImageWebsocket"}
"""Classes that run again even when nothing changed."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Cache:
    """What nodes gave, by what they were given; `classic` forgets what a prompt did not use."""

    def __init__(self, method: str, fingerprint: Callable[[str], str]) -> None:
        self._method = method
        self._fingerprint = fingerprint
        self._kept: dict[Any, tuple[Any, ...]] = {}

    def marked(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Return a copy in which each file's node tells its fingerprint, as PNGs show it."""
        copied: dict[str, Any] = copy.deepcopy(graph)
        for node in copied.values():
            if node["class_type"] == "LoadImage":
                node["is_changed"] = [self._fingerprint(node["inputs"]["image"])]
        return copied

    def key(self, graph: dict[str, Any], node_id: str) -> Any:
        """Return what decides whether a node must run again."""
        node = graph[node_id]
        inputs = []
        for name, value in sorted(node["inputs"].items()):
            if graphs.is_link(value):
                inputs.append((name, self.key(graph, str(value[0])), value[1]))
            else:
                inputs.append((name, repr(value), 0))
        return node["class_type"], tuple(inputs), *node.get("is_changed", ())

    def known(self, graph: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return what is kept of a graph's nodes, and forget the rest if `classic`."""
        keys = {node_id: self.key(graph, node_id) for node_id in graph}
        found = {n: self._kept[k] for n, k in keys.items() if k in self._kept}
        if self._method != "lru":
            self._kept = {k: v for k, v in self._kept.items() if k in keys.values()}
        return found

    def keep(self, graph: dict[str, Any], node_id: str, result: tuple[Any, ...]) -> None:
        """Keep what a node gave."""
        if self._method != "none" and graph[node_id]["class_type"] not in NO_CACHE:
            self._kept[self.key(graph, node_id)] = result

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


class Execution:
    """One prompt while it runs: its events, its results, its verdict."""

    def __init__(self, item: Item, sockets: Sockets, shop: Workshop, cache: Cache) -> None:
        _, self.prompt_id, graph, self.extra_data, self.outputs = item
        self.graph = cache.marked(graph)
        self.client_id: str | None = self.extra_data.get("client_id")
        if shop.traps.on("broadcast_without_client_id"):
            self.client_id = None
        self.node_id = ""
        self.interrupted = False
        self._sockets = sockets
        self._shop = shop
        self._cache = cache
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._states: dict[str, dict[str, Any]] = {}
        self._shown: dict[str, Any] = {}
        self._meta: dict[str, Any] = {}
        self._ran: list[str] = []

    # --- what nodes ask --------------------------------------------------------------------

    def check_interrupt(self) -> None:
        """Stop here if the prompt was interrupted. *Raises* Interrupted."""
        if self.interrupted:
            raise Interrupted

    def progress(self, value: int, of: int, frame: tuple[bytes, str] | None) -> None:
        """Tell how far the node is; the frame goes before `progress` if it names its node."""
        self._state("running", value, of)
        body = {"value": value, "max": of, "prompt_id": self.prompt_id, "node": self.node_id}
        attributed = frame is not None and self._sockets.wants_metadata(self.client_id)
        if frame is not None and attributed:
            self._frame(*frame)
        self._sockets.say("progress", body, self.client_id)
        if frame is not None and not attributed:
            self._frame(*frame)

    # --- the run ----------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """Run it; return its history entry."""
        self._note("execution_start", {}, broadcast=False)
        known = self._cache.known(self.graph)
        if self._shop.settings.cache == "none":
            known = {}
        self._note("execution_cached", {"nodes": list(known)}, broadcast=False)
        try:
            await self._run_nodes(known)
        except NodeError as error:
            return self._entry("error", error)
        except Interrupted:
            node = self.graph[self.node_id]
            body = {"node_id": self.node_id, "node_type": node["class_type"], "executed": self._ran}
            self._note("execution_interrupted", body, broadcast=True)
            return self._entry("error")
        self._note("execution_success", {}, broadcast=False)
        return self._entry("success")

    @property
    def ended_as(self) -> str:
        """How it ended: success, error or interrupted."""
        return self._messages[-1][0].removeprefix("execution_")

    async def _run_nodes(self, known: dict[str, tuple[Any, ...]]) -> None:
        waiting = graphs.to_run(self.graph, self.outputs, set(known))
        results = dict(known)
        while waiting:
            ready = graphs.next_ready(self.graph, waiting, set(results))
            waiting.remove(ready)
            self.node_id = ready
            if ready in known:
                self._show(ready, known[ready], cached=True)
                continue
            self._state("running", 0.0, 1.0)
            if self.client_id is not None:
                self._sockets.running = (self.client_id, ready)
                about = {"node": ready, "display_node": ready, "prompt_id": self.prompt_id}
                self._sockets.say("executing", about, self.client_id)
            results[ready] = await self._run_node(ready, results)
            self._ran.append(ready)
            self._cache.keep(self.graph, ready, results[ready])
            self._show(ready, results[ready], cached=False)

    async def _run_node(self, node_id: str, results: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
        node = self.graph[node_id]
        inputs = {
            name: results[str(value[0])][value[1]] if graphs.is_link(value) else value
            for name, value in node["inputs"].items()
        }
        self._shop.log.executed.append((self.prompt_id, node_id, node["class_type"]))
        try:
            self.check_interrupt()
            cls = NODES[node["class_type"]]
            defaults = {k: spec[1].get("default") for k, spec in cls.optional.items()}
            return await self._shop.run(node["class_type"], self, {**defaults, **inputs})
        except NodeError as error:
            if NODES[node["class_type"]].hidden:
                told = {"prompt": self.graph, "extra_pnginfo": self.extra_data.get("extra_pnginfo")}
                inputs |= {name: value and str(value) for name, value in told.items()}
            body = error_body(node_id, node["class_type"], error, inputs)
            body |= {"executed": self._ran, "current_outputs": list(self.graph)}
            self._note("execution_error", body, broadcast=False)
            raise

    def _show(self, node_id: str, result: tuple[Any, ...], *, cached: bool) -> None:
        ui = result[0] if NODES[self.graph[node_id]["class_type"]].is_output else None
        if ui is not None:
            self._shown[node_id] = ui
            self._meta[node_id] = {
                "node_id": node_id,
                "display_node": node_id,
                "parent_node": None,
                "real_node_id": node_id,
            }
            silent = cached and self._shop.traps.on("no_executed_on_cached")
            if self.client_id is not None and not silent:
                body = {"node": node_id, "display_node": node_id, "output": ui}
                body["prompt_id"] = self.prompt_id
                self._sockets.say("executed", body, self.client_id)
        most = 1 if cached else self._states[node_id]["max"]
        self._state("finished", most, most)

    # --- what it says -----------------------------------------------------------------------

    def _state(self, state: str, value: float, of: float) -> None:
        self._states[self.node_id] = {
            "value": value,
            "max": of,
            "state": state,
            "node_id": self.node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.node_id,
            "parent_node_id": None,
            "real_node_id": self.node_id,
        }
        if not self._shop.settings.before(0, 3, 45):
            body = {"prompt_id": self.prompt_id, "nodes": self._states}
            self._sockets.say("progress_state", body, self.client_id)

    def _frame(self, data: bytes, kind: str) -> None:
        about = {
            "node_id": self.node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.node_id,
            "parent_node_id": None,
            "real_node_id": self.node_id,
        }
        self._sockets.picture(data, kind, about, self.client_id)

    def _note(self, kind: str, body: dict[str, Any], *, broadcast: bool) -> None:
        full = {"prompt_id": self.prompt_id, **body, "timestamp": _now_ms()}
        if kind == "execution_cached":
            full = {"nodes": body["nodes"], "prompt_id": self.prompt_id, "timestamp": _now_ms()}
        self._messages.append((kind, full))
        if self.client_id is not None or broadcast:
            self._sockets.say(kind, full, self.client_id)

    def _entry(self, status: str, _error: NodeError | None = None) -> dict[str, Any]:
        messages = [[kind, body] for kind, body in self._messages]
        return {
            "outputs": self._shown,
            "status": {
                "status_str": status,
                "completed": status == "success",
                "messages": messages,
            },
            "meta": self._meta,
        }
