"""Pictures that are kept beside the pages."""

from dataclasses import replace

import numpy as np
import pytest

from evalkit.report.html import render_html, write_report
from evalkit.report.html.drawings import DRAWN, Drawings


@pytest.fixture
def drawn(monkeypatch):
    """What vl-convert drew, a specification each."""
    import vl_convert

    real, specifications = vl_convert.vegalite_to_svg, []

    def watched(specification, **options):
        specifications.append(specification)
        return real(specification, **options)

    monkeypatch.setattr(vl_convert, "vegalite_to_svg", watched)
    return specifications


def moved(run, factor):
    """The same run with the perplexity of its first variant at another value."""
    first, *rest = run.variants
    score = first.scores["perplexity"]
    scores = {**first.scores, "perplexity": replace(score, value=score.value * factor)}
    return replace(run, variants=(replace(first, scores=scores), *rest))


def test_a_run_of_the_same_numbers_takes_the_pictures_of_the_run_before(made_up, tmp_path, drawn):
    run = made_up.detailed()
    write_report(run, tmp_path)
    assert drawn
    drawn.clear()
    later = replace(run, id="20991231-000000-ffff")
    page = write_report(later, tmp_path).read_text(encoding="utf-8")
    assert not drawn
    assert page == render_html(later)


def test_other_numbers_are_drawn_anew(made_up, tmp_path, drawn):
    run = made_up.detailed()
    write_report(run, tmp_path)
    drawn.clear()
    page = write_report(moved(run, 1.07), tmp_path).read_text(encoding="utf-8")
    assert drawn
    assert page == render_html(moved(run, 1.07))


@pytest.mark.parametrize("left", ["", "{", "{}", '{"wide": "<svg/>"}', "[1]", "\udcff"])
def test_a_damaged_picture_is_drawn_again(made_up, tmp_path, left):
    run = made_up.run()
    write_report(run, tmp_path)
    kept = list((tmp_path / DRAWN).iterdir())
    for file in kept:
        file.write_bytes(left.encode("utf-8", "surrogateescape"))
    assert write_report(run, tmp_path).read_text(encoding="utf-8") == render_html(run)
    assert all(len(file.read_bytes()) > 100 for file in kept)


def test_pictures_that_cannot_be_kept_keep_no_page_away(made_up, tmp_path):
    (tmp_path / DRAWN).write_text("in the way")
    run = made_up.run()
    assert write_report(run, tmp_path).read_text(encoding="utf-8") == render_html(run)


def test_every_part_of_what_is_shown_is_in_the_key(tmp_path):
    calls = []

    def draw(shown, *, title, layout):
        from markupsafe import Markup

        calls.append(shown)
        return Markup(f"<svg>{title}</svg>")

    drawings = Drawings(tmp_path)
    long = np.zeros(5000)
    other = long.copy()
    other[2500] = 1e-17
    for shown, title in ((long, "a"), (other, "a"), (long, "b"), ({"x": (1, 2)}, "a")):
        calls.clear()
        assert drawings.picture(draw, shown, title=title)["narrow"] == f"<svg>{title}</svg>"
        assert len(calls) == 2, "one a width"
        drawings.picture(draw, shown, title=title)
        assert len(calls) == 2


def test_what_has_no_plain_form_is_refused_and_not_drawn_under_a_vague_key(tmp_path):
    with pytest.raises(TypeError, match="cannot hold object"):
        Drawings(tmp_path).picture(lambda shown, layout: shown, object())
