"""Goal: what is drawn can be read: contrast, type inside its room, boxes that do not overlap.

Method: the pure parts with random input; whole pictures only where the prompt is extreme.
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.sketch.brief import Brief, dice_for, seed_of
from agent.engines.sketch.canvas import Box
from agent.engines.sketch.glyphs import FACES, FALLBACKS, FOLDER, Coverage
from agent.engines.sketch.palette import (
    LEGIBLE,
    contrast,
    derive,
    inverted,
    legible,
    quiet,
    tinted,
)
from agent.engines.sketch.picture import draw
from agent.engines.sketch.routes import laid_out
from agent.engines.sketch.typeset import Setting, clean, fit, width_of
from agent.engines.sketch.wording import Graph, graph

colour = st.from_regex(r"#[0-9a-f]{6}", fullmatch=True)
channel = st.integers(0, 255)
rgb = st.tuples(channel, channel, channel)


@given(st.lists(colour, max_size=7), st.integers(0, 2**32 - 1))
def test_type_can_be_read_on_every_ground_of_every_palette(colours, seed):
    made = derive(colours, dice_for(seed))
    for palette in (made, inverted(made), tinted(made)):
        assert len(palette.accents) >= 3
        assert contrast(palette.ink, palette.ground) >= LEGIBLE
        assert contrast(palette.muted, palette.ground) >= LEGIBLE
        for ground in (palette.ground, palette.panel, *palette.accents):
            ink = legible(ground, palette.ink)
            assert contrast(ink, ground) >= LEGIBLE
            assert contrast(quiet(ground, ink), ground) >= LEGIBLE


@given(rgb, rgb)
def test_a_wish_is_kept_where_it_can_be_read(ground, wish):
    if contrast(ground, wish) >= LEGIBLE:
        assert legible(ground, wish) == wish


def test_black_on_white_has_the_highest_contrast():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


@given(st.text(min_size=1, max_size=300), st.integers(60, 500), st.integers(20, 300))
def test_fitted_type_stays_in_its_room_or_is_cut(text, width, height):
    setting = Setting(face="text", largest=40, smallest=9, max_lines=6)
    block = fit(text, setting, width, height)
    assert len(block.lines) <= 6
    assert 9 <= block.size <= 40
    assert all(width_of(line, "text", block.size) <= width * 1.05 for line in block.lines)


def test_what_does_not_fit_ends_with_an_ellipsis():
    setting = Setting(face="bold", largest=30, smallest=12, max_lines=2)
    block = fit("a word " * 500, setting, 200, 60)
    assert block.cut
    assert block.lines[-1].endswith("\u2026")


def test_text_is_freed_from_what_cannot_be_seen():
    assert clean(" a\u0000b\n\n c\ufe0f\ud800 ") == "ab c"


@pytest.mark.parametrize("name", [*FACES.values(), *FALLBACKS])
def test_a_font_file_tells_what_it_covers(name):
    covered = Coverage(FOLDER / name)
    assert " " in covered
    assert "\U0010fffe" not in covered


def test_the_scripts_that_are_promised_are_covered():
    files = [Coverage(FOLDER / name) for name in (FACES["text"], *FALLBACKS)]
    promised = "Aé ß Ω Ж ע ع Հ ქ ∑ → ☐ ก अ"
    assert all(any(char in file for file in files) for char in promised)


def overlap(one, two):
    return (
        one.left < two.right
        and two.left < one.right
        and one.top < two.bottom
        and two.top < one.bottom
    )


GRAPHS = [
    "A -> B",
    "A -> B -> C -> D -> E -> F -> G -> H -> I",
    "A -> B -> C, B -> D, B -> E -> F, A -> F",
    "A -> B -> C -> A",
    "A -> B -> A",
    "A -> B -> C -> D -> E -> A",
    "A -> B -> C -> D -> B, D -> E",
    "A -> (B, C, D, E) -> F",
    "A -> B, C -> D, E -> F",
]


@pytest.mark.parametrize("prompt", GRAPHS)
@pytest.mark.parametrize("size", [(900, 800), (1200, 600), (660, 1100), (220, 180)])
def test_boxes_stay_in_the_room_and_apart_and_every_arrow_ends_at_its_box(prompt, size):
    shape = graph(prompt)
    assert shape is not None
    room = Box(10, 20, 10 + size[0], 20 + size[1])
    drawing = laid_out(shape, room, 120)
    for box in drawing.boxes:
        assert room.left <= box.left < box.right <= room.right
        assert room.top <= box.top < box.bottom <= room.bottom
    assert not any(overlap(a, b) for a, b in itertools.combinations(drawing.boxes, 2))
    for (_, end), route in zip(shape.edges, drawing.routes, strict=True):
        assert overlap(drawing.boxes[end].inset(-2), Box(*route.points[-1], *route.points[-1]))


@pytest.mark.parametrize("prompt", GRAPHS)
def test_no_arrow_runs_through_a_box(prompt):
    shape = graph(prompt)
    assert shape is not None
    drawing = laid_out(shape, Box(0, 0, 1200, 700), 120)
    for route, box in itertools.product(drawing.routes, drawing.boxes):
        for (ax, ay), (bx, by) in itertools.pairwise(route.points):
            line = Box(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
            assert not overlap(line, box.inset(1))


def test_a_box_without_arrows_stands_in_the_room():
    drawing = laid_out(Graph(nodes=("Only",), edges=()), Box(0, 0, 400, 400), 100)
    assert len(drawing.boxes) == 1


EXTREME = {
    "long": "The city measured its water for a year. " * 100,
    "one word": "x" * 4000,
    "arabic": "تقرير الطاقة السنوي 2025: الشبكات والتخزين",
    "chinese": "年度能源报告。电网与储能的一年记录",
    "hindi and thai": "वार्षिक ऊर्जा समीक्षा, รายงานประจำปี",
    "emoji": "\U0001f680 Launch \U0001f468\u200d\U0001f469\u200d\U0001f467 day",
    "arrows only": "-> -> ->",
    "marks only": "\u200d\u0301\ufe0f",
    "many figures": ", ".join(f"{n} % part {n}" for n in range(40)),
    "huge number": "9" * 300 + " % of it",
}


@pytest.mark.parametrize("prompt", EXTREME.values(), ids=EXTREME.keys())
@pytest.mark.parametrize("style", ["technical-diagram", "report-cover", "infographic", None])
def test_no_prompt_makes_a_drawing_fail(prompt, style):
    brief = Brief(
        prompt=prompt,
        style=style,
        colours=("#ffffff", "#222222"),
        mark="Example",
        face=None,
        width=256,
        height=320,
        seed=3,
    )
    assert draw(brief, lambda _stage: None).startswith(b"\x89PNG")


def test_each_picture_of_a_job_has_its_own_seed():
    seeds = [seed_of(4294967295, index) for index in range(10)]
    assert seeds[0] == 4294967295
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**32 for seed in seeds)
