"""How nodes fail at run time: types and messages as recorded or reported; it raises nothing."""

from typing import Any

TIPS = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before"
    " you might have accidentally set the batch_size to a large number."
)
OUT_OF_MEMORY = {
    "torch": (
        "torch.OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.99 GiB"
        " of which 0 bytes is free." + TIPS,
    ),
    "cuda": ("torch.cuda.OutOfMemoryError", "Allocation on device " + TIPS),
    "allocation": ("torch.OutOfMemoryError", "Allocation on device " + TIPS),
    "allowed": (
        "torch.OutOfMemoryError",
        "Allocation on device 0 would exceed allowed memory. (out of memory)" + TIPS,
    ),
    "tips": ("RuntimeError", "HIP error: out of memory" + TIPS),
}
"""Spelling -> (exception_type, exception_message); one error, as versions of torch word it."""


class NodeError(Exception):
    """A node raised; carries what the client is told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Interrupted(Exception):
    """The prompt was interrupted."""


def out_of_memory(spelling: str) -> NodeError:
    """Return the error of this spelling."""
    return NodeError(*OUT_OF_MEMORY[spelling])


def corrupt_checkpoint() -> NodeError:
    """Return the error of a checkpoint that cannot be read."""
    kind = "safetensors._safetensors_rust.SafetensorError"
    return NodeError(kind, "Error while deserializing header: header too large\n")


def told(value: Any) -> str | None:
    """Return an input as an error body shows it; a tensor is only its numbers."""
    if value is None:
        return None
    if isinstance(value, bool | int | float | str):
        return str(value)
    return "tensor([[[[0., 0., 0.],\n          ...,\n          [0., 0., 0.]]]])"


def error_body(
    node_id: str, class_type: str, error: NodeError, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Return what an execution_error says of the node that failed."""
    frames = ("execution.py", "execution.py", "execution.py", "execution.py", "nodes.py")
    return {
        "node_id": node_id,
        "node_type": class_type,
        "exception_message": error.message,
        "exception_type": error.kind,
        "traceback": [
            f'  File "/opt/ComfyUI/{name}", line {at}, in go\n    <source line>\n'
            for at, name in enumerate(frames, start=1)
        ],
        "current_inputs": {name: [told(value)] for name, value in inputs.items()},
    }
