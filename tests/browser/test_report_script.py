"""What a reader can do with the page: sort it, compare with another variant, look at tokens."""

from __future__ import annotations

import pytest
from looking import opened

from evalkit.report.html import write_report

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def detailed_file(made_up, tmp_path_factory):
    return write_report(made_up.made_up_detailed_run(), tmp_path_factory.mktemp("detailed"))


@pytest.fixture(scope="module")
def hostile_file(made_up, tmp_path_factory):
    return write_report(made_up.made_up_hostile_run(), tmp_path_factory.mktemp("hostile"))


def names(page):
    return page.locator("#values tbody .name").all_inner_texts()


def column(page, title):
    """What stands in a column, value and change apart, by the rows as they are drawn."""
    heads = page.locator("#values thead th").all_inner_texts()
    at = next(index for index, text in enumerate(heads) if text.strip().startswith(title))
    rows = page.locator("#values tbody tr").all()
    cells = [row.locator("td").nth(at) for row in rows]
    return (
        [cell.locator(".value").inner_text() for cell in cells],
        [cell.locator(".change").inner_text().replace("\N{NO-BREAK SPACE}", " ") for cell in cells],
    )


def test_a_click_sorts_the_best_first_then_the_worst_then_as_it_was(browser, detailed_file):
    with opened(browser, detailed_file) as page:
        before = names(page)
        head = page.locator("#values th", has_text="perplexity")
        head.locator("button").click()
        values = [float(value) for value in column(page, "perplexity")[0]]
        assert values == sorted(values)
        assert names(page)[0] == "nf4+adapter"
        assert head.get_attribute("aria-sort") == "ascending"
        head.locator("button").click()
        assert [float(v) for v in column(page, "perplexity")[0]] == values[::-1]
        assert head.get_attribute("aria-sort") == "descending"
        head.locator("button").click()
        assert names(page) == before
        assert head.get_attribute("aria-sort") is None


def test_where_higher_is_better_the_highest_comes_first_and_what_is_missing_last(
    browser, detailed_file
):
    with opened(browser, detailed_file) as page:
        page.locator("#values th", has_text="kept of the").locator("button").press("Enter")
        values = column(page, "kept of the")[0]
        found = [float(value.split()[0]) for value in values if value != "–"]
        assert found == sorted(found, reverse=True)
        assert values[:4] == [value for value in values if value != "–"]


def test_narrow_screens_sort_by_a_menu(browser, detailed_file):
    with opened(browser, detailed_file, width=390) as page:
        page.get_by_label("Sorted by").select_option(label="perplexity")
        assert names(page)[0] == "nf4+adapter"
        page.get_by_label("Sorted by").select_option(label="the suite’s order")
        assert names(page)[0] == "fp16"


def test_differences_follow_the_reference_that_the_reader_picks(browser, detailed_file):
    with opened(browser, detailed_file) as page:
        at = names(page).index("merged-4bit")
        assert column(page, "perplexity")[1][at] == "+27.3 %"
        page.get_by_label("Differences against").select_option(label="nf4+adapter")
        changes = column(page, "perplexity")[1]
        # 18.57 / 11.14 - 1
        assert changes[at] == "+66.7 %"
        assert changes[names(page).index("nf4+adapter")] == ""
        assert column(page, "blimp")[1][at] == "−2.50 pp"
        tags = page.locator("#values .tag.reference:visible")
        assert tags.count() == 1
        assert "nf4+adapter" in tags.locator("xpath=..").inner_text()


def test_tokens_are_coloured_by_how_their_loss_moved(browser, detailed_file, made_up):
    run = made_up.made_up_detailed_run()
    scores = {variant.name: variant.scores["perplexity"] for variant in run.variants}
    with opened(browser, detailed_file) as page:
        view = page.locator("#token-view")
        assert (
            view.get_by_label("From variant").evaluate("e => e.selectedOptions[0].text")
            == "nf4+adapter"
        )
        assert view.get_by_label("To variant").evaluate(
            "e => e.selectedOptions[0].text"
        ) == "merged-4bit"  # fmt: skip
        shown = view.locator('button[aria-pressed="true"]').get_attribute("title")
        unit = scores["nf4"].unit_ids.index(shown)
        old, new = (
            next(part for part in scores[name].token_losses if part.unit == unit)
            for name in ("nf4+adapter", "merged-4bit")
        )
        tokens = view.locator(".tokens .t")
        assert "".join(tokens.all_text_contents()) == "".join(old.tokens)
        classes = [token.get_attribute("class") for token in tokens.all()]
        for name, change in zip(classes, new.losses - old.losses, strict=True):
            if abs(change) > 0.102:
                assert f" {'b' if change > 0 else 'g'}" in name, (name, change)
            elif abs(change) < 0.098:
                assert name == "t"


def test_a_token_tells_what_both_variants_expected(browser, detailed_file, made_up):
    run = made_up.made_up_detailed_run()
    with opened(browser, detailed_file) as page:
        view = page.locator("#token-view")
        view.get_by_label("From variant").select_option(label="fp16")
        view.get_by_label("To variant").select_option(label="requantized")
        view.locator(".documents button").nth(2).click()
        shown = view.locator('button[aria-pressed="true"]').get_attribute("title")
        token = view.locator(".tokens .t").nth(5)
        token.hover()
        tip = view.locator(".tip")
        assert tip.is_visible()
        text = tip.inner_text()
        for name in ("fp16", "requantized"):
            score = next(v for v in run.variants if v.name == name).scores["perplexity"]
            part = next(p for p in score.token_losses if score.unit_ids[p.unit] == shown)
            assert name in text
            share = 100 * float(part.top_probabilities[5])
            assert f"{share:.0f} %" in text
            assert part.top_tokens[5].strip() in text
        assert "nats" in text
        box, frame = tip.bounding_box(), view.bounding_box()
        assert frame["x"] <= box["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def test_tokens_can_be_walked_with_the_keyboard(browser, detailed_file):
    with opened(browser, detailed_file) as page:
        page.locator("#token-view .tokens").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        current = page.locator("#token-view .t.current")
        assert current.get_attribute("data-at") == "2"
        assert "nats" in page.locator('#token-view [data-say="token"]').text_content()
        page.keyboard.press("ArrowLeft")
        assert current.get_attribute("data-at") == "1"
        page.keyboard.press("Escape")
        assert not page.locator("#token-view .tip").is_visible()


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_tokens_stay_text(browser, hostile_file, made_up, width):
    with opened(browser, hostile_file, width=width) as page:
        view = page.locator("#token-view")
        for index in range(min(4, view.locator(".documents button").count())):
            view.locator(".documents button").nth(index).click()
            seen = view.locator(".tokens").text_content()
            assert made_up.HOSTILE[0] in seen
            for token in range(0, len(made_up.HOSTILE), 3):
                view.locator(".tokens .t").nth(token).click()
        page.get_by_label("Differences against").select_option(index=1)
        page.get_by_label("Sorted by").select_option(index=1)
        assert page.evaluate("document.querySelectorAll('img, iframe, svg[onload]').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_script_everything_but_the_tokens_is_there(browser, detailed_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(detailed_file.as_uri())
    assert names(page)[0] == "fp16"
    assert column(page, "perplexity")[1][1].startswith("+29")
    assert not page.get_by_label("Differences against").is_visible()
    assert page.get_by_text("Without JavaScript the tokens cannot be drawn.").is_visible()
    context.close()
