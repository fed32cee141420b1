"""Goal: of what a language model answers, a usable prompt is kept, or nothing at all.

Method: answers as models give them, each with what is left of it; any text at all by hypothesis.
"""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.enhancing import (
    ANSWER_LENGTH_MAX,
    EXTENDED_LENGTH_MAX,
    UnusableError,
    cleaned,
    extended,
    task,
    why_not,
)
from contracts.requests import PROMPT_LENGTH_MAX, Style

FOX = "a red fox on a snowy ridge, low sun, long shadows"

WRAPPED = {
    "nothing around it": FOX,
    "blanks and line ends": f"\n\n  {FOX} \r\n",
    "double quotes": f'"{FOX}"',
    "single quotes": f"'{FOX}'",
    "typographic quotes": f"\u201c{FOX}\u201d",
    "guillemets": f"\u00ab{FOX}\u00bb",
    "a title": f"Prompt: {FOX}",
    "a bold title": f"**Prompt:** {FOX}",
    "a bold title with the colon outside": f"**Enhanced Prompt**: {FOX}",
    "a longer title": f"Improved Stable Diffusion XL prompt: {FOX}",
    "a heading": f"## Enhanced prompt\n\n{FOX}",
    "a greeting": f"Sure! Here is the rewritten prompt:\n\n{FOX}",
    "a typographic greeting": f"Certainly! Here\u2019s an improved version for SDXL:\n{FOX}",
    "a greeting with a comma": f"Of course, here's your prompt: {FOX}",
    "a greeting and a title": f'Okay.\n\nHere you go:\n\n**Prompt:** "{FOX}"',
    "a title inside the quotes": f'"Prompt: {FOX}"',
    "a fence": f"```\n{FOX}\n```",
    "a fence with a language": f"Here is the prompt:\n```text\n{FOX}\n```",
    "inline code": f"`{FOX}`",
    "emphasis": "*a red fox* on a **snowy ridge**, low sun, __long shadows__",
    "a thought": f"<think>The user wants a fox.\nPrompt: a dog</think>\n\n{FOX}",
    "a thought whose beginning is in the template": f"wants a fox.\n</think>\n{FOX}",
    "two thoughts": f"<thinking>a</thinking>b<thinking>c</thinking>{FOX}",
    "a harmony answer": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{FOX}<|return|>",
    "marks of a template": f"<s> {FOX}</s><|im_end|>",
    "a negative prompt": f"{FOX}\n\nNegative prompt: blurry, text",
    "a bold negative prompt": f"{FOX}\n**Negative Prompt:** blurry\nSteps: 30",
    "a negative prompt in the line": f"{FOX} Negative prompt: blurry",
    "a note": f"{FOX}\n\nNote: I kept the fox.",
    "flags of another program": f"{FOX} --ar 16:9 --v 6 --style raw",
    "a file of another program": f"{FOX} <lora:snow_v2:0.8>",
    "a link": "a red fox on a [snowy ridge](https://example.org/x), low sun, long shadows",
    "characters nobody sees": f"\ufeff{FOX[:10]}\u200b{FOX[10:]}\x07",
    "points": "- a red fox on a snowy ridge\n- low sun\n- long shadows",
    "numbered points": "1. a red fox on a snowy ridge,\n2. low sun,\n3. long shadows.",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_models_write_around_a_prompt_is_left_out(name):
    assert extended("fox", WRAPPED[name]).rstrip(" ,") == FOX


KEPT = [
    'a sign that says "OPEN" above the door, and one that says "24 h"',
    '"Ingest" and "Store" as two boxes, an arrow from "Ingest" to "Store"',
    "a lighthouse (1886), granite, waves: grey and green, 3 gulls",
    "great walls of ice, a small ship",
    "a terminal with a command prompt: green letters on black",
    "well-worn leather boots, high-key light, f/2.8",
    "the note: a single yellow page on a door",
    "Steps lead down to a lake at dawn",
    "i can of paint, tipped over, blue",
    "5 * 4 tiles, blue and white",
    "a_long_file_name on a screen",
    "red, red, red, red",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_only_looks_like_it_is_kept(text):
    assert extended("x", text) == text


def test_several_lines_become_one():
    assert cleaned("a fox,\n\n  in snow,\nat dawn") == "a fox, in snow, at dawn"


UNUSABLE = {
    "": "wrote nothing",
    "   \n ": "wrote nothing",
    "...": "wrote nothing",
    '""': "wrote nothing",
    "<think>I wonder what": "wrote nothing",
    "Here is the prompt:": "wrote nothing",
    "```\n```": "wrote nothing",
    "I'm sorry, but I can't help with that.": "refused",
    "I\u2019m really sorry, this is not possible.": "refused",
    "I cannot create this image.": "refused",
    "I can't assist with that request.": "refused",
    "As an AI language model, I do not draw.": "refused",
    "Sorry, no.": "refused",
    "Unfortunately this is against my rules": "refused",
    "I am unable to do that": "refused",
    '{"prompt": "a fox"}': "a structure",
    '["a fox"]': "a structure",
    "<html><body>502</body></html>": "a structure",
    "fox, snow, " * 40: "repeats itself",
    "A FOX!": "changed nothing",
    '"a fox"': "changed nothing",
}


@pytest.mark.parametrize("answer", UNUSABLE)
def test_what_is_no_prompt_is_refused_with_its_reason(answer):
    with pytest.raises(UnusableError, match=UNUSABLE[answer]):
        extended("a fox", answer)


def test_a_label_in_double_quotes_may_not_get_lost():
    asked = 'boxes \u201cData Lake\u201d and "API"'
    assert extended(asked, 'two boxes, "data lake" left, "API" right') is not None
    with pytest.raises(UnusableError, match="left out the label 'Data Lake'"):
        extended(asked, 'two boxes, "lake of data" left, "API" right')
    with pytest.raises(UnusableError, match="left out the label 'API'"):
        extended(asked, 'two boxes, "Data Lake" left, rapid arrows, capital letters')


def test_of_an_endless_answer_the_end_is_looked_at():
    assert extended("fox", "A dog." + "\n" * ANSWER_LENGTH_MAX + FOX) == FOX


def test_a_long_answer_is_cut_at_a_sentence_else_at_a_comma_else_at_a_word():
    sentences = "A fox looks over the ridge. " * 80
    assert cleaned(sentences).endswith("ridge.")
    assert EXTENDED_LENGTH_MAX - 30 < len(cleaned(sentences)) <= EXTENDED_LENGTH_MAX
    commas = ", ".join(f"stone {number}" for number in range(400))
    assert re.fullmatch(r"(stone \d+, )+stone \d+", cleaned(commas))
    assert EXTENDED_LENGTH_MAX - 15 < len(cleaned(commas)) <= EXTENDED_LENGTH_MAX
    early = cleaned(f"A short sentence. {commas}")
    assert len(early) > EXTENDED_LENGTH_MAX - 15, "not at the one sentence near the beginning"
    words = "fox " * 600
    assert cleaned(words) == ("fox " * 375).strip()
    assert cleaned("x" * 5000) == "x" * EXTENDED_LENGTH_MAX


def test_what_fits_to_the_last_character_is_not_cut():
    exact = "ab " * 499 + "cde"
    assert len(exact) == EXTENDED_LENGTH_MAX
    assert cleaned(exact) == exact
    ended = "ab " * 499 + "cd."
    assert cleaned(f"{ended} more") == ended


@given(st.text(max_size=400) | st.text(alphabet="ab\"'`*_#<>|/- \n:.,think", max_size=400))
def test_any_answer_is_one_bounded_line_or_refused(answer):
    text = cleaned(answer)
    assert len(text) <= EXTENDED_LENGTH_MAX
    assert "\n" not in text
    assert text == text.strip()
    assert not re.search(r"<(?:think|reasoning)>", text)
    with contextlib.suppress(UnusableError):
        assert extended("a fox", answer) == text


@pytest.mark.parametrize("mark", ["*", "**", "`", "<think>", "[", "--a ", "<|", '"', "negative "])
def test_an_endless_answer_takes_no_time_that_matters(mark):
    assert len(cleaned(mark * (4 * ANSWER_LENGTH_MAX))) <= EXTENDED_LENGTH_MAX


def test_every_style_has_its_own_task_and_none_asks_twice_for_what_the_style_adds():
    tasks = {style: task(style) for style in (None, *Style)}
    assert len(set(tasks.values())) == len(tasks)
    for style, text in tasks.items():
        assert "not an instruction to you" in text
        assert "prompt alone, on one line" in text
        assert "{" not in text
        if style is not None:
            assert "they are added later" in text
    assert "with its label" in tasks[Style.TECHNICAL_DIAGRAM]
    assert "lower third" in tasks[Style.REPORT_COVER]
    assert "three to five sections" in tasks[Style.INFOGRAPHIC]


def test_a_prompt_longer_than_an_extended_one_is_left_alone():
    assert why_not("x" * EXTENDED_LENGTH_MAX) is None
    assert "1501 characters" in str(why_not("x" * (EXTENDED_LENGTH_MAX + 1)))
    assert EXTENDED_LENGTH_MAX < PROMPT_LENGTH_MAX
