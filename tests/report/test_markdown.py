"""Markdown for pull requests: read back with a CommonMark parser, as GitHub would."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from evalkit.report.markdown.summary import LONGEST, headline, markdown
from evalkit.report.markdown.text import code, prose

GITHUB = MarkdownIt("gfm-like", {"linkify": False, "html": True})


def rendered(run):
    return GITHUB.render(markdown(run))


def cells(run, table):
    """The text of every cell of a table, row by row; the first row is the head."""
    html = re.findall(r"<table>.*?</table>", rendered(run), re.DOTALL)[table]
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[cell.replace("\u00a0", " ") for cell in row] for row in found]


def test_the_verdict_comes_first(made_up):
    lines = markdown(made_up.run()).splitlines()
    assert lines[0] == "## ✅ quickstart: all 3 gates are ok"
    assert lines[2].startswith("**Ship fp16-merged-nf4")


def test_the_gates_with_effect_interval_budget_and_size(made_up):
    head, loss, _helps, ship = cells(made_up.run(), 0)
    assert head == ["", "gate", "change, 95 % CI", "budget", "verdict", "measured on"]
    assert loss[4] == "REGRESSED<br>as expected"
    assert ship[0] == "✅"
    assert ship[1] == "<code>fp16-merged-nf4</code>: perplexity at most 10 % above nf4+adapter"
    assert ship[2:] == [
        "+3.00 %<br>+1.90 to +4.10 %",
        "10 %", "PASS", "42 documents in 40 clusters",
    ]  # fmt: skip


def test_the_variants_with_every_metric(made_up):
    first, *rest = made_up.run().variants
    other = made_up.score(9.5, metric="perplexity/wiki")
    run = made_up.run(
        variants=(replace(first, scores={**first.scores, "perplexity/wiki": other}), *rest)
    )
    head, fp16, nf4, *_ = cells(run, 1)
    assert head == ["variant", "perplexity", "perplexity on wiki", "stored as", "gates"]
    assert fp16[:3] == ["<code>fp16</code>", "14.59 ± 0.50", "9.500 ± 0.323"]
    assert nf4[1:3] == ["18.86 ± 0.64 (+29.3 %)", "not scored"]


def test_a_failed_gate_is_marked_and_explained(made_up):
    verdict = made_up.verdict(made_up.SHIP_GATE, "REGRESSED", (0.11, 0.13, 0.15), message="why")
    run = made_up.run(verdicts=(verdict, *made_up.run().verdicts[:1]), exit_code=1)
    assert headline(run) == "❌ quickstart: not ready"
    assert cells(run, 0)[1][0] == "❌"
    assert cells(run, 0)[1][4] == "<strong>REGRESSED</strong>"
    before_the_variants = rendered(run).partition("<th>variant</th>")[0]
    assert "❌ REGRESSED: why" in before_the_variants


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdicts": (), "gates": ()}, "⚪ quickstart: no gates"),
        ({"verdicts": (), "exit_code": 130}, "❌ quickstart: interrupted"),
        ({"verdicts": (), "exit_code": None, "seconds": None}, "❌ quickstart: not finished"),
        ({"exit_code": 3}, "❌ quickstart: exit code 3"),
    ],
)
def test_a_run_without_a_clean_verdict_is_not_green(made_up, changes, told):
    run = made_up.run(**changes)
    assert headline(run) == told
    assert told in markdown(run)


def test_a_failed_job_is_not_green_and_told(made_up):
    first, second, *rest = made_up.run().variants
    job = replace(second.job, status="failed", error="no memory")
    run = made_up.run(variants=(first, replace(second, scores={}, job=job), *rest), exit_code=3)
    assert headline(run) == "❌ quickstart: 1 job failed"
    assert "<code>score nf4</code>: no memory" in rendered(run)


def test_nothing_was_scored(made_up):
    variants = tuple(
        replace(v, scores={}, job=replace(v.job, status="failed", error="no memory"))
        for v in made_up.run().variants
    )
    rows = cells(made_up.run(variants=variants, verdicts=(), gates=()), 0)
    assert rows[1] == ["<code>fp16</code>", "no memory"]
    assert markdown(made_up.run(variants=(), verdicts=(), gates=()))


def test_a_warning_shows(made_up):
    gate = replace(made_up.SHIP_GATE, inconclusive="warn")
    verdict = made_up.verdict(gate, "INCONCLUSIVE", (-0.1, 0.1, 0.3), ok=True, warned=True)
    run = made_up.run(verdicts=(verdict,), gates=(gate,))
    assert headline(run) == "⚠️ quickstart: 1 gate, 1 warning"
    assert cells(run, 0)[1][0] == "⚠️"


def test_what_is_reused_is_said(made_up):
    assert "Reused" not in markdown(made_up.run())
    first, *rest = made_up.run().variants
    job = replace(first.job, status="reused", reused_from="20260101-000000-abcd")
    text = markdown(made_up.run(variants=(replace(first, job=job), *rest)))
    assert "1 of 7 variants (run `20260101-000000-abcd`)" in text


def test_hostile_texts_become_no_markup(hostile_run):
    html = rendered(hostile_run)
    assert not re.search(r"<(script|img|svg|iframe|a|h1|/?style)\b", html)
    allowed = (
        "h2|p|strong|em|table|thead|tbody|tr|th|td|code|br|sub|blockquote|details|summary|ul|li"
    )
    assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {*allowed.split("|"), "pre", "span"}
    # No cell was split by a pipe of its own.
    for table in (0, 1):
        assert len({len(row) for row in cells(hostile_run, table)}) == 1


@pytest.mark.parametrize(
    "text",
    ["a|b", "`code`", "```\nfence", "<b>&amp;", "*a* _b_ ~~c~~ __d__", "[x](http://e.invalid)",
     "\\|", "![i](x)", "# head", "a\nb", "$x$ and $y$", "x`|`y", "- [ ] task"],
)  # fmt: skip
def test_text_reads_as_it_was(text):
    shown = re.sub(r"\s+", " ", text).strip()
    for function, wrapped in ((prose, "| x |\n|---|\n| {} |"), (code, "| x |\n|---|\n| {} |")):
        html = GITHUB.render(wrapped.format(function(text)))
        (cell,) = re.findall(r"<td>(.*?)</td>", html)
        plain = re.sub(r"<[^>]*>", "", cell).replace("\u200b", "")
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
            plain = plain.replace(entity, sign)
        assert plain == shown, function.__name__


def test_nobody_is_mentioned_and_nothing_is_linked():
    text = prose(
        "ask @octocat or @org/team about #12, GH-7, a/b#3, https://e.invalid, www.e.invalid"
    )
    assert not re.search(
        r"[@#][A-Za-z0-9]|GH-[0-9]|https?://|www\.[a-z]", text.replace("://", "://")
    )


def test_a_huge_run_fits_into_a_comment(made_up):
    gates = [replace(made_up.SHIP_GATE, variant=f"variant-{n}-{'x' * 60}") for n in range(1_000)]
    verdicts = tuple(
        made_up.verdict(gate, "REGRESSED", (0.1, 0.2, 0.3), message="$&<" * 400) for gate in gates
    )
    variants = tuple(made_up.variant(f"variant-{n}-{'x' * 60}", 10.0 + n) for n in range(1_000))
    provenance = {f"key-{n}": "v" * 300 for n in range(500)}
    text = markdown(
        made_up.run(verdicts=verdicts, gates=(), variants=variants, provenance=provenance)
    )
    assert 30_000 < len(text) <= LONGEST < 65_536
    assert len(text.encode()) < 1024 * 1024
    assert re.search(r"… and \d+ more gates: the HTML report has all\.", text)
    assert re.search(r"… and \d+ more variants", text)
    assert re.search(r"… and [\d,]+ more messages", text)
    assert text.count("<details>") == text.count("</details>") == 1
