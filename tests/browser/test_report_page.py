"""The page in a real browser: silent, without a request, readable at every size and colour."""

from __future__ import annotations

import pytest
from looking import CONTRAST, opened

from evalkit.report.html import write_report

pytestmark = pytest.mark.system

SIZES = [(1440, 900), (768, 1024), (390, 844), (320, 640)]


@pytest.fixture(scope="module")
def page_file(made_up, tmp_path_factory):
    return write_report(made_up.made_up_run(), tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def detailed_file(made_up, tmp_path_factory):
    return write_report(made_up.made_up_detailed_run(), tmp_path_factory.mktemp("detailed"))


@pytest.fixture(scope="module")
def costly_file(made_up, tmp_path_factory):
    """The same with costs: a broad table, and a picture with names in it."""
    return write_report(made_up.made_up_costly_run(), tmp_path_factory.mktemp("costly"))


@pytest.fixture(scope="module")
def hostile_file(made_up, tmp_path_factory):
    return write_report(made_up.made_up_hostile_run(), tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_is_wider_than_the_window(browser, page_file, width, height, scheme):
    with opened(browser, page_file, width=width, height=height, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawn = page.locator("svg.chart:visible")
        assert drawn.count() == 2
        # Text in the picture must not have been scaled down with it.
        size = page.evaluate(
            "() => { const svg = [...document.querySelectorAll('svg.chart')]"
            ".find(e => e.getClientRects().length);"
            "return 13 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; }"
        )
        assert size >= 9.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser, page_file, scheme):
    for width in (1440, 390):
        with opened(browser, page_file, width=width, scheme=scheme) as page:
            answer = page.evaluate(CONTRAST)
            assert answer["seen"] > 100
            assert answer["poor"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_section_fits_and_can_be_read(browser, detailed_file, width, height, scheme):
    with opened(browser, detailed_file, width=width, height=height, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST)["poor"] == []
        # What lies beside the window would be found by nobody.
        wider = page.evaluate(
            "[...document.querySelectorAll('.scroll, .wide-table, .graph')]"
            ".filter(e => e.scrollWidth > e.clientWidth)"
            ".map(e => [e.getAttribute('aria-label'), e.scrollWidth, e.clientWidth])"
        )
        assert wider == []


def test_survival_is_a_table_at_every_size(browser, detailed_file):
    """Cells in rows and columns, also where other tables become lists."""
    for width in (1440, 390):
        with opened(browser, detailed_file, width=width) as page:
            row = page.locator("table.heat").first.locator("tbody tr").nth(1)
            boxes = [cell.bounding_box() for cell in row.locator("th, td").all()]
            assert len(boxes) == 9
            assert len({round(box["y"]) for box in boxes}) == 1
            assert page.locator("table.heat thead").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_costs_fit_and_can_be_read(browser, costly_file, made_up, width, height, scheme):
    with opened(browser, costly_file, width=width, height=height, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST)["poor"] == []
        figure = page.locator("section[aria-labelledby=costs] svg.chart:visible")
        assert figure.count() == 1
        # No name lies on another one: measured where it is drawn, not where it was meant to be.
        boxes = figure.evaluate(
            "(svg, names) => [...svg.querySelectorAll('text')]"
            ".filter(e => names.includes(e.textContent))"
            ".map(e => { const b = e.getBoundingClientRect();"
            "return [b.left, b.top + 2, b.right, b.bottom - 2]; })",
            list(made_up.BYTES),
        )
        assert len(boxes) == len(made_up.BYTES)
        for index, (left, top, right, bottom) in enumerate(boxes):
            for a, b, c, d in boxes[index + 1 :]:
                assert not (left < c and a < right and top < d and b < bottom)


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_text_does_nothing(browser, hostile_file, hostile_texts_of, width):
    with opened(browser, hostile_file, width=width) as page:
        text = page.evaluate("document.body.textContent")
        for words in hostile_texts_of:
            assert words in text
        assert page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
        # The page's own script and the data that it reads; no other could run.
        kinds = page.evaluate("[...document.scripts].map(e => e.type)")
        assert set(kinds) == {"", "application/json"}
        assert kinds.count("") == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_script_that_got_in_would_not_run(browser, page_file, tmp_path):
    """The policy holds by itself, were the escaping ever to fail."""
    injected = tmp_path / "injected.html"
    text = page_file.read_text(encoding="utf-8")
    script = (
        "<script>document.title = 'ran'</script><p onclick=\"document.title = 'ran'\" id=p>p</p>"
    )
    injected.write_text(text.replace("</main>", script + "</main>"), encoding="utf-8")
    page = browser.new_page()
    page.goto(injected.as_uri())
    page.click("#p")
    assert page.title() != "ran"
    page.close()


def test_what_scrolls_can_be_reached_by_keyboard(browser, page_file):
    with opened(browser, page_file) as page:
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.className"))
            if reached[-1]:
                style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert style == "solid", reached
        assert {"scroll", "wide-table", "sort"} <= set(reached)


def test_paper_shows_all_of_what_scrolls_on_a_screen(browser, page_file):
    with opened(browser, page_file) as page:
        page.emulate_media(media="print")
        heights = page.evaluate(
            "[...document.querySelectorAll('.scroll')].map(e => e.scrollHeight - e.clientHeight)"
        )
        assert heights
        assert max(heights) <= 1
        assert page.pdf().startswith(b"%PDF")


def test_paper_shows_what_is_folded_away_and_whole_texts(browser, detailed_file):
    with opened(browser, detailed_file) as page:
        assert page.locator("details:not([open])").count() > 2
        page.emulate_media(media="print")
        page.pdf()
        assert page.locator("details:not([open])").count() == 0
        heights = page.evaluate(
            "[...document.querySelectorAll('.scroll, .tokens')]"
            ".map(e => e.scrollHeight - e.clientHeight)"
        )
        assert max(heights) <= 1


@pytest.fixture(scope="module")
def hostile_texts_of(made_up):
    return made_up.HOSTILE
