"""The quickstart, whole, on the real model: training, seven variants, verdicts, report, export."""

import json
import math
import re
import subprocess
import sys

import pytest

from evalkit.cli import run_command_line

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def quickstart(suite_run):
    """The whole suite as it ships."""
    run = suite_run("quickstart")
    assert run.code == run.told["exit_code"] == 0, run.told["verdicts"]
    return run


@pytest.fixture
def values(quickstart):
    return quickstart.values


def test_seven_variants_are_scored_on_at_least_40_topics_and_at_most_8000_tokens(quickstart):
    variants = quickstart.told["variants"]
    assert len(variants) == 7
    for variant in variants.values():
        told = variant["metrics"]["perplexity"]
        assert told["n_documents"] >= 40
        assert 6000 < told["n_tokens"] <= 8000


def test_a_merge_in_place_deletes_the_adapter(values):
    gain = values["nf4"] - values["nf4+adapter"]
    assert gain > 0.15 * values["nf4"]
    assert values["merged-4bit"] > values["nf4"] - 0.1 * gain
    assert values["requantized"] > values["nf4"] - 0.1 * gain


def test_two_other_ways_keep_it(values):
    assert values["dequant-merged"] == pytest.approx(values["nf4+adapter"], rel=0.01)
    assert values["fp16-merged-nf4"] < 1.10 * values["nf4+adapter"]


def test_quantisation_alone_costs_something(values):
    assert 1.02 * values["fp16"] < values["nf4"] < 1.6 * values["fp16"]


def test_the_verdicts_say_so(quickstart):
    verdicts = {(v["variant"], v["verdict"]) for v in quickstart.told["verdicts"]}
    assert ("merged-4bit", "REGRESSED") in verdicts
    assert ("requantized", "REGRESSED") in verdicts
    assert ("nf4+adapter", "IMPROVED") in verdicts
    assert verdicts & {("fp16-merged-nf4", "PASS"), ("fp16-merged-nf4", "IMPROVED")}
    assert all(verdict["ok"] for verdict in quickstart.told["verdicts"])


def test_survival_says_which_merges_kept_the_adapter(quickstart):
    told = quickstart.told["variants"]
    kept = {name: v["survival"] for name, v in told.items() if v["survival"] is not None}
    assert set(kept) == {"merged-4bit", "dequant-merged", "requantized", "fp16-merged-nf4"}
    assert 0 < kept["merged-4bit"] < 0.05
    assert 0 < kept["requantized"] < 0.05
    assert kept["dequant-merged"] > 0.7
    assert kept["fp16-merged-nf4"] > 0.7
    detail = told["merged-4bit"]["survival_detail"]
    assert len(detail["by_layer"]) == 30
    assert all(-0.1 < share < 0.2 for share in detail["by_layer"].values())
    assert 0 < detail["changed_share"] < 1e-3
    assert 1e-3 < detail["relative_size"] < 0.05


def test_predictions_of_the_merges_that_kept_it_stay_with_what_was_trained(quickstart):
    told = quickstart.told["variants"]
    moved = {
        name: v["metrics"]["divergence"] for name, v in told.items() if "divergence" in v["metrics"]
    }
    assert set(told) - set(moved) == {"nf4+adapter"}
    kl = {name: found["value"] for name, found in moved.items()}
    assert kl["dequant-merged"] < 0.02
    assert kl["fp16-merged-nf4"] < 0.3 * kl["merged-4bit"]
    assert kl["merged-4bit"] > 0.9 * kl["nf4"]
    for found in moved.values():
        # In float32 dequant-merged is what was trained, and its 1e-8 is below what can be told.
        assert found["kl_error_bound"] < max(0.02 * found["value"], 1e-6)
        assert 0 < found["stderr"] < 0.2 * found["value"]
        assert found["n_tokens"] <= 2048


def test_the_steps_to_a_variant_add_up(quickstart):
    """In nats per token, to the last digits: every edge is measured on the same documents."""
    told, values = quickstart.told["variants"], quickstart.values
    variant, nats = "merged-4bit", 0.0
    while (parent := told[variant]["parent"]) is not None:
        nats += math.log1p(told[variant]["edge_effects"]["perplexity"]["effect"])
        variant = parent
    assert variant == "fp16"
    assert nats == pytest.approx(math.log(values["merged-4bit"] / values["fp16"]), abs=1e-9)


def test_every_variant_is_what_its_files_say_and_the_cost_is_known(quickstart):
    told = quickstart.told["variants"]
    for name, variant in told.items():
        checks = {check["check"]: check for check in variant["checks"]}
        assert checks["finite"]["ok"]
        if name != "fp16":
            assert checks["reload"]["ok"], checks["reload"]["message"]
        assert variant["cost"]["parameters"] == 134_515_008
        assert variant["cost"]["decode_speed"] > 0
    assert [n for n, v in told.items() if any(not check["ok"] for check in v["checks"])] == [
        "merged-4bit",
        "requantized",
    ]
    (kept,) = [c for c in told["dequant-merged"]["checks"] if c["check"] == "merge"]
    assert kept["ok"], kept["message"]
    disk = {name: variant["cost"]["disk"] for name, variant in told.items()}
    assert disk["fp16-merged-nf4"] == pytest.approx(disk["merged-4bit"], rel=1e-3)
    assert disk["fp16-merged-nf4"] < 0.5 * disk["fp16"]


def test_the_recommendation_finds_the_way_out_by_itself(quickstart):
    found = quickstart.told["recommendation"]
    assert found["variant"] == "fp16-merged-nf4"
    run = quickstart.told["run"]
    assert found["command"] == f"evalkit export fp16-merged-nf4 ./fp16-merged-nf4 --run {run}"


def test_the_report_opens_with_the_finding_and_names_what_the_weights_were(quickstart):
    told, folder = quickstart.told, quickstart.folder
    page = (folder / "reports" / "quickstart" / told["run"] / "index.html").read_text("utf-8")
    finding = r"merged-4bit keeps (\d\.\d+)\s% of the adapter and raises perplexity by"
    kept = re.search(finding, re.sub(r"<[^>]+>", "", page))
    assert kept is not None
    assert 0 < float(kept[1]) < 5
    assert "GGUF Q4_1" in page


def test_what_the_machine_really_computed_is_recorded(quickstart):
    provenance = quickstart.told["provenance"]
    assert provenance["source_precision"] == "dequantised from GGUF Q4_1"
    assert provenance["effective_dtypes"]["fp16"] in {"bf16", "fp32", "fp16"}
    python = ".".join(map(str, sys.version_info[:3]))
    assert f"Python {python}" in provenance["data"]["test"]["origin"]


def test_a_second_run_reuses_every_number_without_torch(quickstart):
    told, folder = quickstart.told, quickstart.folder
    outputs = ["--reports", str(folder / "reports"), "--json", str(folder / "second.json")]
    arguments = quickstart.arguments("run", str(quickstart.suite), *outputs)
    code = (
        "import sys; from evalkit.cli import run_command_line as r;"
        f"c = r({arguments!r}); print(c, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip().splitlines()[-1] == "0 False", answer.stdout + answer.stderr
    again = json.loads((folder / "second.json").read_text(encoding="utf-8"))
    for name, variant in again["variants"].items():
        assert variant["reused_from"] == told["run"]
        assert variant["metrics"] == told["variants"][name]["metrics"]


def test_an_exported_variant_loads_and_scores_the_same(quickstart, values):
    """The recommended one, loaded as a user would load it."""
    exported, variant = quickstart.folder / "exported", "fp16-merged-nf4"
    more = (variant, str(exported), "--run", quickstart.told["run"])
    assert run_command_line(quickstart.arguments("export", *more)) == 0
    found = perplexity_of(exported, quickstart.suite, quickstart.cache)
    assert found == pytest.approx(values[variant], rel=5e-4)


def perplexity_of(folder, suite_file, cache):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evalkit.corpora import load_corpus
    from evalkit.scoring.perplexity import score_perplexity
    from evalkit.suite import load_suite
    from evalkit.weights.quantization import disable_repacking

    disable_repacking()
    suite = load_suite(suite_file)
    score = score_perplexity(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        load_corpus("test", suite.data["test"], cache=cache),
        suite.metrics.perplexity["perplexity"],
        metric="perplexity",
        max_tokens_per_document=suite.data["test"].max_tokens_per_document,
        job="exported",
        on_progress=lambda tick: None,
    )
    return score.value
