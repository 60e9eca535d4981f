"""What a reader must know to read a run's numbers rightly, made from its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evalkit.records import JobRecord, RunRecord
from evalkit.report.baseline_notes import baseline_notes
from evalkit.report.checks import merge_notes
from evalkit.report.divergence_view import divergence_notes
from evalkit.report.facts import effective_dtype
from evalkit.report.leakage_notes import leakage_notes
from evalkit.report.noise_notes import noise_notes
from evalkit.report.survival_notes import survival_notes
from evalkit.report.task_notes import task_notes
from evalkit.report.words import joined


def notes_of(run: RunRecord) -> list[str]:
    """What a reader must know to read the numbers rightly, made from the records."""
    notes = [*_partial_notes(run), *baseline_notes(run), *_precision_notes(run), *_dtype_notes(run)]
    notes += leakage_notes(run)
    notes += noise_notes(run)
    notes += divergence_notes(run)
    notes += task_notes(run)
    notes += survival_notes(run)
    notes += merge_notes(run)
    reused = [v.name for v in run.variants if v.job and v.job.status == "reused"]
    if reused:
        notes.append(f"Reused from an earlier run, unchanged: {joined(reused)}.")
    return list(dict.fromkeys([*notes, *_job_notes(run)]))


def _jobs(run: RunRecord) -> Iterator[tuple[str, JobRecord]]:
    yield from ((job.name, job) for job in run.adapters)
    yield from ((variant.name, variant.job) for variant in run.variants if variant.job)


def _partial_notes(run: RunRecord) -> list[str]:
    chosen = run.provenance.get("only")
    if not isinstance(chosen, list | tuple) or not chosen:
        return []
    names = joined([str(name) for name in chosen])
    return [f"A partial run (--only): it computed {names}; of the others it shows what was stored."]


def _precision_notes(run: RunRecord) -> list[str]:
    wanted = ("source_precision", "precision")
    found = [value for _, job in _jobs(run) for value in _values_under(job.facts, wanted)]
    found += _values_under(run.provenance, wanted)
    notes = []
    for precision in dict.fromkeys(str(value) for value in found):
        note = f"Source of the base weights: {precision}."
        if "dequantised" in precision:
            note = (
                f"The base weights were {precision}, so they were rounded once before this run: "
                "what quantising costs here is not typical of full-precision weights."
            )
        notes.append(note)
    return notes


def _dtype_notes(run: RunRecord) -> list[str]:
    swapped: dict[tuple[str, str], list[str]] = {}
    for variant in run.variants:
        load = str(variant.path[0].get("load", "")) if variant.path else ""
        really = effective_dtype(variant)
        if any("computed in" in note for note in _own_notes(variant.job)):
            continue
        if really and load not in {"", "auto", really}:
            swapped.setdefault((load, really), []).append(variant.name)
    device = str(run.provenance.get("device", "")).upper()
    where = f"on this {device}" if device else "here"
    return [
        f"{load} was computed in {really} {where} "
        f"({'every variant' if len(names) == len(run.variants) else joined(names)})."
        for (load, really), names in swapped.items()
    ]


def _job_notes(run: RunRecord) -> list[str]:
    said: dict[str, list[str]] = {}
    for name, job in _jobs(run):
        for note in _own_notes(job):
            said.setdefault(note, []).append(name)
    everyone = {variant.name for variant in run.variants}
    return [
        f"{'Every variant' if everyone <= set(names) else joined(names)}: {note}."
        for note, names in said.items()
    ]


def _own_notes(job: JobRecord | None) -> list[str]:
    notes = job.facts.get("notes", ()) if job else ()
    return [notes] if isinstance(notes, str) else [str(note) for note in notes]


def _values_under(tree: object, keys: tuple[str, ...]) -> list[str]:
    if not isinstance(tree, Mapping):
        return []
    found = [value for key, value in tree.items() if key in keys and isinstance(value, str)]
    for value in tree.values():
        found += _values_under(value, keys)
    return found
