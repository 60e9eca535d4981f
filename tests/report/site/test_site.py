"""A folder of pages: which are written, which are left, and that a link lasts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from histories import MadeUpRuns, history_of, made_up_records, past_run

from evalkit.errors import EvalkitError
from evalkit.records import History
from evalkit.report.html import report_path, write_report
from evalkit.report.html.drawings import DRAWN
from evalkit.report.site import site, write_site
from evalkit.report.site.files import LIGHT_MARK, MANIFEST

SHORT = LIGHT_MARK


def bytes_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def records(made_up):
    return made_up_records(made_up.run, 6)


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found.group(1))


def test_every_page_is_where_it_is_promised(records, tmp_path):
    history = history_of(records, baseline=records[0].id)
    done = write_site(MadeUpRuns(history), tmp_path, whole_pages=1)
    wanted = {"index.html", "quickstart/index.html", "quickstart/compare.html", MANIFEST}
    wanted |= {f"quickstart/{run.id}/index.html" for run in records}
    assert {name for name in bytes_below(tmp_path) if not name.startswith(DRAWN)} == wanted
    assert (done.suites, done.runs, done.written, done.unchanged) == (1, 6, 9, 0)
    # The newest run and the baseline are drawn whole, the others shortly.
    short = [SHORT in report_path(run, tmp_path).read_text(encoding="utf-8") for run in records]
    assert short == [False, True, True, True, True, False]


def test_nothing_new_writes_nothing(records, tmp_path):
    runs = MadeUpRuns(history_of(records))
    write_site(runs, tmp_path, whole_pages=1)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    runs.whole.clear()
    done = write_site(runs, tmp_path, whole_pages=1)
    assert (done.written, done.unchanged) == (0, 9)
    assert runs.whole == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_the_same_runs_give_the_same_bytes_elsewhere(records, tmp_path):
    for name in ("one", "other"):
        write_site(MadeUpRuns(history_of(records)), tmp_path / name, whole_pages=1)
    assert bytes_below(tmp_path / "one") == bytes_below(tmp_path / "other")


def test_a_lost_or_damaged_manifest_costs_time_and_nothing_else(records, tmp_path):
    runs = MadeUpRuns(history_of(records))
    write_site(runs, tmp_path, whole_pages=1)
    before = bytes_below(tmp_path)
    for damage in (None, "", "[]", '{"folders": {"quickstart": "../x"}, "pages": {}}', "{"):
        (tmp_path / MANIFEST).unlink()
        if damage is not None:
            (tmp_path / MANIFEST).write_text(damage)
        assert write_site(runs, tmp_path, whole_pages=1).written == 0
        assert bytes_below(tmp_path) == before


def test_one_more_run_rewrites_what_shows_it(records, tmp_path):
    write_site(MadeUpRuns(history_of(records[:-1])), tmp_path, whole_pages=0)
    before = bytes_below(tmp_path)
    done = write_site(MadeUpRuns(history_of(records)), tmp_path, whole_pages=0)
    after = bytes_below(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)} - {MANIFEST}
    new = f"quickstart/{records[-1].id}/index.html"
    assert changed == {"index.html", "quickstart/index.html", "quickstart/compare.html", new}
    assert done.written == 4


def test_a_page_that_was_drawn_whole_is_kept(made_up, records, tmp_path):
    path = write_report(replace(records[0], suite="quickstart"), tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + "<!-- drawn before -->", encoding="utf-8")
    for _ in range(2):
        write_site(MadeUpRuns(history_of(records)), tmp_path, whole_pages=0)
        assert path.read_text(encoding="utf-8").endswith("<!-- drawn before -->")


def test_a_whole_page_takes_a_short_ones_place_for_good(records, tmp_path):
    runs = MadeUpRuns(history_of(records))
    write_site(runs, tmp_path, whole_pages=0)
    path = write_report(replace(records[0], suite="quickstart"), tmp_path)
    drawn = path.read_bytes()
    assert write_site(runs, tmp_path, whole_pages=0).written == 0
    assert path.read_bytes() == drawn


def test_more_pages_can_be_asked_for_later(records, tmp_path):
    runs = MadeUpRuns(history_of(records))
    write_site(runs, tmp_path, whole_pages=0)
    assert write_site(runs, tmp_path, whole_pages=2).written == 2


def test_a_run_that_is_judged_again_is_drawn_again(records, tmp_path):
    history = history_of(records)
    write_site(MadeUpRuns(history), tmp_path, whole_pages=1)
    last = history.runs[-1].outline
    changed = replace(last, verdicts=(replace(last.verdicts[0], verdict="ERRORED", ok=False),))
    judged = replace(history, runs=(*history.runs[:-1], past_run(changed, "judged again")))
    write_site(MadeUpRuns(judged), tmp_path, whole_pages=0)
    text = report_path(last, tmp_path).read_text(encoding="utf-8")
    assert "ERRORED" in text
    assert SHORT not in text


def test_pages_of_deleted_runs_and_suites_stay(records, tmp_path):
    other = history_of(records[:1], suite="other")
    write_site(MadeUpRuns(history_of(records), other), tmp_path, whole_pages=0)
    gone = report_path(replace(records[0], suite="quickstart"), tmp_path)
    write_site(MadeUpRuns(history_of(records[1:])), tmp_path, whole_pages=0)
    assert gone.is_file()
    assert (tmp_path / "other" / "index.html").is_file()
    index = (tmp_path / "quickstart" / "index.html").read_text(encoding="utf-8")
    assert records[0].id not in index
    assert "other" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_run_that_goes_on_has_a_short_page(records, tmp_path):
    going = replace(records[-1], exit_code=None, verdicts=())
    runs = MadeUpRuns(history_of([*records[:-1], going]))
    write_site(runs, tmp_path, whole_pages=5)
    assert going.id not in runs.whole
    assert "not ended" in (tmp_path / "quickstart" / "index.html").read_text(encoding="utf-8")


def test_suites_of_the_same_file_name_have_folders_of_their_own(records, tmp_path):
    names = ("a b", "a/b", "A-b")
    histories = [history_of([replace(r, id=f"{r.id}{at}") for r in records[:2]], suite=name)
                 for at, name in enumerate(names)]  # fmt: skip
    write_site(MadeUpRuns(*histories), tmp_path, whole_pages=0)
    pages = list(tmp_path.glob("*/index.html"))
    assert len(pages) == 3
    assert len({path.parent.name.casefold() for path in pages}) == 3
    # The folders stay where they are when the first suite is gone.
    write_site(MadeUpRuns(*histories[1:]), tmp_path, whole_pages=0)
    assert sorted(tmp_path.glob("*/index.html")) == sorted(pages)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if tag == "a" and name == "href"]


def test_every_link_leads_somewhere(records, tmp_path):
    from urllib.parse import unquote

    histories = [
        history_of([replace(r, id=f"{r.id}{at}") for r in records[:3]], suite=name)
        for at, name in enumerate(("a b", "a/b"))
    ]
    write_site(MadeUpRuns(*histories), tmp_path, whole_pages=0)
    count = 0
    for page in tmp_path.rglob("*.html"):
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        for link in links.found:
            target = page.parent / unquote(link.split("#")[0])
            assert target.resolve().is_file(), (page, link)
            count += 1
    assert count > 15


def test_an_interrupted_build_leaves_whole_files(records, tmp_path, monkeypatch):
    runs = MadeUpRuns(history_of(records))
    seen = []

    def interrupted(past, before, places):
        seen.append(past)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return light(past, before, places)

    light = site.light_page
    monkeypatch.setattr(site, "light_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_site(runs, tmp_path, whole_pages=0)
    assert all(content.rstrip().endswith(b"</html>") for content in bytes_below(tmp_path).values())
    monkeypatch.undo()
    write_site(runs, tmp_path, whole_pages=0)
    write_site(runs, tmp_path / "new", whole_pages=0)
    new = bytes_below(tmp_path / "new")
    assert {
        name: content
        for name, content in bytes_below(tmp_path).items()
        if not name.startswith("new/")
    } == new


def test_a_folder_that_cannot_be_written_is_named(records, tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(EvalkitError, match=r"index.html: the page cannot be written"):
        write_site(MadeUpRuns(history_of(records)), tmp_path, whole_pages=0)


def test_an_empty_store_has_an_index_that_says_so(tmp_path):
    assert write_site(MadeUpRuns(), tmp_path).written == 1
    assert "No runs yet" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_suite_whose_runs_scored_nothing_has_its_pages(made_up, tmp_path):
    run = made_up.run(variants=(), verdicts=(), gates=())
    write_site(MadeUpRuns(history_of([run])), tmp_path, whole_pages=0)
    assert "Trends" not in (tmp_path / "quickstart" / "index.html").read_text(encoding="utf-8")


def test_the_trend_page_of_a_thousand_runs_is_small(made_up, tmp_path):
    history = history_of(made_up_records(made_up.run, 300))
    runs = tuple(
        past_run(replace(past.outline, id=f"{past.outline.id}-{turn}"))
        for turn in range(4)
        for past in history.runs
    )[:1000]
    write_site(MadeUpRuns(History("quickstart", runs, ())), tmp_path, whole_pages=0)
    page = (tmp_path / "quickstart" / "index.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    table = page[page.index('<table class="runs">') : page.index("</table>")]
    assert table.count("<tr>") == 201
    assert "Show 800 older runs" in page
    assert len(data_of(page)["runs"]["id"]) == 1000


def test_without_a_script_the_table_says_what_matters(records, tmp_path):
    write_site(MadeUpRuns(history_of(records, baseline=records[2].id)), tmp_path, whole_pages=0)
    page = (tmp_path / "quickstart" / "index.html").read_text(encoding="utf-8")
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for run in records:
        assert run.id in page
        assert str(run.provenance["git"]["revision"])[:12] in page
    assert "torch 2.13.0 → 2.14.0" in page
    assert "1 of 3 gates not ok" in page
    assert "baseline <bdi>main</bdi>" in page


def test_a_short_page_says_what_was_measured(records, tmp_path):
    write_site(MadeUpRuns(history_of(records)), tmp_path, whole_pages=0)
    page = report_path(replace(records[0], suite="quickstart"), tmp_path).read_text(
        encoding="utf-8"
    )
    score = records[0].variants[0].scores["perplexity"]
    assert f"evalkit report {records[0].id}" in page
    assert f"{score.value:.2f}" in page
    assert "42 documents" in page
    assert "REGRESSED" in page
    assert "script" not in page.lower()
