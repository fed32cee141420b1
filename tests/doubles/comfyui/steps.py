"""What each node class does with its inputs: sizes, seeds and files instead of tensors.

It sends no events of its own but the progress of a sampler and the frames of SaveImageWebsocket.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import UnidentifiedImageError

from tests.doubles.comfyui import failures, pictures
from tests.doubles.comfyui.card import Card, CardFullError
from tests.doubles.comfyui.failures import NodeError
from tests.doubles.comfyui.files import SHOWN_ROOT, Folders, OutsideError
from tests.doubles.comfyui.gate import Gate
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.settings import Settings
from tests.doubles.traps import Traps

UPSCALE_FACTOR = 4
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """A latent or a picture: its size in pixels, how many, and what colours it."""

    width: int
    height: int
    batch: int = 1
    seed: int = 0
    color: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A model, a text encoder or a decoder of a checkpoint."""

    checkpoint: str


class Run(Protocol):
    """What a node may ask of the prompt that runs it."""

    node_id: str
    graph: dict[str, Any]
    extra_data: dict[str, Any]

    def check_interrupt(self) -> None:
        """Stop here if the prompt was interrupted."""

    def progress(self, value: int, of: int, frame: tuple[bytes, str] | None) -> None:
        """Tell how far the node is, and show a picture."""


@dataclass(kw_only=True)
class Workshop:
    """What the nodes work with."""

    settings: Settings
    traps: Traps
    card: Card
    folders: Folders
    log: Log
    hang: Gate
    frozen: Gate

    async def run(self, class_type: str, run: Run, inputs: Inputs) -> tuple[Any, ...]:
        """Run a node; an output node gives its `ui` instead. *Raises* NodeError."""
        if trap := self.traps.take("fail", node=class_type):
            raise NodeError(trap["type"], trap["message"])
        if trap := self.traps.take("oom", node=class_type):
            self.card.unload()  # as ComfyUI does itself
            raise failures.out_of_memory(trap["spelling"])
        try:
            return await ACTS[class_type](self, run, inputs)
        except CardFullError as full:
            self.card.unload()  # as ComfyUI does itself
            raise failures.out_of_memory("allocation") from full

    async def pause(self, milliseconds: float) -> None:
        """Take time; none passes while the server is frozen."""
        await asyncio.sleep(milliseconds / 1000)
        await self.frozen.passed()

    async def use(self, model: Loaded) -> None:
        """Bring a model back to the card that was sent away since its node ran."""
        if self.card.load(model.checkpoint):
            await self.pause(self.settings.load_ms / 4)

    async def png(self, canvas: Canvas, at: int, text: dict[str, Any] | None = None) -> bytes:
        """Return the PNG of one picture of a batch."""
        size = (canvas.width, canvas.height)
        return await asyncio.to_thread(
            pictures.png, *size, canvas.seed + at, text or {}, color=canvas.color
        )

    async def save(self, run: Run, canvas: Canvas, kind: str, prefix: str) -> tuple[Any, ...]:
        """Write the pictures of a batch."""
        prefix = prefix.replace("%width%", str(canvas.width))
        prefix = prefix.replace("%height%", str(canvas.height))
        text: dict[str, Any] = {}
        if self.settings.metadata:
            text = {"prompt": run.graph, **(run.extra_data.get("extra_pnginfo") or {})}
        data = [await self.png(canvas, at, text) for at in range(canvas.batch)]
        try:
            saved = self.folders.save(kind, prefix, data)
        except OutsideError as error:
            message = (
                "**** ERROR: Saving image outside the output folder is not allowed.\n"
                f" full_output_folder: {SHOWN_ROOT}\n         output_dir: {SHOWN_ROOT}/output\n"
                f"         commonpath: {SHOWN_ROOT}\n"
            )
            raise NodeError("Exception", message) from error
        for item in saved:
            parts = (item["type"], item["subfolder"], item["filename"])
            self.log.files.append("/".join(part for part in parts if part))
        return ({"images": saved},)


async def _load_checkpoint(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    name = inputs["ckpt_name"]
    if name.startswith("corrupt") or shop.traps.take("corrupt_checkpoint", checkpoint=name):
        raise failures.corrupt_checkpoint()
    await shop.pause(shop.settings.load_ms)
    shop.card.load(name)
    return (Loaded(name),) * 3


async def _encode(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.use(inputs["clip"])
    await shop.pause(shop.settings.encode_ms)
    return (inputs["text"],)


async def _sample(shop: Workshop, run: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.use(inputs["model"])
    run.check_interrupt()
    with shop.card.working(inputs["model"].checkpoint):
        await _take_steps(shop, run, int(inputs["steps"]))
    return (replace(inputs["latent_image"], seed=int(inputs["seed"])),)


async def _take_steps(shop: Workshop, run: Run, steps: int) -> None:
    for step in range(1, steps + 1):
        trap = shop.traps.on("hang_at_step")
        if trap and trap["step"] == step and shop.traps.take("hang_at_step"):
            shop.hang.close(trap["seconds"])
        await shop.hang.passed()
        await shop.pause(shop.settings.step_ms)
        run.check_interrupt()
        frame = None
        if shop.settings.preview_method != "none":
            frame = (pictures.preview(shop.settings.preview_size), "image/jpeg")
        run.progress(step, steps, frame)


async def _decode(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.use(inputs["vae"])
    await shop.pause(shop.settings.decode_ms)
    return (inputs["samples"],)


async def _to_latent(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.use(inputs["vae"])
    pixels: Canvas = inputs["pixels"]
    return (
        replace(pixels, width=pixels.width // 8 * 8, height=pixels.height // 8 * 8, color=None),
    )


async def _empty_latent(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    width, height = inputs["width"] // 8 * 8, inputs["height"] // 8 * 8
    return (Canvas(width, height, inputs["batch_size"]),)


async def _empty_image(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    size = (inputs["width"], inputs["height"], inputs["batch_size"])
    return (Canvas(*size, color=inputs["color"]),)


async def _load_image(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    path = shop.folders.input_path(inputs["image"])
    try:
        width, height = pictures.size_of(path.read_bytes())
    except UnidentifiedImageError as error:
        message = f"cannot identify image file '{SHOWN_ROOT}/input/{inputs['image']}'\n"
        raise NodeError("PIL.UnidentifiedImageError", message) from error
    return Canvas(width, height), None


def _scaled(canvas: Canvas, width: int, height: int) -> Canvas:
    """Resize; a side of 0 keeps the proportions."""
    if not width and not height:
        return canvas
    width = width or max(1, round(canvas.width * height / canvas.height))
    height = height or max(1, round(canvas.height * width / canvas.width))
    return replace(canvas, width=width, height=height)


async def _scale(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    canvas = inputs["image"] if "image" in inputs else inputs["samples"]
    return (_scaled(canvas, inputs["width"], inputs["height"]),)


async def _scale_by(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    canvas = inputs["image"] if "image" in inputs else inputs["samples"]
    by = inputs["scale_by"]
    return (_scaled(canvas, math.floor(canvas.width * by), math.floor(canvas.height * by)),)


async def _upscale(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.pause(shop.settings.decode_ms)
    canvas = inputs["image"]
    return (_scaled(canvas, canvas.width * UPSCALE_FACTOR, canvas.height * UPSCALE_FACTOR),)


async def _batch(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    first, second = inputs["image1"], inputs["image2"]
    return (replace(first, batch=first.batch + second.batch),)


async def _save(shop: Workshop, run: Run, inputs: Inputs) -> tuple[Any, ...]:
    return await shop.save(run, inputs["images"], "output", inputs["filename_prefix"])


async def _show(shop: Workshop, run: Run, inputs: Inputs) -> tuple[Any, ...]:
    return await shop.save(run, inputs["images"], "temp", shop.folders.temp_prefix)


async def _save_to_socket(shop: Workshop, run: Run, inputs: Inputs) -> tuple[Any, ...]:
    canvas: Canvas = inputs["images"]
    for at in range(canvas.batch):
        data = await shop.png(canvas, at)
        run.progress(at, canvas.batch, (data, "image/png"))
    return (None,)


async def _sleep(shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    await shop.pause(1000 * inputs["seconds"] * shop.settings.sleep_scale)
    return (inputs["images"],)


async def _raise(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
    if inputs["kind"] in failures.OUT_OF_MEMORY:
        raise failures.out_of_memory(inputs["kind"])
    if inputs["kind"] == "oom":
        raise failures.out_of_memory("torch")
    raise NodeError("ValueError", "rig: deliberate failure\n")


def _pass(*names: str) -> Callable[[Workshop, Run, Inputs], Awaitable[tuple[Any, ...]]]:
    async def act(_shop: Workshop, _: Run, inputs: Inputs) -> tuple[Any, ...]:
        return tuple(inputs[name] for name in names)

    return act


ACTS: dict[str, Callable[[Workshop, Run, Inputs], Awaitable[tuple[Any, ...]]]] = {
    "CheckpointLoaderSimple": _load_checkpoint,
    "CLIPTextEncode": _encode,
    "CLIPSetLastLayer": _pass("clip"),
    "EmptyImage": _empty_image,
    "EmptyLatentImage": _empty_latent,
    "ImageBatch": _batch,
    "ImageScale": _scale,
    "ImageScaleBy": _scale_by,
    "ImageUpscaleWithModel": _upscale,
    "KSampler": _sample,
    "LatentUpscale": _scale,
    "LatentUpscaleBy": _scale_by,
    "LoadImage": _load_image,
    "LoraLoader": _pass("model", "clip"),
    "LoraLoaderModelOnly": _pass("model"),
    "ModelSamplingDiscrete": _pass("model"),
    "PreviewImage": _show,
    "RigRaise": _raise,
    "RigSleep": _sleep,
    "SaveImage": _save,
    "SaveImageWebsocket": _save_to_socket,
    "UpscaleModelLoader": _pass("model_name"),
    "VAEDecode": _decode,
    "VAEDecodeTiled": _decode,
    "VAEEncode": _to_latent,
    "VAELoader": _pass("vae_name"),
}
