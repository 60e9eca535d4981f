"""The pages of many runs in a real browser: charts, choices, hostile texts, every size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from histories import MadeUpRuns, history_of, made_up_records
from looking import CONTRAST, opened

from evalkit.report.site import write_site

pytestmark = pytest.mark.system

SIZES = [(1440, 900), (390, 844)]
SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def records(made_up):
    return made_up_records(made_up.made_up_detailed_run, 24)


@pytest.fixture(scope="module")
def folder(made_up, records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    few = made_up_records(made_up.made_up_costly_run, 2)
    write_site(
        MadeUpRuns(
            history_of(records, baseline=records[7].id),
            history_of([replace(run, id=f"{run.id}-b") for run in few], suite="few"),
        ),
        folder,
        whole_pages=0,
    )
    return folder


@pytest.fixture(scope="module")
def hostile_folder(made_up, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    run = made_up.made_up_hostile_run()
    texts = made_up.HOSTILE
    runs = [
        replace(
            run,
            id=f"{text} {at}",
            started=f"2026-01-0{at + 1}T00:00:00+00:00",
            provenance={"git": {"revision": text, "dirty": True}, "packages": {text: texts[-at]}},
        )
        for at, text in enumerate(texts[:5])
    ]
    runs.append(replace(runs[0], id="long", provenance={"packages": {texts[0]: "<b>" * 400_000}}))
    history = history_of(runs, suite=run.suite, baseline=runs[1].id)
    write_site(MadeUpRuns(history), folder, whole_pages=0)
    return folder


def until(page, expression):
    """Waits until it is true; Playwright's own waiting evaluates text, which the policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def ready(page):
    """Waits until every chart on the page that is in view is drawn."""
    page.wait_for_selector(".plot.live svg")


def every_chart(page):
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
    until(page, "!document.querySelector('.plot:not(.live)')")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_page_fits_and_can_be_read(browser, folder, records, width, height, scheme):
    suite = folder / "quickstart"
    pages = [folder / "index.html", suite / "index.html", suite / "compare.html",
             suite / records[4].id / "index.html", folder / "few" / "index.html"]  # fmt: skip
    for path in pages:
        with opened(browser, path, width=width, height=height, scheme=scheme) as page:
            if path.parent.name in {"quickstart", "few"} and path.name == "index.html":
                every_chart(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            answer = page.evaluate(CONTRAST)
            assert answer["poor"] == [], path
            assert answer["seen"] > 10


def test_each_metric_is_a_chart_with_a_line_for_each_variant(browser, folder):
    with opened(browser, folder / "quickstart" / "index.html") as page:
        every_chart(page)
        titles = page.locator(".trend h3").all_text_contents()
        assert titles == ["perplexity", "blimp/acc", "divergence", "survival"]
        # Seven variants, each in two stretches, for the data changed once.
        lines = page.locator(".plot").first.locator("g.mark-line path")
        assert lines.count() == 14
        assert page.locator(".plot").first.locator("g.mark-area path").count() == 14
        assert page.locator(".breaks").first.text_content().startswith("The lines break")


def test_colours_follow_the_scheme_while_the_page_is_open(browser, folder):
    with opened(browser, folder / "quickstart" / "index.html") as page:
        ready(page)
        stroke = "document.querySelector('.plot g.mark-line path').getAttribute('stroke')"
        before = page.evaluate(stroke)
        page.emulate_media(color_scheme="dark")
        until(page, f"{stroke} !== '{before}'")
        assert page.evaluate(CONTRAST)["poor"] == []


def test_a_value_tells_its_run_revision_and_what_changed(browser, folder, records):
    with opened(browser, folder / "quickstart" / "index.html") as page:
        ready(page)
        plot = page.locator(".plot").first
        plot.scroll_into_view_if_needed()
        box, tip = plot.bounding_box(), page.locator(".tip").first
        seen = {}
        for step in range(40, int(box["width"]) - 5, 12):
            page.mouse.move(box["x"] + step, box["y"] + box["height"] / 2)
            words = tip.inner_text()
            seen.update({run.id: words for run in records if run.id in words})
        assert set(seen) == {run.id for run in records}
        updated = seen[records[12].id]
        assert records[12].provenance["git"]["revision"][:12] in updated
        assert "torch 2.13.0 → 2.14.0" in updated
        assert "baseline main" in seen[records[7].id]
        assert " to " in updated
        page.mouse.move(2, 2)
        assert tip.is_hidden()


def test_a_click_opens_the_run(browser, folder, records):
    page = browser.new_page()
    page.goto((folder / "quickstart" / "index.html").as_uri())
    ready(page)
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] - 8, "y": box["height"] / 2})
    page.wait_for_url(f"**/{records[-1].id}/index.html")
    page.get_by_role("link", name="quickstart").click()
    page.wait_for_url("**/quickstart/index.html")
    page.close()


def test_charts_and_variants_can_be_reached_by_keyboard(browser, folder, records):
    page = browser.new_page()
    page.goto((folder / "quickstart" / "index.html").as_uri())
    ready(page)
    page.locator(".pick input").first.focus()
    page.keyboard.press("Space")
    until(
        page,
        "document.querySelector('.plot').querySelectorAll('g.mark-line path').length === 12",
    )
    for _ in range(7):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "plot live"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Home")
    tip = page.locator(".tip").first
    assert records[0].id in tip.inner_text()
    assert "nf4" in tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert records[1].id in tip.inner_text()
    page.keyboard.press("ArrowDown")
    assert "nf4+adapter" in tip.inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{records[1].id}/index.html")
    page.close()


def test_a_pair_of_runs_is_in_the_address(browser, folder, records):
    path = folder / "quickstart" / "compare.html"
    with opened(browser, path) as page:
        # The newest against the baseline, until the reader chooses.
        assert page.title().startswith(f"{records[7].id} → {records[-1].id}")
        page.locator("#old").select_option("2")
        page.locator("#new").select_option("5")
        hash_ = f"#{records[2].id}..{records[5].id}"
        assert page.evaluate("location.hash") == hash_
        text = page.locator("main").inner_text()
        assert f"evalkit compare {records[2].id} {records[5].id}" in text
        assert "not paired" in text
        old, new = (records[at].variants[1].scores["perplexity"].value for at in (2, 5))
        row = page.locator("table").first.locator("tr", has_text="nf4").first.inner_text()
        assert f"{old:.2f}" in row
        assert f"{new:.2f}" in row
        assert f"{abs(new / old - 1) * 100:.3f} %" in row
        page.get_by_role("button", name="Swap").click()
        assert page.evaluate("location.hash") == f"#{records[5].id}..{records[2].id}"
        page.go_back()
        until(page, f"document.title.startsWith('{records[2].id}')")
    page = browser.new_page()
    page.goto(f"{path.as_uri()}{hash_}")
    assert page.locator("#old").input_value() == "2"
    assert page.locator("#new").input_value() == "5"
    page.close()


def test_what_changed_between_two_runs_is_told(browser, folder, records):
    page = browser.new_page()
    path = folder / "quickstart" / "compare.html"
    page.goto(f"{path.as_uri()}#{records[0].id}..{records[-1].id}")
    text = page.locator("main").inner_text()
    assert "2.13.0 → 2.14.0" in text
    assert "not comparable" in text
    assert "what is measured changed: data" in text
    page.goto(f"{path.as_uri()}#{records[0].id}..nonsense")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no run nonsense" in page.locator("#problem").inner_text()
    page.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_texts_run_nothing(browser, hostile_folder, made_up, width):
    pages = list(hostile_folder.rglob("*.html"))
    assert len(pages) == 9
    for path in pages:
        with opened(browser, path, width=width) as page:
            if path.name == "index.html" and page.locator(".plot").count():
                every_chart(page)
                plot = page.locator(".plot").first
                plot.focus()
                for _ in range(6):
                    page.keyboard.press("ArrowRight")
                page.keyboard.press("ArrowDown")
            assert page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
            wrong = "[...document.querySelectorAll('a')].filter(a => a.protocol !== 'file:').length"
            assert page.evaluate(wrong) == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert len(page.evaluate("document.body.innerText")) < 200_000


def test_older_runs_are_listed_when_asked_for(browser, made_up, tmp_path):
    records = made_up_records(made_up.made_up_run, 230)
    write_site(MadeUpRuns(history_of(records)), tmp_path, whole_pages=0)
    with opened(browser, tmp_path / "quickstart" / "index.html", width=390) as page:
        ready(page)
        assert page.locator("#lines tr").count() == 200
        page.get_by_role("button", name="Show 30 older runs").click()
        assert page.locator("#lines tr").count() == 230
        last = page.locator("#lines tr").last
        assert records[0].id in last.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # As many points as runs would be a smear: the line alone is drawn.
        assert page.locator(".plot").first.locator("g.mark-symbol path").count() == 0


def test_without_scripts_the_runs_are_all_there(browser, folder, records):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((folder / "quickstart" / "index.html").as_uri())
    text = page.locator("body").inner_text()
    assert "scripts are off" in text
    for run in records:
        assert run.id in text
    context.close()
