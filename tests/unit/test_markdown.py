"""Goal: our pages read well as HTML, and nothing in them can become script.

Method: small texts in, HTML out; a property over arbitrary text.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gateway.markdown import anchor, render

TAG = re.compile(
    r"</?(h[1-6]|p|ul|ol|li|pre|code|strong|a|table|thead|tbody|tr|th|td|span)\b[^<>]*>"
)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# One two", '<h1 id="one-two">One two</h1>'),
        ("### `card_lost`", '<h3 id="card_lost"><code>card_lost</code></h3>'),
        ("a\nb", "<p>a b</p>"),
        ("**much** `x < y`", "<p><strong>much</strong> <code>x &lt; y</code></p>"),
        ("- a\n- b\n  more", "<ul><li>a</li><li>b more</li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("```sh\nmmg <x>\n\nend\n```", "<pre><code>mmg &lt;x&gt;\n\nend</code></pre>"),
        ("[a](https://b.example)", '<p><a href="https://b.example">a</a></p>'),
        ("[a](other.md)", "<p>a</p>"),
        ("|---|", ""),
        ("[a](javascript:alert(1))", "<p>a)</p>"),
    ],
)
def test_what_our_pages_use_becomes_html(text, html):
    assert render(text) == html


def test_a_heading_with_a_code_among_its_words_can_be_found_by_the_code():
    found = render("### The card is gone (`card_lost`)")
    assert 'id="card_lost"' in found
    assert 'id="the-card-is-gone-card_lost"' in found


def test_a_table_keeps_its_cells():
    found = render("| a | b |\n|---|---|\n| 1 | `2` |")
    assert '<th scope="col">a</th>' in found
    assert "<td><code>2</code></td>" in found


@given(st.text(alphabet="<>&\"'`*#[]()|-1. \nabjs:/", max_size=80))
def test_nothing_but_our_own_tags_comes_out(text):
    rest = TAG.sub("", render(text))
    assert "<" not in rest
    assert ">" not in rest


@given(st.text(max_size=40))
def test_an_anchor_fits_into_an_address(title):
    assert re.fullmatch(r"[a-z0-9_-]*", anchor(title))
