"""One picture from its brief: picks the style, runs its stages, encodes.

Runs on a drawing thread. It must not know a job, an event loop or a file.
"""

from collections.abc import Callable
from typing import Final

from PIL import Image

from agent.engines.sketch import card, cover, diagram, infographic
from agent.engines.sketch.brief import Brief, Stages, Studio, dice_for
from agent.engines.sketch.canvas import encoded
from agent.engines.sketch.palette import derive

_STYLES: Final[dict[str, Callable[[Studio], Stages]]] = {
    "technical-diagram": diagram.compose,
    "report-cover": cover.compose,
    "infographic": infographic.compose,
}


def draw(brief: Brief, done: Callable[[str], None]) -> bytes:
    """Draw `brief` as PNG; `done` hears of each stage and may raise to stop."""
    dice = dice_for(brief.seed)
    studio = Studio(brief=brief, palette=derive(brief.colours, dice), dice=dice)
    stages = _STYLES.get(brief.style or "", card.compose)(studio)
    image: Image.Image | None = None
    while image is None:
        try:
            done(next(stages))
        except StopIteration as end:
            image = end.value
    data = encoded(image)
    done("encoded")
    return data
