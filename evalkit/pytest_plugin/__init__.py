"""The pytest plugin: `pytest suites/quickstart.yaml` runs a suite, and each gate is a test.

Nothing is collected unless a suite is named on the command line or `--evalkit` is given, and
nothing but pytest is imported before that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from evalkit.pytest_plugin.nodes import SuiteFile

_SUFFIXES = (".yaml", ".yml")
_MOST_BYTES = 1_000_000
_TOP_KEY = re.compile(r"^(name|model|extends|data|adapters|variants|metrics|tasks|gates)\s*:", re.M)
# Other tools extend too, but no other YAML file.
_EXTENDS_YAML = re.compile(r"^extends\s*:.*\.ya?ml\b", re.M)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options, all of which begin with `--evalkit`."""
    group = parser.getgroup("evalkit", "evalkit: suites for language models as tests")
    group.addoption(
        "--evalkit",
        action="store_true",
        help="Collect the suites in folders too; a suite named as an argument is always collected.",
    )
    group.addoption(
        "--evalkit-db", metavar="URL", help="The store.  [default: .evalkit/evalkit.db]"
    )
    group.addoption("--evalkit-cache", metavar="DIR", help="Converted weights, trained adapters.")
    group.addoption("--evalkit-reports", metavar="DIR", help="Write HTML reports here.")
    group.addoption(
        "--evalkit-baseline",
        metavar="NAME|FILE",
        help="What gates with `against: baseline` compare with: a name, or an exported file.",
    )
    group.addoption(
        "--evalkit-set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="Change one value of every suite. May be repeated.",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | None:
    """A suite that was named, or that lies in a folder under `--evalkit`."""
    if file_path.suffix not in _SUFFIXES:
        return None
    named = parent.session.isinitpath(file_path)
    if not named and not parent.config.getoption("evalkit"):
        return None
    if not looks_like_suite(file_path, named=named):
        return None
    from evalkit.pytest_plugin.nodes import SESSION, Session, SuiteFile

    manager = parent.config.pluginmanager
    if not manager.has_plugin(SESSION):
        manager.register(Session(), SESSION)
    return SuiteFile.from_parent(parent, path=file_path)


def looks_like_suite(path: Path, *, named: bool) -> bool:
    """Whether a YAML file is meant as a suite, right or wrong, from the keys at its top.

    Args:
        path: the file.
        named: it is an argument of the command line, so that less is asked of it than of a file in
            a folder, where other tools keep theirs.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return False
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return False
    keys = set(_TOP_KEY.findall(text))
    extends = bool(_EXTENDS_YAML.search(text))
    if named:
        return extends or bool(keys & {"model", "variants", "metrics", "gates", "adapters"})
    return (extends and len(keys) > 1) or ("model" in keys and bool(keys & {"variants", "gates"}))
