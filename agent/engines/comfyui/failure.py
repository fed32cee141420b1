"""What ComfyUI's errors mean: each becomes a fault with a sentence a person can act on. Pure.

Node, reason and file name, never a traceback, a tensor or a path of the server.
"""

import re
from typing import Any, Final

from agent.core.faults import (
    Fault,
    HangFault,
    InternalFault,
    ModelMissingFault,
    OutOfMemoryFault,
    WorkflowInvalidFault,
)
from agent.engines.comfyui.api import Refused

_PATH: Final = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\"]+[\\/])+([^\s\\/'\"]+)")
_QUOTED_PATH: Final = re.compile(r"""(['"])(?:[A-Za-z]:)?[\\/][^'"]*[\\/]([^'"\\/]+)\1""")
"""Between quotes a path may have spaces."""
_OUT_OF_MEMORY: Final = ("OutOfMemoryError",)
_OUT_OF_MEMORY_WORDS: Final = ("out of memory", "exceed allowed memory", "not enough memory")
_MODEL_BROKEN: Final = ("SafetensorError", "UnpicklingError")
_MODEL_FILES: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_WORDS_MAX: Final = 200


def without_paths(text: str) -> str:
    """Cut a text to one line and paths of the server to their last part."""
    line = _QUOTED_PATH.sub(r"\1\2\1", " ".join(text.split()))
    return _PATH.sub(r"\1", line)[:_WORDS_MAX]


def refusal(refused: Refused) -> Fault:
    """Return the fault of a graph that was refused: permanent, in node and reason [11].

    The reason is in `node_errors`; `error.details` is empty for failed outputs.
    """
    for node, found in refused.node_errors.items():
        for error in found.get("errors", []):
            return _node_fault(node, str(found.get("class_type", "?")), error)
    kind = str(refused.error.get("type", "invalid"))
    return WorkflowInvalidFault(f"ComfyUI refuses the workflow: {_reason(refused.error)}", kind)


def _reason(error: dict[str, Any]) -> str:
    """Return message and details in one line, without what says nothing new."""
    message, details = (str(error.get(key) or "") for key in ("message", "details"))
    both = details if message == details else f"{message}: {details}".strip(": ")
    return without_paths(both) or "no reason given"


def _node_fault(node: str, class_type: str, error: dict[str, Any]) -> Fault:
    kind = str(error.get("type", "invalid"))
    extra = error.get("extra_info")
    name = str(extra.get("input_name", "")) if isinstance(extra, dict) else ""
    where = f"node {node} ({class_type}{'.' + name if name else ''})"
    received = str(extra.get("received_value")) if isinstance(extra, dict) else ""
    if kind == "value_not_in_list" and received.lower().endswith(_MODEL_FILES):
        return ModelMissingFault(f"ComfyUI has no file {received!r} for {where}", kind)
    return WorkflowInvalidFault(f"ComfyUI refuses {where}: {_reason(error)}", kind)


def run_time(payload: dict[str, Any]) -> Fault:
    """Return the fault of a prompt that failed while it ran [14]."""
    kind = str(payload.get("exception_type", "Exception")).rsplit(".", maxsplit=1)[-1]
    text = str(payload.get("exception_message", ""))
    where = f"node {payload.get('node_id')} ({payload.get('node_type')})"
    if kind in _OUT_OF_MEMORY or any(words in text.lower() for words in _OUT_OF_MEMORY_WORDS):
        return OutOfMemoryFault(f"the card ran out of memory in {where}", kind)
    loads = "Loader" in str(payload.get("node_type"))
    if kind in _MODEL_BROKEN or (loads and kind == "FileNotFoundError"):
        return ModelMissingFault(
            f"a model file cannot be read in {where}: {without_paths(text)}", kind
        )
    return InternalFault(f"ComfyUI failed in {where}: {kind}: {without_paths(text)}", kind)


def hang(what: str, silent_s: float) -> HangFault:
    """Return the fault of a prompt that made no step for too long."""
    return HangFault(f"ComfyUI made no step for {silent_s:.0f} s ({what})")
