"""Goal: styles are read whole or refused with file, table and field.

Method: the file that comes with mmg, and small files with one thing wrong each.
"""

from pathlib import Path

import pytest

from agent.core.catalog import StyleSheet
from agent.styles import StyleError, load_styles
from contracts.requests import AspectRatio, Style

NAMES = ("default", "technical-diagram", "report-cover", "infographic")
PLAIN = '[{name}.brand]\npalette = ["#FFFFFF", "#000000"]\n'
WHOLE = "".join(PLAIN.format(name=name) for name in NAMES)


def write(folder: Path, text: str) -> Path:
    (folder / "styles.toml").write_text(text, encoding="utf-8")
    return folder


def test_the_styles_that_come_with_mmg_are_complete():
    book = load_styles(Path(__file__).parents[2] / "workflows")
    assert set(book) == {"default", *(style.value for style in Style)}


def test_a_table_may_leave_out_all_but_its_palette(tmp_path):
    book = load_styles(write(tmp_path, WHOLE))
    assert tuple(book) == ("default", *(style.value for style in Style))
    brand = StyleSheet.Marks(palette=("#FFFFFF", "#000000"))
    assert set(map(repr, book.values())) == {repr(StyleSheet(brand=brand))}


def test_every_field_is_read(tmp_path):
    full = (
        '[default]\nprompt_prefix = "a"\nprompt_suffix = "b"\nnegative = "c"\n'
        'aspect_ratio = "16:9"\nroute = "local"\nsampler = {steps = 30, cfg = 7.5}\n'
        'brand = {palette = ["#000000", "#ffffff"], logo = "l.png", font = "f"}\n'
    )
    sheet = load_styles(write(tmp_path, WHOLE.replace(PLAIN.format(name="default"), full)))
    default = sheet["default"]
    assert default.aspect_ratio is AspectRatio.WIDE
    assert default.sampler == StyleSheet.Sampler(steps=30, cfg=7.5)
    assert (default.prompt_prefix, default.prompt_suffix, default.negative) == ("a", "b", "c")
    assert (default.route, default.brand.logo, default.brand.font) == ("local", "l.png", "f")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (WHOLE.replace("[default.", "[other."), ["[other] is no style"]),
        (WHOLE.replace("[default.", "[default_."), ["[default_]"]),
        (WHOLE.split("[infographic", maxsplit=1)[0], ["table [infographic] is missing"]),
        (WHOLE.replace('"#000000"', '"black"', 1), ["[default] brand.palette[1]", "'black'"]),
        (WHOLE.replace('"#000000"', '"#00000"', 1), ["[default] brand.palette[1]"]),
        (WHOLE.replace(', "#000000"', "", 1), ["[default] brand.palette", "at least 2"]),
        (WHOLE.replace('"#000000"', "5", 1), ["[default] brand.palette[1]", "`str`"]),
        (f'default.rout3 = "any"\n{WHOLE}', ["[default]", "rout3"]),
        (f'default.route = "moon"\n{WHOLE}', ["[default] route", "moon"]),
        (f'default.sampler.steps = "x"\n{WHOLE}', ["[default] sampler.steps", "`int"]),
        (f"default.sampler.step = 1\n{WHOLE}", ["[default] sampler", "step"]),
        (
            "default = 5\n" + WHOLE.replace(PLAIN.format(name="default"), ""),
            ["[default]: Expected"],
        ),
        ("[default", ["not TOML"]),
    ],
)
def test_what_is_wrong_is_named(text, parts, tmp_path):
    with pytest.raises(StyleError) as raised:
        load_styles(write(tmp_path, text))
    assert str(raised.value).startswith(str(tmp_path / "styles.toml"))
    for part in parts:
        assert part in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(StyleError, match=r"styles\.toml cannot be read: No such file"):
        load_styles(tmp_path)
    (tmp_path / "styles.toml").write_bytes(b"\xff")
    with pytest.raises(StyleError, match="not TOML"):
        load_styles(tmp_path)
