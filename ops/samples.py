"""Draws the sample sheet of the sketch engine: each style in each aspect ratio, for docs/.

Uses the palettes of workflows/styles.toml. It must not need a bus, a GPU or a network.
"""

import argparse
import io
import sys
import time
import tomllib
from pathlib import Path
from typing import Final

import msgspec
from PIL import Image

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from agent.engines.sketch.brief import Brief  # noqa: E402 - found through the line above
from agent.engines.sketch.picture import draw  # noqa: E402

ASPECTS: Final = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "4:3": (1152, 896),
    "9:16": (768, 1344),
}
PROMPTS: Final = {
    "technical-diagram": (
        (
            "One request, one picture: Agent -> JetStream -> Worker -> ComfyUI -> Asset store, "
            "Worker -> Cloud API -> Asset store, Worker -> Ledger. "
            "Every link of the chain is kept for thirty days."
        ),
        "Image pipeline: Prompt -> Router -> Queue -> GPU worker -> Image -> Thumbnail -> Web page",
        (
            "Release loop: Plan -> Build -> Test -> Release -> Monitor -> Plan. "
            "What is measured decides what is planned next."
        ),
        (
            "Sign-in: Browser -> API gateway -> Auth service -> (User database, Session cache). "
            "Tokens live for fifteen minutes."
        ),
    ),
    "report-cover": (
        (
            "Water in the City: where it comes from and where it goes. "
            "Twelve months of measurements from forty districts."
        ),
        (
            "Annual Energy Review 2025: storage, grids and the price of flexibility. "
            "How regional networks balanced supply and demand through a year of records."
        ),
        "State of Local AI: what a single graphics card can do for a whole company.",
        "The Quiet Infrastructure: notes on systems that nobody notices until they stop.",
    ),
    "infographic": (
        (
            "Local image generation: 82 % made at home, 18 s median, 1,240 pictures a week, "
            "96 % without a retry and $0.03 per cloud picture"
        ),
        "Time to a picture: 7 s for a draft, 18 s for standard, 42 s for high, 75 s for premium",
        "From an idea to a picture: prompt, routing, drawing, storage",
        (
            "A year of cycling: 64 % of trips by bike, 3,120 km ridden, 410 kg of CO2 avoided, "
            "12 flat tyres and 0 regrets"
        ),
    ),
}
COVER: Final = ("report-cover", 1, "4:3", 29)
"""The style, prompt, aspect and seed of the cover that is kept in full size."""

ROW_PX: Final = 440
GAP_PX: Final = 20
SHEET_COLOURS: Final = 256


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """What of a style this sheet needs."""

    brand: dict[str, str | list[str]]


def drawn(style: str, prompt: str, aspect: str, seed: int) -> bytes:
    """Draw one picture with the palette of its style and print what it cost."""
    table = tomllib.loads((ROOT / "workflows" / "styles.toml").read_text(encoding="utf-8"))
    brand = msgspec.convert(table[style], Style).brand
    width, height = ASPECTS[aspect]
    brief = Brief(
        prompt=prompt,
        style=style,
        colours=tuple(brand["palette"]),
        mark="",
        face="display" if brand.get("font") == "sans" else None,
        width=width,
        height=height,
        seed=seed,
    )
    start = time.process_time()
    data = draw(brief, lambda _stage: None)
    spent = time.process_time() - start
    print(f"{style:18} {aspect:5} {width}x{height}  {spent:.3f} s CPU  {len(data) // 1024} KiB")
    return data


def sheet(seed: int) -> Image.Image:
    """Draw all samples and lay them out: a row per style, a column per aspect ratio."""
    rows = []
    for style, prompts in PROMPTS.items():
        row = []
        for place, (aspect, prompt) in enumerate(zip(ASPECTS, prompts, strict=True)):
            picture = Image.open(io.BytesIO(drawn(style, prompt, aspect, seed + place)))
            wide = round(picture.width * ROW_PX / picture.height)
            row.append(picture.resize((wide, ROW_PX), Image.Resampling.LANCZOS))
        rows.append(row)
    width = max(sum(small.width + GAP_PX for small in row) for row in rows) + GAP_PX
    whole = Image.new("RGB", (width, len(rows) * (ROW_PX + GAP_PX) + GAP_PX), (208, 210, 214))
    for line, row in enumerate(rows):
        x = GAP_PX
        for small in row:
            whole.paste(small, (x, GAP_PX + line * (ROW_PX + GAP_PX)))
            x += small.width + GAP_PX
    return whole


def main() -> None:
    """Write the sheet and the example cover."""
    parser = argparse.ArgumentParser(
        description="Draw every style of the sketch engine in every aspect ratio as one sheet, "
        "and one cover in full size. Prints the CPU time of each picture.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "samples.png",
        help="the sheet (default: docs/samples.png)",
    )
    parser.add_argument(
        "--cover",
        type=Path,
        default=ROOT / "docs" / "example-cover.png",
        help="the cover in full size (default: docs/example-cover.png)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=30,
        help="seed of the first column; others follow (default: %(default)s)",
    )
    wanted = parser.parse_args()
    small = sheet(wanted.seed).quantize(SHEET_COLOURS, dither=Image.Dither.NONE)
    small.save(wanted.out, optimize=True)
    style, place, aspect, seed = COVER
    wanted.cover.write_bytes(drawn(style, PROMPTS[style][place], aspect, seed))
    for path in (wanted.out, wanted.cover):
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
