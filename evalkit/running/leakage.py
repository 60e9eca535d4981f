"""Whether what is scored was trained on: looked for before a run begins, and never left unsaid."""

from __future__ import annotations

from pathlib import Path

from evalkit.corpora.leakage import known_overlap
from evalkit.errors import DataError
from evalkit.plan import Plan
from evalkit.records import JsonObject
from evalkit.suite import Suite


def leakage_facts(plan: Plan, cache: Path) -> JsonObject:
    """Compares the data of every adapter that is trained here with every corpus that is scored.

    In no key: what was scored stays what it was.

    Returns:
        For the run's provenance: `pairs`, an `Overlap` each with the `adapter`; and `unknown`, the
        sentences that say where nothing was compared.

    Raises:
        DataError: training and scored data overlap, and the suite says `leakage: refuse`.
    """
    suite = plan.suite
    used = dict.fromkeys(name for job in plan.every_variant for name in job.adapters)
    if not used:
        return {"pairs": [], "unknown": []}
    scored = _scored(suite)
    if suite.metrics.leakage == "ignore":
        what = "the suite says `leakage: ignore`"
        return {"pairs": [], "unknown": [what] if scored or suite.tasks else []}
    trained = {name: data for name in used if (data := suite.adapters[name].data) is not None}
    pairs = []
    for adapter, data in trained.items():
        for corpus in scored:
            corpora = plan.sources.corpora
            found = known_overlap(corpora[data], corpora[corpus], cache)
            if found.leaked and suite.metrics.leakage == "refuse":
                raise DataError(f"{suite.place}: metrics.leakage: refuse: {found.sentence}")
            pairs.append({"adapter": adapter, **found.to_json()})
    return {"pairs": pairs, "unknown": _unknown(suite, used, trained)}


def _scored(suite: Suite) -> list[str]:
    """The corpora that are scored, each once."""
    names = dict.fromkeys(spec.on for spec in suite.metrics.perplexity.values())
    if suite.metrics.divergence is not None:
        names[suite.metrics.divergence.on] = None
    return list(names)


def _unknown(suite: Suite, used: dict[str, None], trained: dict[str, str]) -> list[str]:
    """Where nothing was compared, and why."""
    ready = [name for name in used if name not in trained]
    said = [f"{name} came ready-made, and what it was trained on is not known" for name in ready]
    if suite.tasks and trained:
        tasks = ", ".join(spec.name for spec in suite.tasks)
        said.append(f"the samples of tasks are not compared ({tasks})")
    return said
