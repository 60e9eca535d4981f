"""Records in which no field has its default, and how they go into a store."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from evalkit.records import (
    Budget,
    Gate,
    JobRecord,
    Sample,
    SampleOutcome,
    SampleText,
    Score,
    TokenLosses,
    Verdict,
)
from evalkit.records.integrity import ModuleSurvival
from evalkit.store import Store, VariantResult

GATES = (
    Gate(
        metric="perplexity",
        variant="merged",
        against="nf4",
        max_increase=Budget(0.1, "relative"),
        expect="regressed",
        inconclusive="warn",
        place="suites/a.yaml:41",
    ),
    Gate(metric="task/acc", variant="nf4", against="fp16", max_decrease=Budget(0.02, "points")),
    Gate(metric="survival", variant="merged", minimum=0.9),
    Gate(metric="perplexity", variant="nf4", maximum=20.0),
)
VERDICTS = (
    Verdict(
        gate=GATES[0],
        verdict="REGRESSED",
        ok=True,
        warned=True,
        effect=0.1 + 0.2,
        low=-1e-300,
        high=math.nextafter(1.0, 2.0),
        p_value=5e-324,
        p_adjusted=1.0,
        n_units=42,
        n_clusters=40,
        effective_clusters=33.3,
        bootstrap_low=-0.2,
        bootstrap_high=2 / 3,
        gained=1,
        lost=6,
        mcnemar_p=0.125,
        noise_floor=5e-4,
        training_spread=1e-3,
        n_seeds=3,
        message="merging loses the adapter; „erwartet“ ✓",
    ),
    Verdict(gate=GATES[3], verdict="MISSING", ok=False),
)
TRAINING = JobRecord(
    name="train guanaco",
    kind="train",
    status="done",
    seconds=12.5,
    facts={"losses": [2.5, 0.1 + 0.2], "steps": 30, "notes": ["ä", None, {"x": True}]},
)
JOB = JobRecord(
    name="score nf4",
    kind="score",
    status="reused",
    seconds=math.pi,
    error="warning: \udcff is no character",
    facts={"effective_dtype": "bf16", "peak_memory": 2**40},
    reused_from="20260101-000000-0000",
)
PATH = ({"load": "fp16"}, {"quantize": {"type": "nf4", "skip_modules": ["lm_head"]}})
SAMPLES = (
    Sample(prompt="Once", text=" upon\n\x00 a", tokens=(" upon", "\n", "\x00", " a")),
    Sample(prompt="", text="", tokens=()),
)


def make_score(metric: str = "perplexity", *, seed: int = 0, n: int = 7) -> Score:
    """A score whose every field differs from its default, with awkward numbers in it."""
    generator = np.random.default_rng(seed)
    sums = generator.normal(size=n) * 10.0 ** generator.integers(-300, 300, size=n)
    sums[0], sums[1] = -0.0, 5e-324
    return Score(
        metric=metric,
        kind="mean",
        value=math.nextafter(14.59, 15) + seed,
        stderr=1 / 3,
        unit="ppl/token",
        higher_is_better=True,
        unit_ids=tuple(f"document-{i}-é" for i in range(n)),
        clusters=tuple(f"cluster-{i // 2}" for i in range(n)),
        sums=sums,
        counts=np.arange(n, dtype=np.float64) + 0.1,
        extra={"bits_per_byte": 0.1 + 0.2, "word_perplexity": math.inf, "n_tokens": 12.0},
        comparison={"protocol": "documents", "data": "a1"},
        token_losses=(
            TokenLosses(
                3,
                ("a", "\ud800", "Ġb"),
                np.array([0.1, -0.0, 1e-45], np.float32),
                ("\0", "\udcff\ufffd", " 日"),
                np.array([1 / 3, 1.0, 1e-45], np.float32),
            ),
            TokenLosses(2, ("a\0",), np.array([0.5], np.float32)),
            TokenLosses(1, (), np.array([], np.float32)),
        ),
        outcomes=tuple(
            SampleOutcome(
                gold=f"{i}",
                choice=None if i else "\ud800",
                correct=(None, True, False)[i % 3],
                log_likelihoods=(-1 / (i + 3),) * i,
                tied=i > 2,
            )
            for i in range(n)
        ),
        sample_texts=tuple(
            SampleText(f"…Question {i}?\n\0", (" \ud800", " ja", "")[: i % 4]) for i in range(n)
        ),
        modules=tuple(
            ModuleSurvival(f"layers.{i}.é", -1 / 3, 5e-324, 1e300, 0.1, 2**40 + i, i + 1)
            for i in range(3)
        ),
    )


def assert_same_bits(found: object, wanted: object) -> None:
    """Equality of records, arrays bit by bit, with types: 1 is not 1.0 and not True."""
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        assert found.tobytes() == wanted.tobytes()
    elif dataclasses.is_dataclass(wanted):
        assert type(found) is type(wanted)
        for field in dataclasses.fields(wanted):
            assert_same_bits(getattr(found, field.name), getattr(wanted, field.name))
    elif isinstance(wanted, (tuple, list)):
        assert isinstance(found, type(wanted))
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same_bits(one, other)
    elif isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same_bits(found[key], value)
    else:
        assert type(found) is type(wanted)
        assert repr(found) == repr(wanted)


def start(store: Store, **changes: object) -> str:
    fields: dict[str, object] = {
        "suite": "quickstart",
        "place": "suites/quickstart.yaml",
        "suite_text": "name: quickstart\n# ✓\n",
        "suite_json": {"name": "quickstart", "lora": {"r": 16, "dropout": 0.0}},
        "arguments": {"given": {"set": ["a=1"]}, "defaulted": {"db": None}},
        "provenance": {"git": {"dirty": True}, "versions": {"torch": "2.13.0"}},
        "gates": GATES,
        **changes,
    }
    return store.start_run(**fields)  # type: ignore[arg-type]


def result(name: str = "nf4", **changes: object) -> VariantResult:
    fields: dict[str, object] = {
        "name": name,
        "path": PATH,
        "parent": "fp16",
        "edge": "quantise nf4",
        "job": dataclasses.replace(JOB, name=f"score {name}"),
        **changes,
    }
    return VariantResult(**fields)  # type: ignore[arg-type]
