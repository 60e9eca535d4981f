"""Divergence against exact float64 over the whole vocabulary, written down again from scratch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evalkit.corpora import corpus_digest
from evalkit.errors import DataError, ScoringError, WeightsError
from evalkit.records import Corpus, Document, Gate, Progress
from evalkit.scoring import log_probs, logit_rows, token_pairs
from evalkit.scoring.divergence import Subject, score_divergence, score_lockstep, write_reference
from evalkit.scoring.divergence_summary import percentiles
from evalkit.scoring.log_probs import RANGE, decode, encode, reference_bytes
from evalkit.scoring.token_pairs import compare_rows, known_rows
from evalkit.statistics.clusters import ratio_standard_error
from evalkit.suite.divergence import DivergenceSpec

TEXTS = (
    "The model reads the words and the words are scored one by one.",
    "A quantised weight lies on a grid; an adapter moves it a little, naïvely – 日本.",
    "Perplexity is the exponential of the mean loss of every token. " * 4,
    "x",
)


def corpus_of(*texts: str, clusters: tuple[str | None, ...] | None = None) -> Corpus:
    given_clusters = clusters or (None,) * len(texts)
    made = tuple(
        Document(id=f"d{index}", text=text, cluster=cluster)
        for index, (text, cluster) in enumerate(zip(texts, given_clusters, strict=True))
    )
    return Corpus("test", made, "a test", corpus_digest(made))


def subject_of(
    model: Any, tokenizer: Any, corpus: Corpus | None = None, **fields: Any
) -> tuple[Subject, list[Progress]]:
    ticks: list[Progress] = []
    settings = {"on": "test", "reference": "fp16", "max_length": 32, **fields}
    spec = DivergenceSpec(**settings)
    chosen = corpus or corpus_of(*TEXTS)
    return Subject(model, tokenizer, chosen, spec, None, "score tiny", ticks.append), ticks


def moved(model: Any, scale: float, seed: int = 1) -> Any:
    """A copy of the model with other weights."""
    import copy

    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return other


def exact(subject: Subject, reference: Any) -> dict[str, np.ndarray]:
    """Each scored token, one window at a time, by torch's float64 log_softmax; in window order."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("kl", "same", "ours", "theirs")}
    layout = subject.layout()
    for window in layout.windows:
        ids = torch.from_numpy(window.inputs)[None]
        rows = slice(len(window.inputs) - len(window.targets), None)
        with torch.no_grad():
            ours = torch.log_softmax(subject.model(ids).logits[0, rows].double(), -1)
            theirs = torch.log_softmax(reference(ids).logits[0, rows].double(), -1)
        targets = torch.from_numpy(window.targets)[:, None]
        found["kl"].append((theirs.exp() * (theirs - ours)).sum(-1).numpy())
        found["same"].append((theirs.argmax(-1) == ours.argmax(-1)).numpy())
        found["ours"].append(-ours.gather(1, targets)[:, 0].numpy())
        found["theirs"].append(-theirs.gather(1, targets)[:, 0].numpy())
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    joined["unit"] = np.concatenate(
        [np.full(len(window.targets), window.unit) for window in layout.windows]
    )
    return joined


def by_unit(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return np.array([values[unit == index].sum() for index in range(unit.max() + 1)])


@pytest.fixture(params=[7, 2048], ids=["pieces of 7", "one piece"])
def pair(
    request: Any, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> Any:
    """A variant, its reference's file, and both scored; pieces of logits end inside of windows."""
    monkeypatch.setattr(logit_rows, "LOGIT_ROWS", request.param)
    variant = moved(tiny_model, 0.2)
    reference, _ = subject_of(tiny_model, tiny_tokenizer)
    write_reference(reference, tmp_path / "reference")
    subject, _ = subject_of(variant, tiny_tokenizer)
    return subject, tiny_model, tmp_path / "reference"


# ----------------------------------------------------------------------------- everything exact


@pytest.mark.parametrize("lockstep", [False, True])
def test_every_number_is_that_of_float64(pair: Any, lockstep: bool) -> None:
    subject, reference, folder = pair
    if lockstep:
        score, found = score_lockstep(subject, reference, metric="divergence", reference="fp16")
    else:
        score, found = score_divergence(subject, folder, metric="divergence", reference="fp16")
    want = exact(subject, reference)
    kl, unit = want["kl"], want["unit"]
    slack = found.kl_error_bound if not lockstep else 1e-6  # batched float32 logits
    assert (found.kl_error_bound > 0) == (not lockstep)
    assert found.kl_error_bound < 1e-3
    assert kl.mean() > 0.05
    assert found.kl.value == pytest.approx(kl.mean(), abs=slack)
    assert score.value == found.kl.value
    assert score.unit == "nats/token"
    assert not score.higher_is_better
    np.testing.assert_allclose(score.sums, by_unit(kl, unit), atol=slack * len(kl))
    assert score.counts.tolist() == np.bincount(unit).tolist()
    assert found.n_tokens == len(kl)
    assert score.unit_ids == ("d0", "d1", "d2", "d3")

    counts = np.bincount(unit).astype(float)
    names = tuple(score.clusters)
    delta_p = np.exp(-want["ours"]) - np.exp(-want["theirs"])
    ratio = want["ours"] - want["theirs"]
    for estimate, values in (
        (found.kl, kl),
        (found.same_top, want["same"].astype(float)),
        (found.delta_p, delta_p),
        (found.ln_ratio, ratio),
    ):
        assert estimate.value == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        stderr = ratio_standard_error(by_unit(values, unit), counts, names)
        assert estimate.stderr == pytest.approx(stderr, rel=1e-3)
    rms = math.sqrt((delta_p**2).mean())
    assert found.delta_p_rms.value == pytest.approx(rms, rel=1e-4)
    square = ratio_standard_error(by_unit(delta_p**2, unit), counts, names)
    assert found.delta_p_rms.stderr == pytest.approx(square / (2 * rms), rel=1e-3)
    ours, theirs = math.exp(want["ours"].mean()), math.exp(want["theirs"].mean())
    assert found.perplexity.value == pytest.approx(ours, rel=1e-5)
    assert found.perplexity_reference.value == pytest.approx(theirs, rel=1e-5)
    assert found.ratio.value == pytest.approx(ours / theirs, rel=1e-5)
    assert found.difference.value == pytest.approx(ours - theirs, rel=1e-4)
    assert found.difference.stderr > 0
    assert found.correlation == pytest.approx(np.corrcoef(want["ours"], want["theirs"])[0, 1])
    assert found.kl_percentiles["max"] == pytest.approx(kl.max(), abs=1e-3)
    assert found.kl_percentiles["min"] == pytest.approx(kl.min(), abs=1e-3)
    assert found.kl_percentiles["median"] == pytest.approx(np.median(kl), abs=1e-3)
    assert list(found.kl_percentiles) == (
        ["max", "99.9", "99", "95", "90", "median", "10", "5", "1", "min"]
    )
    assert found.delta_p_percentiles["0.1"] == pytest.approx(np.percentile(delta_p, 0.1), abs=1e-5)


def test_perplexity_is_that_of_the_perplexity_metric(pair: Any) -> None:
    from evalkit.scoring.perplexity import score_perplexity

    subject, _, folder = pair
    score, found = score_divergence(subject, folder, metric="divergence", reference="fp16")
    other = score_perplexity(
        subject.model,
        subject.tokenizer,
        subject.corpus,
        subject.spec.windows(),
        metric="perplexity",
        max_tokens_per_document=None,
        job="",
        on_progress=lambda tick: None,
    )
    assert found.perplexity.value == pytest.approx(other.value, rel=1e-6)
    assert found.perplexity.stderr == pytest.approx(other.stderr, rel=1e-4)
    assert score.unit_ids == other.unit_ids
    assert score.counts.tolist() == other.counts.tolist()


def test_readings_are_flat_and_finite(pair: Any) -> None:
    subject, _, folder = pair
    score, found = score_divergence(subject, folder, metric="divergence", reference="fp16")
    assert score.extra == found.readings()
    assert all(math.isfinite(value) for value in score.extra.values())
    assert json.loads(json.dumps(dict(score.extra)))["kl_99.9"] == found.kl_percentiles["99.9"]
    assert {"same_top", "same_top_stderr", "delta_p_rms", "ln_ratio", "kl_min"} <= set(score.extra)


def test_documents_of_one_cluster_are_not_independent(tiny_model: Any, tiny_tokenizer: Any) -> None:
    variant = moved(tiny_model, 0.2)
    apart, _ = subject_of(variant, tiny_tokenizer)
    joined = corpus_of(*TEXTS, clusters=("a", "a", "b", "b"))
    together, _ = subject_of(variant, tiny_tokenizer, joined)
    scores = [
        score_lockstep(one, tiny_model, metric="divergence", reference="fp16")[0]
        for one in (apart, together)
    ]
    assert scores[0].value == scores[1].value
    assert scores[1].clusters == ("a", "a", "b", "b")
    assert scores[0].stderr != scores[1].stderr


def test_a_maximum_on_it_is_a_gate(tiny_model: Any, tiny_tokenizer: Any) -> None:
    from evalkit.judging.gates import Evidence, judge

    corpus = corpus_of(*(f"{text} {number}" for number in range(12) for text in TEXTS[:2]))
    subject, _ = subject_of(moved(tiny_model, 0.2), tiny_tokenizer, corpus)
    score, _ = score_lockstep(subject, tiny_model, metric="divergence", reference="fp16")
    gates = [Gate("divergence", "nf4", maximum=share * score.value) for share in (0.5, 1.0, 2.0)]
    verdicts = judge(gates, Evidence({"nf4": {"divergence": score}}))
    assert [verdict.verdict for verdict in verdicts] == ["REGRESSED", "INCONCLUSIVE", "PASS"]


# ----------------------------------------------------------------------------- the same model


def test_a_model_does_not_diverge_from_itself(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    subject, _ = subject_of(tiny_model, tiny_tokenizer)
    write_reference(subject, tmp_path / "reference")
    _, found = score_divergence(
        subject, tmp_path / "reference", metric="divergence", reference="fp16"
    )
    assert 0 <= found.kl.value <= found.kl_error_bound < 1e-3
    assert found.kl_percentiles["max"] < 5e-8, "δ²/2 is all that rounding leaves"
    assert found.same_top.value == 1
    assert found.delta_p.value == 0
    assert found.ln_ratio.value == 0
    assert found.correlation == pytest.approx(1)
    _, found = score_lockstep(subject, tiny_model, metric="divergence", reference="fp16")
    assert found.kl.value == pytest.approx(0, abs=1e-15)
    assert found.kl_error_bound == 0


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
@pytest.mark.parametrize("piece", [320, 700, 2**18])
def test_batches_and_pieces_change_nothing(
    pair: Any, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, piece: int
) -> None:
    subject, reference, folder = pair
    monkeypatch.setitem(token_pairs.PIECE, "cpu", piece)
    fields = {"batch_tokens": batch_tokens}
    again, _ = subject_of(subject.model, subject.tokenizer, **fields)
    _, found = score_divergence(again, folder, metric="divergence", reference="fp16")
    assert found.kl.value == pytest.approx(exact(subject, reference)["kl"].mean(), rel=1e-3)


@pytest.mark.parametrize("protocol", ["stream", "chunks"])
def test_other_protocols(tiny_model: Any, tiny_tokenizer: Any, protocol: str) -> None:
    subject, _ = subject_of(moved(tiny_model, 0.2), tiny_tokenizer, protocol=protocol)
    score, found = score_lockstep(subject, tiny_model, metric="divergence", reference="fp16")
    assert found.kl.value == pytest.approx(exact(subject, tiny_model)["kl"].mean(), rel=1e-5)
    assert score.unit_ids[0] in ("window 0", "chunk 0")


def test_tokens_are_capped(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    subject, ticks = subject_of(tiny_model, tiny_tokenizer, tokens=20)
    size = write_reference(subject, tmp_path / "reference")
    _, found = score_divergence(
        subject, tmp_path / "reference", metric="divergence", reference="fp16"
    )
    assert 10 < found.n_tokens <= 20
    assert ticks[-1].done == ticks[-1].total == found.n_tokens
    assert reference_bytes(found.n_tokens, 320) <= size < reference_bytes(20, 320) + 2000
    with pytest.raises(DataError, match="less than a token for each"):
        write_reference(subject_of(tiny_model, tiny_tokenizer, tokens=2)[0], tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ----------------------------------------------------------------------------- 16 bits


def rows_of(seed: int, *, rows: int, vocabulary: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)


def stored(logits: torch.Tensor, targets: np.ndarray) -> Any:
    """What a reference gives back after 16 bits."""
    codes, steps = encode(logits)
    known = known_rows(logits, targets)
    return lambda rows: token_pairs.KnownRows(
        decode(codes[rows], steps[rows]),
        steps[rows].double() / 2,
        known.tops[rows],
        known.losses[rows],
    )


@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.integers(2, 3000),
    scale=st.floats(0.01, 12),
    apart=st.floats(0, 5),
)
def test_the_bound_holds_for_every_row(
    seed: int, vocabulary: int, scale: float, apart: float
) -> None:
    logits = rows_of(seed, rows=8, vocabulary=vocabulary, scale=scale)
    other = logits + rows_of(seed + 1, rows=8, vocabulary=vocabulary, scale=apart)
    targets = np.zeros(8, dtype=np.int64)
    found = compare_rows(other, targets, stored(logits, targets), vocabulary)
    p, q = torch.log_softmax(logits, -1), torch.log_softmax(other, -1)
    want = (p.exp() * (p - q)).sum(-1).numpy()
    assert (np.abs(found.kl - want) <= found.bound + 1e-12).all()
    assert (found.kl > -1e-12).all()


def test_rounding_moves_a_mean_far_less_than_its_bound() -> None:
    """A vocabulary as models have it, on which a 16-bit float would be off by 100 times more."""
    logits = rows_of(0, rows=64, vocabulary=32_000, scale=3.0)
    other = logits + rows_of(1, rows=64, vocabulary=32_000, scale=0.15)
    targets = np.zeros(64, dtype=np.int64)
    found = compare_rows(other, targets, stored(logits, targets), 32_000)
    p, q = torch.log_softmax(logits, -1), torch.log_softmax(other, -1)
    want = (p.exp() * (p - q)).sum(-1).numpy()
    error = abs(found.kl.mean() - want.mean())
    assert error < 1e-6
    assert error < found.bound.mean() / 10
    halves = p.half().double()
    floats = (halves.exp() * (halves - q)).sum(-1).numpy()
    assert abs(floats.mean() - want.mean()) > 10 * error


def test_the_grid_keeps_every_value_to_half_a_step() -> None:
    logits = rows_of(5, rows=16, vocabulary=500, scale=5.0)
    codes, steps = encode(logits)
    assert codes.dtype == torch.int16
    below = logits - logits.amax(-1, keepdim=True)
    off = (decode(codes, steps) - below).abs().amax(-1)
    assert (off <= steps.double() / 2 * (1 + 1e-6)).all()
    assert (decode(codes, steps).amax(-1) == 0).all(), "the likeliest token is exact"


def test_what_has_no_probability_keeps_none() -> None:
    logits = torch.tensor([[0.0, -1.0, -torch.inf, -1e4, -RANGE - 1, -RANGE + 1]]).double()
    back = decode(*encode(logits))[0]
    assert torch.isneginf(back[2:5]).all()
    assert torch.isfinite(back[[0, 1, 5]]).all()
    targets = np.zeros(1, dtype=np.int64)
    found = compare_rows(logits, targets, stored(logits, targets), 6)
    assert abs(found.kl[0]) < 1e-6


def test_equal_logits_are_a_grid_too() -> None:
    logits = torch.zeros(1, 7, dtype=torch.float64)
    assert torch.equal(decode(*encode(logits)), logits)


# ----------------------------------------------------------------------------- refusals


def test_padding_that_one_side_has_is_left_out(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import copy

    padded = copy.deepcopy(tiny_model)
    padded.resize_token_embeddings(384, mean_resizing=False)
    variant = moved(tiny_model, 0.2)
    want, _ = subject_of(variant, tiny_tokenizer)
    _, plain = score_lockstep(want, tiny_model, metric="divergence", reference="fp16")
    for ours, theirs in ((variant, padded), (moved(padded, 0.0), tiny_model)):
        with torch.no_grad():
            if ours is not variant:
                ours.load_state_dict(
                    {
                        name: torch.cat([tensor, torch.zeros(64, tensor.shape[1])])
                        if tensor.shape[0] == 320
                        else tensor
                        for name, tensor in variant.state_dict().items()
                    }
                )
        subject, _ = subject_of(ours, tiny_tokenizer)
        _, found = score_lockstep(subject, theirs, metric="divergence", reference="fp16")
        assert found.kl.value == pytest.approx(plain.kl.value, rel=1e-5)
        folder = tmp_path / str(ours is variant)
        write_reference(subject_of(theirs, tiny_tokenizer)[0], folder)
        _, found = score_divergence(subject, folder, metric="divergence", reference="fp16")
        assert found.kl.value == pytest.approx(plain.kl.value, abs=found.kl_error_bound)


def test_a_smaller_vocabulary_is_refused(tiny_model: Any, tiny_tokenizer: Any) -> None:
    smaller = moved(tiny_model, 0.0)
    smaller.lm_head = torch.nn.Linear(64, 310, bias=False)
    subject, _ = subject_of(tiny_model, tiny_tokenizer)
    with pytest.raises(ScoringError, match="the variant has 320 logits and the reference 310"):
        score_lockstep(subject, smaller, metric="divergence", reference="fp16")


def test_a_reference_of_other_tokens_is_refused(pair: Any, tiny_tokenizer: Any) -> None:
    subject, _, folder = pair
    other, _ = subject_of(subject.model, tiny_tokenizer, max_length=16)
    with pytest.raises(ScoringError, match="scored on other tokens"):
        score_divergence(other, folder, metric="divergence", reference="fp16")
    with pytest.raises(ScoringError, match="holds no reference"):
        score_divergence(subject, folder / "nothing", metric="divergence", reference="fp16")


def test_logits_that_are_no_numbers_are_errors(
    tiny_model: Any, tiny_tokenizer: Any, pair: Any, tmp_path: Path
) -> None:
    broken = moved(tiny_model, 0.0)
    with torch.no_grad():
        broken.lm_head.weight[7] = torch.nan
    subject, _ = subject_of(broken, tiny_tokenizer)
    with pytest.raises(ScoringError, match=r"d\d: .* token 0 is nan"):
        write_reference(subject, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    with pytest.raises(ScoringError, match="not a finite number"):
        score_divergence(subject, pair[2], metric="divergence", reference="fp16")


def test_no_probability_where_the_reference_has_some_is_an_error() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).double()
    masked = torch.tensor([[0.0, -torch.inf, 2.0]]).double()
    targets = np.zeros(1, dtype=np.int64)
    assert np.isinf(compare_rows(masked, targets, stored(logits, targets), 3).kl[0])
    assert np.isfinite(compare_rows(masked, targets, stored(masked, targets), 3).kl[0])


def test_an_interrupted_reference_leaves_nothing(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log_probs.LogProbs, "write", interrupt)
    subject, _ = subject_of(tiny_model, tiny_tokenizer)
    with pytest.raises(KeyboardInterrupt):
        write_reference(subject, tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


takes_room = pytest.mark.skipif(
    not hasattr(log_probs.os, "posix_fallocate"), reason="this system takes no room beforehand"
)


@takes_room
def test_a_full_disk_is_an_error_and_leaves_nothing(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory-mapped file takes its blocks when it is written: too late for an error."""

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_probs.os, "posix_fallocate", full)
    subject, _ = subject_of(tiny_model, tiny_tokenizer)
    with pytest.raises(WeightsError, match="the disk is full"):
        write_reference(subject, tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


@takes_room
def test_the_files_are_not_sparse(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    subject, _ = subject_of(tiny_model, tiny_tokenizer)
    log_probs.create(tmp_path / "reference", subject.layout().windows, 320)
    for file in (tmp_path / "reference").glob("*.npy"):
        assert file.stat().st_blocks * 512 >= file.stat().st_size


def test_percentiles_are_llama_cpps() -> None:
    """Between sorted values i and i + 1 with i the whole part of share·(n − 1), linearly."""
    values = np.array([3.0, 1.0, 2.0, 10.0])
    found = percentiles(values, (100, 90, 50, 10, 0))
    assert found == pytest.approx({"max": 10, "90": 7.9, "median": 2.5, "10": 1.3, "min": 1})


def test_the_spec_counts_and_refuses() -> None:
    from pydantic import ValidationError

    spec = DivergenceSpec(on="test", reference="fp16")
    assert (spec.tokens, spec.lockstep) == (8192, False)
    assert spec.windows().tokens == 8192
    with pytest.raises(ValidationError):
        DivergenceSpec(on="test", reference="fp16", tokens=0)
    with pytest.raises(ValidationError):
        DivergenceSpec(on="test", reference="fp16", token=5)
    for fields in ({"protocol": "chunks", "max_length": 33}, {"protocol": "stream"}):
        with pytest.raises(ValidationError) as refused:
            DivergenceSpec(on="test", reference="fp16", score_on="completion", **fields)
        ((_, place),) = [*refused.value.errors()[0]["ctx"].items()]
        assert place[-1] == (("score_on",), "completion goes with 'protocol: documents'")
        assert len(place) == (2 if "max_length" in fields else 1)
