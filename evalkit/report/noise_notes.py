"""What a reader must know of noise: which trainings intervals cover, and the machine's floor."""

from __future__ import annotations

from evalkit.judging.noise import floor_words, floors_of
from evalkit.judging.training_spread import averaged_variants
from evalkit.records import NoiseFloor, RunRecord, Verdict
from evalkit.report.words import effect_unit, joined, metric_words

_UNITS = {"relative": (100, " %"), "points": (100, " pp"), "absolute": (1, "")}


def noise_notes(run: RunRecord) -> list[str]:
    """Sentences on training's seeds and on the machine's noise, made from the records."""
    return [*_seed_notes(run), *_once_notes(run), *_floor_notes(run)]


def floor_of_gate(verdict: Verdict) -> str:
    """'noise floor 0.05 %' for one gate; empty where none is known."""
    if verdict.noise_floor is None:
        return ""
    factor, unit = _UNITS[effect_unit(verdict.gate)]
    return f"noise floor {verdict.noise_floor * factor:.2g}{unit}"


def _seed_notes(run: RunRecord) -> list[str]:
    averaged = averaged_variants(run)
    notes = []
    for adapter, (seeds, variants) in _drawn(run).items():
        judged = "the mean over them" if variants & averaged else "the one that ships"
        notes.append(
            f"{adapter} was trained with {seeds} seeds: gates judge {judged}, and their intervals "
            "cover training too."
        )
    return notes


def _once_notes(run: RunRecord) -> list[str]:
    jobs = [job.name.removeprefix("train ") for job in run.adapters if job.kind == "train"]
    # A further seed is a job of its own: 'guanaco (seed 1)'.
    once = [name for name in jobs if "(" not in name and name not in _drawn(run)]
    if not once:
        return []
    times = "once" if len(once) == 1 else "once each"
    were = "was" if len(once) == 1 else "were"
    return [
        f"The intervals cover the choice of documents, not of training: {joined(once)} {were} "
        f"trained {times}, with one seed."
    ]


def _drawn(run: RunRecord) -> dict[str, tuple[int, set[str]]]:
    """By adapter: with how many seeds it was scored, and in which variants."""
    drawn: dict[str, tuple[int, set[str]]] = {}
    for variant in run.variants:
        seeds = sum(repeat.kind == "seed" for repeat in variant.repeats)
        for step in variant.path:
            if seeds and "attach" in step:
                most, variants = drawn.get(step["attach"], (0, set()))
                drawn[step["attach"]] = (max(most, seeds + 1), variants | {variant.name})
    return drawn


def _floor_notes(run: RunRecord) -> list[str]:
    floors: dict[tuple[str, str], NoiseFloor] = {}
    for found in floors_of(run).values():
        for metric, floor in found.items():
            floors[metric, floor.run] = floor
    return [_floor_note(run, floor) for floor in floors.values()]


def _floor_note(run: RunRecord, floor: NoiseFloor) -> str:
    where = "this run" if floor.run == run.id else f"run {floor.run}"
    dtypes = joined([str(name) for name in floor.condition.get("dtypes", ())])
    words = floor_words(floor)
    words = words if words.startswith("less") else f"up to {words}"
    return (
        f"Noise floor: scoring the same weights twice moves {metric_words(floor.metric)} by "
        f"{words} here, computed in {dtypes} (measured in {where} on {floor.variant})."
    )
