"""What a reader must know of scored documents that were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evalkit.records import RunRecord, VariantRecord
from evalkit.records.integrity import Finding
from evalkit.records.leakage import Overlap, overlap_from_json
from evalkit.report.words import joined

LEAKAGE = "leakage"


def leakage_notes(run: RunRecord) -> list[str]:
    """One sentence on each overlap that was found, and one on what was not compared."""
    by_pair = {(found.train, found.scored): found for _, found in overlaps_of(run)}
    notes = [
        f"Leakage: {found.sentence}. A model that was trained on it may know it by heart."
        for found in by_pair.values()
        if found.leaked
    ]
    notes += [
        f"Near-duplicates of {found.scored} in {found.train} were not looked for: "
        f"{found.near_skipped}."
        for found in by_pair.values()
        if found.near_skipped
    ]
    unknown = _facts(run).get("unknown")
    if isinstance(unknown, list | tuple) and unknown:
        said = joined([str(what) for what in unknown])
        notes.append(f"Leakage was not looked for everywhere: {said}.")
    return notes


def leakage_finding(run: RunRecord, variant: VariantRecord) -> Finding | None:
    """What the adapters on a variant's path were trained on, as a check; None where unknown."""
    attached = {str(step["attach"]) for step in variant.path if "attach" in step}
    found = [overlap for adapter, overlap in overlaps_of(run) if adapter in attached]
    if not found:
        return None
    leaked = [overlap for overlap in found if overlap.leaked]
    message = "; ".join(overlap.sentence for overlap in leaked or found)
    return Finding(LEAKAGE, not leaked, message)


def overlaps_of(run: RunRecord) -> Iterator[tuple[str, Overlap]]:
    """Each adapter that was trained, with each corpus that was scored; none of an older run."""
    pairs = _facts(run).get("pairs")
    for pair in pairs if isinstance(pairs, list | tuple) else ():
        try:
            yield str(pair["adapter"]), overlap_from_json(pair)
        except (KeyError, TypeError, ValueError, IndexError):
            continue


def _facts(run: RunRecord) -> Mapping[str, object]:
    facts = run.provenance.get(LEAKAGE)
    return facts if isinstance(facts, Mapping) else {}
