"""Compares what the double said with what was recorded: same keys, types, order and words.

Free are only what differs from run to run: ids (one to one), times, sizes, memory, tracebacks.
"""

import re
from typing import Any

FREE = {
    *("timestamp", "ram_total", "ram_free", "vram_total", "vram_free"),
    *("torch_vram_total", "torch_vram_free", "python_version", "pytorch_version", "argv"),
    *("traceback", "os", "name_of_device"),
}
"""Values of these keys need only be of the same type."""
LEFT_OUT = {"tooltip", "description", "output_tooltips"}
"""Texts of ComfyUI's own, which the double does not repeat."""
UNORDERED = re.compile(r"\.(executed|current_outputs|prompt\.4|queue_(running|pending)\.\d+\.4)$")
"""Made from sets by ComfyUI: any order."""
ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}"
    r"|ComfyUI_temp_[a-z]{5}"
)


class Likeness:
    """One comparison, with the ids it has learnt."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        """Recorded id -> the double's."""

    def ours(self, text: str) -> str:
        """Return a recorded text with the double's ids in it."""
        return ID.sub(lambda found: self.ids.get(found[0], found[0]), text)

    def differences(self, recorded: Any, said: Any, path: str = "") -> list[str]:
        """Return where two JSON values differ."""
        key = path.rsplit(".", 1)[-1]
        if key in FREE:
            same = type(recorded) is type(said) and bool(recorded) == bool(said)
            return [] if same else [f"{path}: {recorded!r} became {said!r}"]
        if isinstance(recorded, dict) and isinstance(said, dict):
            return self._of_objects(recorded, said, path)
        if isinstance(recorded, list) and isinstance(said, list):
            return self._of_lists(recorded, said, path)
        if isinstance(recorded, str) and isinstance(said, str):
            return self._of_texts(recorded, said, path)
        same = type(recorded) is type(said) and recorded == said
        return [] if same else [f"{path}: {recorded!r} became {said!r}"]

    def _of_objects(self, recorded: dict[str, Any], said: dict[str, Any], path: str) -> list[str]:
        left = {self.learn(key, None): value for key, value in recorded.items()}
        if len(left) == len(said) == 1 and ID.fullmatch(next(iter(recorded))):
            left = {self.learn(next(iter(recorded)), next(iter(said))): next(iter(left.values()))}
        keys, our_keys = left.keys() - LEFT_OUT, said.keys() - LEFT_OUT
        if keys != our_keys:
            return [f"{path}: lacks {sorted(keys - our_keys)}, adds {sorted(our_keys - keys)}"]
        return [d for key in keys for d in self.differences(left[key], said[key], f"{path}.{key}")]

    def _of_lists(self, recorded: list[Any], said: list[Any], path: str) -> list[str]:
        if len(recorded) != len(said):
            return [
                f"{path}: {len(recorded)} items became {len(said)}: {recorded!r:.200} {said!r:.200}"
            ]
        if UNORDERED.search(path):
            recorded, said = sorted(recorded), sorted(said)
        pairs = enumerate(zip(recorded, said, strict=True))
        return [d for at, (a, b) in pairs for d in self.differences(a, b, f"{path}.{at}")]

    def _of_texts(self, recorded: str, said: str, path: str) -> list[str]:
        ids = ID.findall(recorded), ID.findall(said)
        if len(ids[0]) == len(ids[1]):
            for theirs, ours in zip(*ids, strict=True):
                self.learn(theirs, ours)
        if self.ours(recorded) == said or ".current_inputs." in path:
            return []
        return [f"{path}: {recorded!r:.300} became {said!r:.300}"]

    def learn(self, recorded: str, said: str | None) -> str:
        """Keep which id of ours stands for a recorded one; return ours."""
        if said is not None and ID.fullmatch(recorded) and said not in self.ids.values():
            self.ids.setdefault(recorded, said)
        return self.ids.get(recorded, recorded)


def step_free(events: list[Any]) -> list[Any]:
    """Fold the events of a sampler's steps into one: what one step sends, and whether all came."""
    folded: list[Any] = []
    run: list[tuple[str, ...]] = []
    complete = False
    for event in [*events, None]:
        step = event is not None and sampling(event)
        if step:
            run.append(step)
            if step[0] == "progress":
                complete = step[1] == step[2]
        elif run:
            kinds = [kind[0] for kind in run]
            start = kinds.index("progress_state") if "progress_state" in kinds else 0
            order = list(dict.fromkeys(kinds[start:]))
            folded.append({"steps": order, "complete": complete})
            run = []
        if event is not None and not step:
            folded.append(event)
    return folded


def sampling(event: Any) -> tuple[str, ...]:
    """Return the kind of an event of a sampler's step, else nothing."""
    if "event" in event:
        is_preview = event["event"] == 1 and event["word2"] == 1
        attributed = event.get("metadata", {}).get("image_type") == "image/jpeg"
        return (f"frame {event['event']}",) if is_preview or attributed else ()
    data = event["data"]
    if event["type"] == "progress" and data["value"] > 0:
        return ("progress", data["value"], data["max"])
    if event["type"] == "progress_state":
        last = list(data["nodes"].values())[-1]
        if last["state"] == "running" and isinstance(last["value"], int) and last["value"] > 0:
            return ("progress_state",)
    return ()
