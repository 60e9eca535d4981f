"""Nothing that anyone wrote becomes markup, a script, or megabytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
from histories import MadeUpRuns, history_of

from evalkit.report.site import trend_charts, write_site
from evalkit.report.site.pages import own_script, script_hash


@pytest.fixture
def hostile_site(hostile_run, tmp_path):
    long = "<b>" + "x" * 1_000_000
    runs = [
        hostile_run,
        replace(
            hostile_run,
            id=f"2 {hostile_run.id}",
            provenance={
                "git": {"revision": long, "dirty": True},
                "packages": {"<script>alert(1)</script>": "javascript:alert(1)", long: long},
            },
        ),
    ]
    write_site(MadeUpRuns(history_of(runs, suite=hostile_run.suite)), tmp_path, whole_pages=0)
    return tmp_path


def test_hostile_text_stays_text_and_is_capped(hostile_site):
    pages = list(hostile_site.rglob("*.html"))
    assert len(pages) == 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert page.stat().st_size < 1_500_000
        outside = re.sub(
            r'<script type="(module|application/json)".*?</script>', "", text, flags=re.DOTALL
        )
        assert "<script" not in outside.replace('<meta http-equiv="Content-Security-Policy"', "")
        assert not re.search(r"<(img|iframe|b|object)[ >]", outside)
        assert not re.search(r'href="\s*javascript:', outside)
        for block in re.findall(
            r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL
        ):
            assert not set("<>&\u2028\u2029") & set(block)
            json.loads(block)


def test_only_our_own_scripts_may_run(hostile_site):
    for page in hostile_site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        policy = re.search(r'Security-Policy" content="(.*?)"', text).group(1).replace("&#39;", "'")
        assert "default-src 'none'" in policy
        assert "base-uri 'none'; form-action 'none'" in policy
        scripts = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
        assert re.findall(r"'sha256-(.*?)'", policy) == hashes
        assert ("script-src" in policy) == bool(scripts)


@pytest.mark.parametrize("script", ["a = '</script>'", "<!-- x", "a\r\nb"])
def test_a_script_that_html_would_change_is_refused(script):
    with pytest.raises(ValueError, match="script"):
        script_hash(script)


@pytest.mark.parametrize("name", ["trends.js", "compare.js"])
def test_our_scripts_make_no_markup_of_text(name):
    script = own_script("words.js", name)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
    ):
        assert word not in script
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(p * w for p, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize(
    ("colors", "page"), [(trend_charts.LIGHT, "#ffffff"), (trend_charts.DARK, "#101418")]
)
def test_every_line_stands_out_from_the_page(colors, page):
    for color in colors:
        one, other = sorted([luminance(color), luminance(page)], reverse=True)
        assert (one + 0.05) / (other + 0.05) >= 3, color


def test_no_two_variants_of_a_chart_look_the_same():
    styles = [trend_charts.line_style(at) for at in range(trend_charts.MOST_VARIANTS)]
    assert len({str(style) for style in styles}) == trend_charts.MOST_VARIANTS
