"""Templates are compiled once, and never taken for what they no longer are."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import jinja2
import pytest

from evalkit.report.compiled import template_environment
from evalkit.report.html import page
from evalkit.report.site import pages

NUMBERS = count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of one template, `page.j2`, at `tmp_path`."""
    name = f"pages_of_a_test_{next(NUMBERS)}"
    (tmp_path / name / "templates").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    _template(tmp_path, name).write_text("<p>{{ what }}</p>")
    return name


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the templates that were compiled so far."""
    names: list[str] = []
    generate = jinja2.Environment._generate

    def noted(self, source, name, *rest, **more):
        names.append(name)
        return generate(self, source, name, *rest, **more)

    monkeypatch.setattr(jinja2.Environment, "_generate", noted)
    return names


def _template(folder: Path, package: str) -> Path:
    return folder / package / "templates" / "page.j2"


def _kept(folder: Path, package: str) -> list[Path]:
    return list((folder / package / "templates").glob("__pycache__/*"))


def _drawn(package: str) -> str:
    """The page as a process of its own would draw it."""
    environment = template_environment([package], lambda value: value)
    return environment.get_template("page.j2").render(what="a & b")


def test_a_template_is_compiled_once(package: str, compiled: list[str]) -> None:
    assert _drawn(package) == _drawn(package) == "<p>a &amp; b</p>"
    assert compiled == ["page.j2"]


def test_another_text_is_compiled_again(package: str, compiled: list[str], tmp_path: Path) -> None:
    _drawn(package)
    _template(tmp_path, package).write_text("<b>{{ what }}</b>")
    assert _drawn(package) == "<b>a &amp; b</b>"
    assert len(compiled) == 2


@pytest.mark.parametrize("length", [0, 3, 20, 60, 200])
def test_what_was_cut_short_is_compiled_again(
    package: str, compiled: list[str], tmp_path: Path, length: int
) -> None:
    _drawn(package)
    (kept,) = _kept(tmp_path, package)
    whole = kept.read_bytes()
    assert length < len(whole)
    kept.write_bytes(whole[:length])
    assert _drawn(package) == "<p>a &amp; b</p>"
    assert len(compiled) == 2
    assert kept.read_bytes() == whole


def test_a_folder_that_cannot_be_written_hinders_nothing(
    package: str, compiled: list[str], tmp_path: Path
) -> None:
    (tmp_path / package / "templates" / "__pycache__").write_text("not a folder")
    assert _drawn(package) == _drawn(package) == "<p>a &amp; b</p>"
    assert len(compiled) == 2


def test_nothing_is_kept_where_python_keeps_nothing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert _drawn(package) == "<p>a &amp; b</p>"
    assert not _kept(tmp_path, package)


@pytest.mark.parametrize("environment", [page._environment, pages.environment])
def test_what_is_kept_depends_on_no_function_of_ours(environment) -> None:
    """A constant that passed through one would be kept as that function made it once."""
    passed: list[object] = []

    def note(value: object) -> str:
        passed.append(value)
        return ""

    fresh = environment().overlay(finalize=note, bytecode_cache=None)
    fresh.filters = {**fresh.filters, "unbroken": note, "whole": note}
    names = [name for name in fresh.list_templates() if name.endswith(".j2")]
    assert len(names) > 5
    for name in names:
        fresh.compile(fresh.loader.get_source(fresh, name)[0], name)
    assert not passed
    fresh.compile("{{ 'a' }}{{ 'b' | whole }}")  # what it would look like
    assert {"a", "b"} <= set(passed)
