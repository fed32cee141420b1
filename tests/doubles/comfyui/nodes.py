"""The node classes that the double knows, in the form of /object_info; it runs none of them."""

from dataclasses import dataclass, field
from typing import Any

from tests.doubles.comfyui.settings import Settings

SAMPLERS = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
SCHEDULERS = [
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]
UPSCALES = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
LATENT_UPSCALES = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
MAX_SIDE = 16384
FOLDERS = ("checkpoints", "loras", "upscale_models")
"""Inputs of these types list the files of that folder."""

Inputs = dict[str, tuple[Any, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class NodeClass:
    """One class: what it takes, what it gives, whether it is an output."""

    title: str
    category: str
    takes: Inputs
    gives: tuple[str, ...] = ()
    optional: Inputs = field(default_factory=dict)
    is_output: bool = False
    hidden: dict[str, str] = field(default_factory=dict)
    module: str = "nodes"


def _int(default: int, low: int, high: int = MAX_SIDE, **more: Any) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": default, "min": low, "max": high, **more}


def _float(default: float, low: float, high: float, **more: Any) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": low, "max": high, **more}


def _of(kind: Any, **more: Any) -> tuple[Any, dict[str, Any]]:
    return kind, more


_TEXT = _of("STRING", multiline=True, dynamicPrompts=True)
_SEED = _int(0, 0, 2**64 - 1, control_after_generate=True)
_SIZE = {"width": _int(512, 16, step=8), "height": _int(512, 16, step=8)}
_BATCH = {"batch_size": _int(1, 1, 4096)}
_STRENGTH = _float(1.0, -100.0, 100.0, step=0.01)
_PNG = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
_SAMPLE: Inputs = {
    "model": _of("MODEL"),
    "seed": _SEED,
    "steps": _int(20, 1, 10000),
    "cfg": _float(8.0, 0.0, 100.0, step=0.1, round=0.01),
    "sampler_name": _of(SAMPLERS),
    "scheduler": _of(SCHEDULERS),
    "positive": _of("CONDITIONING"),
    "negative": _of("CONDITIONING"),
    "latent_image": _of("LATENT"),
    "denoise": _float(1.0, 0.0, 1.0, step=0.01),
}

NODES: dict[str, NodeClass] = {
    "CheckpointLoaderSimple": NodeClass(
        title="Load Checkpoint",
        category="loaders",
        takes={"ckpt_name": _of("checkpoints")},
        gives=("MODEL", "CLIP", "VAE"),
    ),
    "LoraLoader": NodeClass(
        title="Load LoRA",
        category="loaders",
        takes={
            "model": _of("MODEL"),
            "clip": _of("CLIP"),
            "lora_name": _of("loras"),
            "strength_model": _STRENGTH,
            "strength_clip": _STRENGTH,
        },
        gives=("MODEL", "CLIP"),
    ),
    "LoraLoaderModelOnly": NodeClass(
        title="LoraLoaderModelOnly",
        category="loaders",
        takes={"model": _of("MODEL"), "lora_name": _of("loras"), "strength_model": _STRENGTH},
        gives=("MODEL",),
    ),
    "CLIPTextEncode": NodeClass(
        title="CLIP Text Encode (Prompt)",
        category="conditioning",
        takes={"text": _TEXT, "clip": _of("CLIP")},
        gives=("CONDITIONING",),
    ),
    "CLIPSetLastLayer": NodeClass(
        title="CLIP Set Last Layer",
        category="conditioning",
        takes={"clip": _of("CLIP"), "stop_at_clip_layer": _int(-1, -24, -1, step=1)},
        gives=("CLIP",),
    ),
    "ModelSamplingDiscrete": NodeClass(
        title="ModelSamplingDiscrete",
        category="advanced/model",
        takes={
            "model": _of("MODEL"),
            "sampling": _of(["eps", "v_prediction", "lcm", "x0", "img_to_img"]),
            "zsnr": _of("BOOLEAN", default=False),
        },
        gives=("MODEL",),
        module="comfy_extras.nodes_model_advanced",
    ),
    "EmptyLatentImage": NodeClass(
        title="Empty Latent Image",
        category="latent",
        takes=_SIZE | _BATCH,
        gives=("LATENT",),
    ),
    "KSampler": NodeClass(title="KSampler", category="sampling", takes=_SAMPLE, gives=("LATENT",)),
    "VAEDecode": NodeClass(
        title="VAE Decode",
        category="latent",
        takes={"samples": _of("LATENT"), "vae": _of("VAE")},
        gives=("IMAGE",),
    ),
    "VAEDecodeTiled": NodeClass(
        title="VAE Decode (Tiled)",
        category="_for_testing",
        takes={
            "samples": _of("LATENT"),
            "vae": _of("VAE"),
            "tile_size": _int(512, 64, 4096, step=32),
            "overlap": _int(64, 0, 4096, step=32),
            "temporal_size": _int(64, 8, 4096, step=4),
            "temporal_overlap": _int(8, 4, 4096, step=4),
        },
        gives=("IMAGE",),
    ),
    "VAEEncode": NodeClass(
        title="VAE Encode",
        category="latent",
        takes={"pixels": _of("IMAGE"), "vae": _of("VAE")},
        gives=("LATENT",),
    ),
    "VAELoader": NodeClass(
        title="Load VAE",
        category="loaders",
        takes={"vae_name": _of(["pixel_space"])},
        gives=("VAE",),
    ),
    "LatentUpscale": NodeClass(
        title="Upscale Latent",
        category="latent",
        takes={
            "samples": _of("LATENT"),
            "upscale_method": _of(LATENT_UPSCALES),
            "width": _int(512, 0, step=8),
            "height": _int(512, 0, step=8),
            "crop": _of(["disabled", "center"]),
        },
        gives=("LATENT",),
    ),
    "LatentUpscaleBy": NodeClass(
        title="Upscale Latent By",
        category="latent",
        takes={
            "samples": _of("LATENT"),
            "upscale_method": _of(LATENT_UPSCALES),
            "scale_by": _float(1.5, 0.01, 8.0, step=0.01),
        },
        gives=("LATENT",),
    ),
    "EmptyImage": NodeClass(
        title="EmptyImage",
        category="image",
        takes={
            "width": _int(512, 1),
            "height": _int(512, 1),
            **_BATCH,
            "color": _int(0, 0, 0xFFFFFF, step=1, display="color"),
        },
        gives=("IMAGE",),
    ),
    "LoadImage": NodeClass(
        title="Load Image",
        category="image",
        takes={"image": _of("input", image_upload=True)},
        gives=("IMAGE", "MASK"),
    ),
    "ImageScale": NodeClass(
        title="Upscale Image",
        category="image/upscaling",
        takes={
            "image": _of("IMAGE"),
            "upscale_method": _of(UPSCALES),
            "width": _int(512, 0, step=1),
            "height": _int(512, 0, step=1),
            "crop": _of(["disabled", "center"]),
        },
        gives=("IMAGE",),
    ),
    "ImageScaleBy": NodeClass(
        title="Upscale Image By",
        category="image/upscaling",
        takes={
            "image": _of("IMAGE"),
            "upscale_method": _of(UPSCALES),
            "scale_by": _float(1.0, 0.01, 8.0, step=0.01),
        },
        gives=("IMAGE",),
    ),
    "ImageBatch": NodeClass(
        title="Batch Images",
        category="image",
        takes={"image1": _of("IMAGE"), "image2": _of("IMAGE")},
        gives=("IMAGE",),
    ),
    "UpscaleModelLoader": NodeClass(
        title="Load Upscale Model",
        category="loaders",
        takes={"model_name": _of("upscale_models")},
        gives=("UPSCALE_MODEL",),
        module="comfy_extras.nodes_upscale_model",
    ),
    "ImageUpscaleWithModel": NodeClass(
        title="Upscale Image (using Model)",
        category="image/upscaling",
        takes={"upscale_model": _of("UPSCALE_MODEL"), "image": _of("IMAGE")},
        gives=("IMAGE",),
        module="comfy_extras.nodes_upscale_model",
    ),
    "SaveImage": NodeClass(
        title="Save Image",
        category="image",
        takes={"images": _of("IMAGE"), "filename_prefix": _of("STRING", default="ComfyUI")},
        hidden=_PNG,
        is_output=True,
    ),
    "PreviewImage": NodeClass(
        title="Preview Image",
        category="image",
        takes={"images": _of("IMAGE")},
        hidden=_PNG,
        is_output=True,
    ),
    "SaveImageWebsocket": NodeClass(
        title="SaveImageWebsocket",
        category="api/image",
        takes={"images": _of("IMAGE")},
        is_output=True,
        module="custom_nodes.websocket_image_save",
    ),
    "RigSleep": NodeClass(
        title="RigSleep",
        category="rig",
        takes={
            "images": _of("IMAGE"),
            "seconds": _float(1.0, 0.0, 600.0),
            "nonce": _int(0, 0, 2**31),
        },
        gives=("IMAGE",),
        module="custom_nodes.rig_nodes",
    ),
    "RigRaise": NodeClass(
        title="RigRaise",
        category="rig",
        takes={"images": _of("IMAGE"), "kind": _of("STRING")},
        gives=("IMAGE",),
        module="custom_nodes.rig_nodes",
    ),
}


def input_config(name: str, spec: tuple[Any, dict[str, Any]], settings: Settings) -> list[Any]:
    """Return an input as /object_info shows it: [type or list of values, options]."""
    kind, options = spec
    if kind in FOLDERS:
        kind = settings.files(kind)
    elif kind == "input":
        kind = []
    return [kind, {**options, "tooltip": f"The {name.replace('_', ' ')}."}]


def describe(name: str, settings: Settings) -> dict[str, Any]:
    """Return one class as /object_info shows it."""
    node = NODES[name]
    groups = {"required": node.takes, "optional": node.optional}
    shown: dict[str, Any] = {
        group: {key: input_config(key, spec, settings) for key, spec in inputs.items()}
        for group, inputs in groups.items()
        if inputs
    }
    if node.hidden:
        shown["hidden"] = node.hidden
    return {
        "input": shown,
        "input_order": {group: list(inputs) for group, inputs in shown.items()},
        "output": list(node.gives),
        "output_is_list": [False] * len(node.gives),
        "output_name": list(node.gives),
        "name": name,
        "display_name": node.title,
        "description": "",
        "python_module": node.module,
        "category": node.category,
        "output_node": node.is_output,
    }
