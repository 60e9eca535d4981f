"""Notes on noise: which trainings the intervals cover, and the machine's floor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from evalkit.judging.noise import floors_json
from evalkit.records import (
    Budget,
    Gate,
    JobRecord,
    NoiseFloor,
    Repeat,
    RunRecord,
    Score,
    VariantRecord,
    Verdict,
)
from evalkit.report.noise_notes import floor_of_gate, noise_notes

IDS = ("a", "b")
SCORE = Score(
    "perplexity", "perplexity", 2.0, None, "ppl/token", False, IDS, IDS, np.ones(2), np.ones(2)
)
SEEDS = tuple(Repeat("seed", f"seed {n}", {"perplexity": SCORE}) for n in (1, 2))
FLOOR = NoiseFloor("perplexity", 7e-4, -2e-4, "nf4", "r1", {"dtypes": ["bf16"]})


def run(*, repeats: tuple[Repeat, ...] = (), jobs: tuple[str, ...] = (), **told: Any) -> RunRecord:
    path = ({"load": "fp16"}, {"attach": "tuned"})
    variant = VariantRecord("nf4", path, None, "", None, {"perplexity": SCORE}, repeats=repeats)
    suite = {"adapters": {"tuned": {"training": {"seeds": told.pop("seeds", None)}}}}
    trained = tuple(JobRecord(f"train {name}", "train", "done", 1.0) for name in jobs)
    return RunRecord("r2", "s", "", None, None, "", suite, {}, told, (variant,), trained, ())


def test_what_was_trained_once_is_said() -> None:
    (note,) = noise_notes(run(jobs=("tuned",)))
    assert note.endswith("not of training: tuned was trained once, with one seed.")
    (both,) = noise_notes(run(jobs=("tuned", "other")))
    assert "tuned and other were trained once each" in both


def test_seeds_of_the_suite_and_draws_beside_it_are_told_apart() -> None:
    jobs = ("tuned", "tuned (seed 1)", "tuned (seed 2)")
    (mean,) = noise_notes(run(repeats=SEEDS, jobs=jobs, seeds=[0, 1, 2]))
    assert mean == (
        "tuned was trained with 3 seeds: gates judge the mean over them, and their intervals "
        "cover training too."
    )
    (ships,) = noise_notes(run(repeats=SEEDS, jobs=jobs))
    assert "gates judge the one that ships" in ships


def test_a_floor_is_told_once_with_where_it_is_from() -> None:
    floors = {"nf4": {"perplexity": FLOOR}, "other": {"perplexity": FLOOR}}
    (note,) = noise_notes(run(noise_floors=floors_json(floors)))
    assert note == (
        "Noise floor: scoring the same weights twice moves perplexity by up to 0.07 % here, "
        "computed in bf16 (measured in run r1 on nf4)."
    )
    tiny = {"nf4": {"perplexity": replace(FLOOR, floor=1e-9)}}
    (small,) = noise_notes(run(noise_floors=floors_json(tiny)))
    assert "by less than 0.0001 % here" in small


def test_what_is_known_for_a_gate() -> None:
    gate = Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.01, "relative"))
    plain = Verdict(gate, "PASS", ok=True)
    assert floor_of_gate(plain) == ""
    known = replace(plain, noise_floor=5e-4)
    assert floor_of_gate(known) == "noise floor 0.05 %"
    limit = replace(known, gate=Gate("perplexity", "nf4", maximum=9.0))
    assert floor_of_gate(limit) == "noise floor 0.0005"
