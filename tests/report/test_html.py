"""The page: complete, self-contained, and deaf to whatever names and texts say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from evalkit.errors import EvalkitError
from evalkit.report.html import render_html, report_path, write_report
from evalkit.report.html.scripts import data_block, page_script, script_digest

VOID = {"meta", "link", "br", "img", "input", "hr"}
# Nothing else may open in a page, so no text can have opened it.
ALLOWED_TAGS = {
    "html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer",
    "section", "div", "span", "strong", "h1", "h2", "h3", "h4", "p", "ul", "li", "bdi", "dl", "dt",
    "dd", "pre", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
    "mark", "svg", "g", "path", "line", "rect", "circle", "text", "polyline", "script",
    "label", "select", "option", "details", "summary", "b", "i", "code",
}  # fmt: skip
ALLOWED_LINKS = {"data:,"}


class Page(HTMLParser):
    """Every element with its attributes, and all text outside of the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append((self.elements[-1][1].get("type", ""), data))
        elif "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_harmless(page: Page) -> None:
    assert page.open == []
    assert {tag for tag, _ in page.elements} <= ALLOWED_TAGS
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"src", "srcset", "action", "formaction", "xlink:href"}, (tag, name)
            assert name != "href" or value in ALLOWED_LINKS, (tag, value)
            if name not in {"aria-label", "data-label", "title"}:
                assert "url(" not in value.lower(), (tag, name, value)
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]
    assert f"script-src '{script_digest()}';" in policy["content"]
    assert "unsafe-eval" not in policy["content"]
    assert policy["content"].count("script") == 1
    # One script runs, and it is the page's own; the others are data that no character can leave.
    assert [text for kind, text in page.scripts if not kind] == [str(page_script())]
    for kind, text in page.scripts:
        if kind:
            assert kind == "application/json"
            assert not set(text) & set("<>&\u2028\u2029")
            json.loads(text)


def test_the_page_is_whole_and_asks_for_nothing(made_up):
    page = Page(render_html(made_up.run()))
    assert_harmless(page)
    for name in (v.name for v in made_up.run().variants):
        assert name in page.text
    expected = (
        "Ship fp16-merged-nf4 or nf4+adapter", "REGRESSED", "as expected", "+66.7 %", "14.59",
        "1.074", "dequantised from GGUF Q4_1", "fp16 was computed in bf16", "2.13.0",
        "20261121-224455-a3f1", "max_increase: 10%", "there was a grid",
    )  # fmt: skip
    for words in expected:
        assert words in page.text.replace("\N{NO-BREAK SPACE}", " "), words


def test_all_that_can_be_measured_makes_a_whole_page(made_up):
    html = render_html(made_up.detailed())
    page = Page(html)
    assert_harmless(page)
    assert len(html.encode()) < 500_000
    headings = re.findall(r'<h2 id="([^"]+)"', html)
    assert {"divergence", "survival", "checks", "samples"} <= set(headings)
    assert len(headings) == len(set(headings))


def test_the_page_is_small_and_the_same_each_time(made_up):
    first = render_html(made_up.run())
    assert len(first.encode()) < 200_000
    assert first == render_html(made_up.run())


def test_every_picture_has_a_name_or_is_hidden(made_up):
    page = Page(render_html(made_up.run()))
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 4, "values, and documents, each wide and narrow"
    for svg in page.all("svg"):
        named = svg.get("role") == "img" and svg.get("aria-label")
        assert named or svg.get("aria-hidden") == "true", svg


def test_headings_do_not_skip_a_level(made_up):
    levels = [int(tag[1]) for tag, _ in Page(render_html(made_up.run())).elements
              if re.fullmatch("h[1-6]", tag)]  # fmt: skip
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_no_text_ends_the_data_that_the_script_reads(hostile_texts):
    texts = [*hostile_texts, "</script>", "<!--", "\u2028\u2029"]
    block = str(data_block({"texts": texts}))
    assert not set(block) & set("<>&\u2028\u2029")
    assert json.loads(block) == {"texts": texts}
    with pytest.raises(ValueError, match="JSON compliant"):
        data_block([float("nan")])


def test_hostile_text_stays_text_in_every_place(made_up, hostile_run, hostile_texts):
    page = Page(render_html(hostile_run))
    assert_harmless(page)
    for text in hostile_texts:
        assert text in page.text, text


def test_bidirectional_overrides_and_control_characters_are_taken_out(made_up):
    run = made_up.run(suite="safe\u202egnp.exe\x1b[2J\x00\ud800")
    html = render_html(run)
    html.encode("utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\ud800-\udfff]", html)


def test_a_text_of_ten_megabytes_makes_no_page_of_ten_megabytes(made_up):
    line = "x" * 10_000_000

    def swollen(variant):
        score = variant.scores["perplexity"]
        parts = tuple(
            replace(part, tokens=(line, *part.tokens[1:]), top_tokens=(line, *part.top_tokens[1:]))
            for part in score.token_losses
        )
        answers = made_up.accuracy({len(variant.name)}, "t/acc", (line, line, line))
        return replace(
            variant,
            samples=tuple(replace(s, text=line) for s in variant.samples),
            scores={"perplexity": replace(score, token_losses=parts), "t/acc": answers},
        )

    run = made_up.detailed(suite_text=line, id=line[:10_000])
    whole = replace(run, variants=tuple(swollen(variant) for variant in run.variants))
    html = render_html(whole)
    assert len(html) < 3_000_000
    assert_harmless(Page(html))


def test_a_run_without_a_score_is_drawn(made_up):
    variants = tuple(replace(v, scores={}, samples=()) for v in made_up.run().variants)
    page = Page(render_html(made_up.run(variants=variants, verdicts=(), exit_code=3)))
    assert_harmless(page)
    assert "Not judged" in page.text
    assert not [svg for svg in page.all("svg") if svg.get("class") == "chart"]


def test_an_empty_run_is_drawn(made_up):
    run = made_up.run(variants=(), verdicts=(), gates=(), adapters=(), provenance={}, arguments={},
                      suite_text="", seconds=None, exit_code=None, started="never")  # fmt: skip
    assert_harmless(Page(render_html(run)))


def test_a_failed_variant_shows_its_error_beside_the_others(made_up):
    whole = made_up.run()
    variants = tuple(
        replace(v, scores={}, job=replace(v.job, status="failed", error="out of memory on layer 3"))
        if v.name == "requantized"
        else v
        for v in whole.variants
    )
    page = Page(render_html(made_up.run(variants=variants, exit_code=3)))
    assert "out of memory on layer 3" in page.text
    assert "1 variant not scored" in page.text


@pytest.mark.parametrize("values", [(11.0, 11.0), (8.0, 90_000.0), (1e-4, 2e-4)])
def test_odd_ranges_are_drawn(made_up, values):
    variants = tuple(made_up.variant(f"v{i}", value) for i, value in enumerate(values))
    html = render_html(made_up.run(variants=variants, verdicts=(), gates=()))
    assert "NaN" not in html
    assert_harmless(Page(html))


def test_two_corpora_make_two_columns(made_up):
    variants = tuple(
        replace(v, scores={f"perplexity/{c}": made_up.score(9.0 + i, metric=f"perplexity/{c}")
                           for c in ("code", "prose")})
        for i, v in enumerate(made_up.run().variants)
    )  # fmt: skip
    page = Page(render_html(made_up.run(variants=variants, verdicts=(), gates=())))
    assert {"perplexity on code", "perplexity on prose"} <= set(page.texts)
    assert len(page.all("details")) == 1, "the second metric's picture"


def test_scores_that_cannot_be_compared_get_no_difference(made_up):
    whole = made_up.run()
    other = {"perplexity": made_up.score(5.0, comparison={"data": "other"})}
    variants = tuple(replace(v, scores=other) if v.name == "nf4" else v for v in whole.variants)
    page = Page(render_html(made_up.run(variants=variants)))
    assert "not comparable" in page.text
    assert "best" not in page.texts


def test_write_report_puts_the_page_where_it_says(made_up, tmp_path):
    path = write_report(made_up.run(), tmp_path / "reports")
    assert path == tmp_path / "reports" / "quickstart" / "20261121-224455-a3f1" / "index.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    assert write_report(made_up.run(), tmp_path / "reports") == path


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "..", "", "a/../../b", "x" * 5000])
def test_no_name_leads_out_of_the_folder(made_up, tmp_path, name):
    path = report_path(made_up.run(suite=name, id=name or "run"), tmp_path)
    assert path.parent.parent.parent == tmp_path
    assert ".." not in path.relative_to(tmp_path).parts
    assert all(len(part) <= 80 for part in path.relative_to(tmp_path).parts)


def test_a_folder_that_cannot_be_written_is_one_clear_error(made_up, tmp_path):
    blocker = tmp_path / "reports"
    blocker.write_text("a file where the folder should be")
    with pytest.raises(EvalkitError, match="the report cannot be written"):
        write_report(made_up.run(), blocker)
