"""Checks a posted graph and orders its nodes, as the recorded answers show; it runs nothing.

Each fault has the type, message and details that a client sees in the 400 of POST /prompt.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.doubles.comfyui.nodes import FOLDERS, NODES, NodeClass, input_config
from tests.doubles.comfyui.settings import Settings

Graph = dict[str, Any]
LONG_LIST = 20
"""Above this many values the answer names only their number."""


def is_link(value: Any) -> bool:
    """Say whether an input is a link to another node's output."""
    return isinstance(value, list)


@dataclass
class Verdict:
    """What POST /prompt says about a graph."""

    error: dict[str, Any] | None = None
    outputs: list[str] = field(default_factory=list)
    """Outputs that will run; one good output is enough."""
    node_errors: dict[str, Any] = field(default_factory=dict)


def _error(kind: str, message: str, details: str = "") -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def check(graph: Graph, settings: Settings, has_file: Callable[[str], bool]) -> Verdict:
    """Check a graph. *Raises* AttributeError or TypeError where ComfyUI answers 500."""
    outputs = []
    for node_id, node in graph.items():
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
            return Verdict(_error("invalid_prompt", message, f"Node ID '#{node_id}'"))
        if node["class_type"] not in NODES:
            message = f"Cannot execute because node {node['class_type']} does not exist."
            return Verdict(_error("invalid_prompt", message, f"Node ID '#{node_id}'"))
        if NODES[node["class_type"]].is_output:
            outputs.append(node_id)
    if not outputs:
        return Verdict(_error("prompt_no_outputs", "Prompt has no outputs"))
    checker = Checker(graph, settings, has_file)
    good = [output for output in outputs if checker.output_is_good(output)]
    if good:
        return Verdict(None, good, checker.node_errors)
    error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation")
    return Verdict(error, [], checker.node_errors)


class CycleError(Exception):
    """The graph leads back to itself; ComfyUI says nothing more about it."""


class Checker:
    """Checks each node once, from the outputs upwards."""

    def __init__(self, graph: Graph, settings: Settings, has_file: Callable[[str], bool]) -> None:
        self.node_errors: dict[str, Any] = {}
        self._graph = graph
        self._settings = settings
        self._has_file = has_file
        self._good: dict[str, bool] = {}
        self._path: list[str] = []

    def output_is_good(self, output: str) -> bool:
        """Check an output and all that leads to it; note its errors."""
        try:
            good = self._node_is_good(output)
        except CycleError:
            self._path.clear()
            return False
        except KeyError as missing:
            self._path.clear()
            fault = _fault("exception_during_validation", "Exception when validating node", missing)
            self._note(output, [fault])
            good = False
        if not good:
            for errors in self.node_errors.values():
                if not errors["dependent_outputs"]:
                    errors["dependent_outputs"] = [output]
        return good

    def _note(self, node_id: str, faults: list[dict[str, Any]]) -> None:
        class_type = self._graph[node_id]["class_type"]
        known = self.node_errors.setdefault(
            node_id, {"errors": [], "dependent_outputs": [], "class_type": class_type}
        )
        known["errors"] += faults

    def _node_is_good(self, node_id: str) -> bool:
        if node_id in self._good:
            return self._good[node_id]
        if node_id in self._path:
            raise CycleError
        node = self._graph[node_id]
        self._path.append(node_id)
        faults: list[dict[str, Any]] = []
        good = True
        cls = NODES[node["class_type"]]
        for name, spec in (cls.takes | cls.optional).items():
            if name not in node["inputs"]:
                if name in cls.takes:
                    extra = {"input_name": name}
                    faults.append(_entry("required_input_missing", _MISSING, name, extra))
                continue
            value = node["inputs"][name]
            config = input_config(name, spec, self._settings)
            if is_link(value):
                good &= self._link_is_good(name, config, value, faults)
            else:
                faults += self._value_faults(name, spec[0], config, node["inputs"])
        self._path.pop()
        if faults:
            self._note(node_id, faults)
        self._good[node_id] = good and not faults
        return self._good[node_id]

    def _link_is_good(
        self, name: str, config: list[Any], link: list[Any], faults: list[dict[str, Any]]
    ) -> bool:
        extra = {"input_name": name, "input_config": config}
        source, slot = link
        gives = self._cls(source).gives[slot]
        if gives != config[0]:
            details = f"{name}, received_type({gives}) mismatch input_type({config[0]})"
            extra |= {"received_type": gives, "linked_node": link}
            faults.append(_entry("return_type_mismatch", _MISMATCH, details, extra))
            return False
        depth = len(self._path)
        try:
            return self._node_is_good(source)
        except KeyError as missing:
            del self._path[depth:]
            message = "Exception when validating inner node"
            fault = _fault("exception_during_inner_validation", message, missing, extra)
            fault["extra_info"]["linked_node"] = link
            self._note(source, [fault])
            self._good[source] = False
            return False

    def _cls(self, node_id: str) -> NodeClass:
        return NODES[self._graph[node_id]["class_type"]]

    def _value_faults(
        self, name: str, kind: Any, config: list[Any], inputs: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        value = inputs[name]
        extra: dict[str, Any] = {"input_name": name, "input_config": config}
        if kind in ("INT", "FLOAT", "STRING"):
            try:
                value = inputs[name] = {"INT": int, "FLOAT": float, "STRING": str}[kind](value)
            except ValueError as error:
                extra |= {"received_value": value, "exception_message": str(error)}
                message = f"Failed to convert an input value to a {kind} value"
                yield _entry("invalid_input_type", message, f"{name}, {value}, {error}", extra)
                return
            yield from _out_of_range(name, value, config)
        elif kind == "input":
            if not self._has_file(str(value)):
                details = f"image - Invalid image file: {value}"
                message = "Custom validation failed for node"
                yield _entry("custom_validation_failed", message, details, {"input_name": name})
        elif (isinstance(kind, list) or kind in FOLDERS) and value not in config[0]:
            shown: Any = config[0]
            if len(config[0]) > LONG_LIST:
                shown = f"(list of length {len(config[0])})"
                extra["input_config"] = None
            details = f"{name}: '{value}' not in {shown}"
            extra["received_value"] = value
            yield _entry("value_not_in_list", "Value not in list", details, extra)


_MISSING = "Required input is missing"
_MISMATCH = "Return type mismatch between linked nodes"


def _entry(kind: str, message: str, details: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _fault(
    kind: str, message: str, error: KeyError, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    told = {
        **(extra or {}),
        "exception_message": str(error),
        "exception_type": "KeyError",
        "traceback": ['  File "/opt/ComfyUI/execution.py", line 1, in validate_inputs\n'],
    }
    return _entry(kind, message, str(error), told)


def _out_of_range(name: str, value: Any, config: list[Any]) -> Iterator[dict[str, Any]]:
    extra = {"input_name": name, "input_config": config, "received_value": value}
    low, high = config[1].get("min"), config[1].get("max")
    if low is not None and value < low:
        message = f"Value {value} smaller than min of {low}"
        yield _entry("value_smaller_than_min", message, name, extra)
    if high is not None and value > high:
        message = f"Value {value} bigger than max of {high}"
        yield _entry("value_bigger_than_max", message, name, extra)


def links(graph: Graph, node_id: str) -> list[str]:
    """Return the nodes that one takes from, in the order of its inputs."""
    inputs = graph[node_id].get("inputs", {})
    return [str(value[0]) for value in inputs.values() if is_link(value)]


def to_run(graph: Graph, outputs: list[str], cached: set[str]) -> list[str]:
    """Return the outputs and what they still need, in the order in which they are found.

    The last input is followed first: that gives the order seen in every recording.
    """
    found: dict[str, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            node_id = stack.pop()
            if node_id in found:
                continue
            found[node_id] = None
            if node_id not in cached:
                stack += [n for n in links(graph, node_id) if n not in found and n not in cached]
    return list(found)


def next_ready(graph: Graph, waiting: list[str], done: set[str]) -> str:
    """Return the node to run next: a ready output before all others, else the first ready."""
    ready = [n for n in waiting if n in done or done.issuperset(links(graph, n))]
    outputs = [n for n in ready if NODES[graph[n]["class_type"]].is_output]
    return (outputs or ready)[0]
