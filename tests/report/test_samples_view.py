"""What variants wrote, and the first token at which each leaves the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalkit.records import Sample
from evalkit.report.html import render_html
from evalkit.report.json.run import run_json
from evalkit.report.samples_view import first_difference, prompt_cards, token_span

END = "<|end|>"


def sample(*tokens, text=None, prompt="P"):
    return Sample(prompt, "".join(t for t in tokens if t != END) if text is None else text, tokens)


def run_of(made_up, *samples):
    variants = made_up.run().variants[: len(samples)]
    return made_up.run(
        variants=tuple(
            replace(v, samples=(one,) if one else ())
            for v, one in zip(variants, samples, strict=True)
        )
    )


def texts(run):
    (card,) = prompt_cards(run)
    return [(t.before, t.mark, t.after, t.remark) for t in card.texts]


@pytest.mark.parametrize(
    ("ours", "theirs", "index"),
    [
        ("abc", "abc", None), ("abd", "abc", 2), ("xbc", "abc", 0), ("ab", "abc", 2),
        ("abcd", "abc", 3), ("", "", None),
    ],
)  # fmt: skip
def test_the_first_token_that_differs(ours, theirs, index):
    assert first_difference(sample(*ours), sample(*theirs)) == index


def test_the_token_is_marked_and_nothing_else(made_up):
    run = run_of(
        made_up,
        sample("Once", " a", " king", END),
        sample("Once", " a", " frog", " sat", END),
        sample("Once", " a", " king", END),
    )
    assert texts(run) == [
        ("Once a king", "", "", "reference"),
        ("Once a ", "frog", " sat", "differs from token 3 on"),
        ("Once a king", "", "", "the same"),
    ]


def test_a_text_that_ends_has_nothing_to_mark(made_up):
    run = run_of(made_up, sample("a", " b", " c", END), sample("a", " b", END), sample(END))
    assert texts(run)[1:] == [
        ("a b", "", "", "ends after token 2"),
        ("", "", "", "is empty"),
    ]
    assert "<mark>" not in render_html(run).replace("<mark>Marked</mark>", "")


def test_a_text_that_goes_on_is_marked_where_it_does(made_up):
    run = run_of(made_up, sample("a", END), sample("a", " b", END))
    assert texts(run)[1] == ("a ", "b", "", "differs from token 2 on")


def test_tokens_that_lack_their_spaces_are_found():
    """As sentencepiece decodes single tokens."""
    assert token_span("Once a king", ("Once", "a", "king"), 2) == (7, 11)
    assert token_span("Once a king", ("Once", "x"), 1) is None
    assert token_span("ab", ("a", "b", END), 2) == (2, 2)


def test_where_tokens_do_not_make_the_text_the_first_letter_is_marked(made_up):
    broken = "\N{REPLACEMENT CHARACTER}"
    run = run_of(
        made_up,
        sample("é", " b", text="é b"),
        sample(broken, broken, " c", text="è c"),
    )
    assert texts(run)[1] == ("", "è", " c", "differs from token 1 on")


def test_the_plain_base_weights_are_the_reference(made_up):
    """Whatever stands first in the suite."""
    run = run_of(made_up, sample("a"), sample("b"), sample("a"))
    fp16, nf4, adapter = run.variants
    turned = replace(run, variants=(nf4, fp16, adapter))
    (card,) = prompt_cards(turned)
    assert card.reference == "fp16"
    assert [t.remark for t in card.texts] == ["differs from token 1 on", "reference", "the same"]


def test_without_the_base_weights_the_first_that_wrote_is(made_up):
    run = run_of(made_up, None, sample("a"), sample("b"))
    (card,) = prompt_cards(run)
    assert card.reference == "nf4"


def test_a_long_text_is_cut_and_a_hostile_token_stays_text(made_up):
    token = "<script>alert(1)</script>"
    run = run_of(made_up, sample("x" * 9000), sample(token, "y" * 9000))
    html = render_html(run)
    assert "<mark>&lt;script&gt;alert(1)&lt;/script&gt;</mark>" in html
    assert "more characters" in html
    assert "y" * 4001 not in html


def test_the_json_tells_the_index(made_up):
    answer = run_json(run_of(made_up, sample("a", " b"), sample("a", " c"), sample("a", " b")))
    written = [variant["samples"] for variant in answer["variants"].values()]
    assert written == [
        [{"prompt": "P", "text": "a b", "first_difference": None}],
        [{"prompt": "P", "text": "a c", "first_difference": 1}],
        [{"prompt": "P", "text": "a b", "first_difference": None}],
    ]
