"""Goal: what a prompt says is read faithfully: titles, chains, figures, topics.

Method: plain text in, values out; a property for whatever people may type.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.sketch.wording import (
    figures,
    figures_wording,
    graph,
    graph_wording,
    plain,
    subject,
    topics,
    wording,
)


def edges(prompt):
    found = graph(prompt)
    assert found is not None
    return [(found.nodes[a], found.nodes[b]) for a, b in found.edges]


@pytest.mark.parametrize("arrow", ["->", "-->", "=>", "==>", "\u2192", "\u21d2", " -> "])
def test_every_spelling_of_an_arrow_makes_a_chain(arrow):
    assert edges(f"A{arrow}B{arrow}C") == [("A", "B"), ("B", "C")]


def test_several_chains_share_their_boxes_whatever_the_case():
    assert edges("A -> B -> C, b -> D; d -> A") == [
        ("A", "B"),
        ("B", "C"),
        ("B", "D"),
        ("D", "A"),
    ]


def test_a_group_in_brackets_is_several_boxes():
    assert edges("Site => (API, Worker) => Store") == [
        ("Site", "API"),
        ("Site", "Worker"),
        ("API", "Store"),
        ("Worker", "Store"),
    ]


def test_the_sentence_around_a_chain_does_not_get_into_its_boxes():
    prompt = (
        "Draw a diagram of how a Client -> API gateway -> Auth service with retries on failure."
    )
    assert edges(prompt) == [("A Client", "API gateway"), ("API gateway", "Auth service")]


def test_the_words_before_a_chain_are_its_title_and_the_rest_its_text():
    said = graph_wording("Request flow: Agent -> Worker -> Store. Every link is kept for 30 days.")
    assert (said.title, said.body) == ("Request flow", "Every link is kept for 30 days.")


def test_a_bare_chain_is_titled_by_its_ends():
    assert graph_wording("Agent -> Worker -> Store").title == "Agent to Store"


@pytest.mark.parametrize("prompt", ["No arrow here", "A ->", "-> B", "A -> A", "3 > 2"])
def test_no_chain_where_no_two_boxes_are_joined(prompt):
    assert graph(prompt) is None


def test_numbers_come_with_their_units_and_labels():
    found = figures(
        "Generation: 42 % local, 18 s median, 1,240 pictures a week and $0.03 a picture"
    )
    assert [(one.text, one.unit, one.value, one.label) for one in found] == [
        ("42", "%", 42, "Local"),
        ("18", "s", 18, "Median"),
        ("1,240", "", 1240, "Pictures a week"),
        ("$0.03", "", 0.03, "A picture"),
    ]
    assert [one.percent for one in found] == [True, False, False, False]


def test_a_label_may_stand_before_its_number():
    (only,) = figures("Median latency 240 ms")
    assert (only.text, only.unit, only.label) == ("240", "ms", "Median latency")


@pytest.mark.parametrize(
    "prompt", ["The year 2025 in review", "An RTX4090 on port :8188", "v1.2.3"]
)
def test_years_and_names_with_digits_are_no_figures(prompt):
    assert figures(prompt) == ()


def test_the_title_of_figures_is_the_words_around_them():
    assert figures_wording("Local images: 42 % local. Made at home.").title == "Local images"
    assert figures_wording("42 % local. Images made at home.").title == "Images made at home"


def test_a_title_is_the_first_sentence_without_the_order_to_draw_it():
    said = wording("Create a report cover for the Energy Review. The grid held. Prices fell.")
    assert (said.title, said.body) == ("The Energy Review", "The grid held. Prices fell.")


def test_a_long_first_sentence_is_cut_and_nothing_is_lost():
    text = " ".join(f"word{n}" for n in range(60))
    said = wording(text)
    assert len(said.title) <= 90
    assert (said.title + " " + said.body).replace("\u2026", "").split() == plain(text).split()


def test_a_list_gives_its_items_and_prose_its_noun_like_words():
    assert topics("The arbiter: leases, readings and tenants", 6) == (
        "Leases",
        "Readings",
        "Tenants",
    )
    assert subject("The arbiter: leases, readings and tenants") == "The arbiter"
    assert "Product embeddings" in topics("An engine with product embeddings and a ranking", 6)


@given(st.text(min_size=1, max_size=400))
def test_whatever_people_type_is_read_without_a_fault(prompt):
    assert wording(prompt).title
    assert graph_wording(prompt).title is not None
    assert figures_wording(prompt).title
    assert len(figures(prompt)) <= 8
    found = graph(prompt)
    assert found is None or all(0 <= end < len(found.nodes) for edge in found.edges for end in edge)
    assert len(topics(prompt, 5)) <= 5
    assert subject(prompt)
