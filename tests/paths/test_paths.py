"""Paths: normal form, presets, legality, words, and which variant continues which."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.paths import (
    DTYPES,
    PRESETS,
    QUANT_NAMES,
    Attach,
    Dequantize,
    Load,
    Merge,
    PathError,
    Quantize,
    VariantGraph,
    check,
    describe,
    normalise,
    path_from_json,
    path_json,
    preset_path,
    shared_beginnings,
)

NF4 = Quantize("nf4", double_quant=True, compute_dtype="fp16")


def path_of(*raw, dtype="fp16"):
    return normalise(raw, dtype=dtype)


def problems_of(*raw, adapters=None):
    return [str(problem) for problem in check(path_of(*raw), adapters=adapters or {"a": "lora"})]


# --- normal form


def test_missing_load_is_the_suites_dtype():
    assert path_of({"quantize": "nf4"}, dtype="bf16") == (
        Load("bf16"),
        Quantize("nf4", double_quant=True, compute_dtype="bf16"),
    )


def test_defaults_follow_the_paths_own_load():
    path = path_of({"load": "fp32"}, {"quantize": "nf4"}, "dequantize", dtype="fp16")
    assert path == (
        Load("fp32"),
        Quantize("nf4", double_quant=True, compute_dtype="fp32"),
        Dequantize("fp32"),
    )


def test_int8_has_no_double_quantisation():
    assert path_of({"quantize": "int8"})[1] == Quantize(
        "int8", double_quant=False, compute_dtype="fp16"
    )


def test_a_mapping_sets_every_field_of_quantize():
    raw = {"type": "fp4", "double_quant": False, "compute_dtype": "fp32", "skip_modules": ["head"]}
    assert path_of({"quantize": raw})[1] == Quantize(
        "fp4", double_quant=False, compute_dtype="fp32", skip_modules=("head",)
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"quantise": "nf4"}, "unknown step 'quantise' (did you mean 'quantize'?)"),
        ("nf4", "unknown step 'nf4' (did you mean 'quantize: nf4'?)"),
        ("fp16", "unknown step 'fp16' (did you mean 'load: fp16'?)"),
        ({"load": "fp15"}, "load cannot be 'fp15' (did you mean 'fp16'?)"),
        (
            "quantize",
            "quantize needs an argument (allowed: nf4, fp4, int8, group4, torchao-int8, hqq)",
        ),
        ({"quantize": "nf5"}, "quantize cannot be 'nf5' (did you mean 'nf4'?)"),
        ({"quantize": {"type": "nf4", "duble_quant": True}}, "did you mean 'double_quant'?"),
        ({"quantize": {"type": "nf4", "block_size": 128}}, "block_size cannot be set"),
        ({"quantize": {"type": "nf4", "double_quant": "yes"}}, "double_quant is true or false"),
        ({"quantize": {"type": "nf4", "skip_modules": "head"}}, "skip_modules is a list"),
        ({"quantize": {"type": "nf4", "skip_modules": 3}}, "skip_modules is a list"),
        ({"quantize": {"type": "int8", "double_quant": True}}, "int8 has no double quantisation"),
        ({"quantize": {"type": "int8", "compute_dtype": "fp32"}}, "computes in the load dtype"),
        ({"dequantize": "int8"}, "dequantize cannot be 'int8'"),
        ("attach", "attach takes the name of one adapter"),
        ({"attach": ["a", "b"]}, "attach takes the name of one adapter"),
        ({"merge": "a"}, "merge takes no argument"),
        ({"quantize": "nf4", "attach": "a"}, "one step a line"),
        ({}, "a step is one of load, quantize"),
        (3, "a step is one of load, quantize"),
    ],
)
def test_a_malformed_step_says_what_is_allowed(step, message):
    with pytest.raises(PathError) as error:
        path_of({"load": "fp16"}, step)
    assert [problem.index for problem in error.value.problems] == [1]
    assert message in str(error.value)


def test_every_malformed_step_is_reported():
    with pytest.raises(PathError) as error:
        path_of("lod", {"load": "fp16"}, "murge")
    assert [problem.index for problem in error.value.problems] == [0, 2]


def test_an_empty_path_is_refused():
    with pytest.raises(PathError, match="at least one step"):
        path_of()


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_legal_with_one_adapter(name):
    path = normalise(preset_path(name, ["a"]), dtype="fp16")
    assert check(path, adapters={"a": "lora"}) == []


def test_presets_mean_what_the_field_means_by_them():
    def steps(name):
        return normalise(preset_path(name, ["a"]), dtype="fp16")

    merge = (Attach("a"), Merge())
    assert steps("fp16") == (Load("fp16"),)
    assert steps("nf4+adapter") == (Load("fp16"), NF4, Attach("a"))
    assert steps("merged-4bit") == (Load("fp16"), NF4, *merge)
    assert steps("dequant-merged") == (Load("fp16"), NF4, Dequantize("fp16"), *merge)
    assert steps("requantized") == (*steps("dequant-merged"), NF4)
    assert steps("fp16-merged") == (Load("fp16"), *merge)
    assert steps("fp16-merged-nf4") == (Load("fp16"), *merge, NF4)


def test_fp16_presets_load_fp16_whatever_the_suites_dtype():
    assert normalise(preset_path("fp16-merged", ["a"]), dtype="bf16")[0] == Load("fp16")


def test_with_several_adapters_the_name_picks_one():
    assert preset_path("int8+b", ["a", "b"]) == [{"quantize": "int8"}, {"attach": "b"}]
    with pytest.raises(PathError, match="use one of 'nf4\\+a', 'nf4\\+b'"):
        preset_path("nf4+adapter", ["a", "b"])
    with pytest.raises(PathError, match=r"\[quantize: nf4, attach: a, merge\]"):
        preset_path("merged-4bit", ["a", "b"])


def test_an_adapter_named_adapter_is_itself():
    assert preset_path("nf4+adapter", ["adapter", "b"]) == [
        {"quantize": "nf4"},
        {"attach": "adapter"},
    ]


def test_a_preset_with_an_adapter_needs_one():
    with pytest.raises(PathError, match="needs an adapter, and the suite has none"):
        preset_path("requantized", [])


def test_other_names_are_no_presets():
    assert preset_path("nf4+nobody", ["a"]) is None
    assert preset_path("gguf", ["a"]) is None


# --- legality


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["merge"], "step 1: merge with nothing attached: put 'attach' before this step"),
        (["dequantize"], "step 1: dequantize of weights that are not quantised"),
        ([{"quantize": "nf4"}, {"quantize": "int8"}], "step 2: the weights are nf4 already"),
        ([{"attach": "a"}, {"quantize": "nf4"}], "step 2: quantize with 'a' attached"),
        ([{"quantize": "nf4"}, {"attach": "a"}, "dequantize"], "step 3: dequantize with 'a' attac"),
        ([{"attach": "a"}, {"load": "fp16"}], "step 2: load comes first"),
        ([{"attach": "a"}, {"attach": "a"}], "step 2: 'a' is attached already"),
        ([{"attach": "b"}], "step 1: unknown adapter 'b' (allowed: a)"),
        ([{"attach": "a"}, "merge", "merge"], "step 3: merge with nothing attached"),
        ([{"quantize": "nf4"}, "dequantize", "dequantize"], "step 3: dequantize of weights that"),
    ],
)
def test_illegal_paths(raw, message):
    problems = problems_of(*raw)
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_one_mistake_gives_one_message_and_two_give_two():
    assert len(problems_of("merge", {"attach": "a"}, "merge")) == 1
    assert len(problems_of("merge", "dequantize")) == 2


def test_adapters_stack_and_merge_and_quantise_again():
    two = {"a": "lora", "b": "lora"}
    raw = [{"attach": "a"}, {"attach": "b"}, "merge", {"quantize": "nf4"}, {"attach": "a"}, "merge"]
    assert problems_of(*raw, adapters=two) == []


def test_a_near_adapter_is_suggested():
    (problem,) = problems_of({"attach": "guanco"}, adapters={"guanaco": "lora"})
    assert "did you mean 'guanaco'?" in problem


def test_a_whole_model_goes_directly_on_loaded_weights():
    both = {"whole": "full", "a": "lora"}
    assert problems_of({"attach": "whole"}, {"attach": "a"}, adapters=both) == []
    for raw in ([{"quantize": "nf4"}], [{"attach": "a"}], [{"attach": "a"}, "merge"]):
        (problem,) = problems_of(*raw, {"attach": "whole"}, adapters=both)
        assert "attach it directly after load" in problem


# --- JSON and words

_STEPS = st.one_of(
    st.builds(
        Quantize,
        type=st.sampled_from(["nf4", "fp4"]),
        double_quant=st.booleans(),
        compute_dtype=st.sampled_from(DTYPES),
        skip_modules=st.lists(st.sampled_from(["lm_head", "q_proj"]), unique=True).map(tuple),
    ),
    st.builds(Dequantize, st.sampled_from(DTYPES)),
    st.builds(Attach, st.sampled_from(["a", "b"])),
    st.just(Merge()),
)


@given(st.sampled_from(DTYPES), st.lists(_STEPS, max_size=6))
def test_json_gives_the_same_path_back(dtype, steps):
    path = (Load(dtype), *steps)
    assert path_from_json(json.loads(json.dumps(path_json(path)))) == path
    assert describe(path)


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["load", "quantize", "attach", "merge", "type", "x"]),
                    inner | st.sampled_from([*DTYPES, *QUANT_NAMES]),
                    max_size=3,
                )
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_any_raw_path_is_read_or_refused_with_reasons(raw):
    try:
        path = normalise(raw, dtype="fp16")
    except PathError as error:
        assert error.problems  # noqa: PT017
        assert all(problem.what for problem in error.problems)  # noqa: PT017
        return
    assert path_from_json(path_json(path)) == path
    check(path, adapters={"a": "lora"})


def test_json_leaves_defaults_out():
    path = path_of({"quantize": "nf4"}, "dequantize", {"attach": "a"}, "merge")
    assert path_json(path) == (
        {"load": "fp16"},
        {"quantize": "nf4"},
        {"dequantize": "fp16"},
        {"attach": "a"},
        {"merge": True},
    )
    odd = path_of({"quantize": {"type": "nf4", "compute_dtype": "fp32"}})
    assert path_json(odd)[1] == {"quantize": {"type": "nf4", "compute_dtype": "fp32"}}


def test_describe():
    path = path_of({"quantize": "nf4"}, "dequantize", {"attach": "a"}, "merge")
    assert describe(path) == "load fp16, quantise nf4, dequantise to fp16, attach a, merge"
    odd = {"type": "nf4", "double_quant": False, "compute_dtype": "fp32", "skip_modules": ["head"]}
    assert describe(path_of({"quantize": odd})) == (
        "load fp16, quantise nf4 (no double quantisation, computes in fp32, without head)"
    )


# --- the variant graph


def graph(*names):
    return VariantGraph({name: normalise(preset_path(name, ["a"]), dtype="fp16") for name in names})


def test_ancestors_are_the_longest_scored_beginning():
    variants = graph("fp16", "nf4", "nf4+adapter", "merged-4bit", "requantized")
    assert variants.nearest_ancestor("fp16") is None
    assert variants.nearest_ancestor("nf4") == "fp16"
    assert variants.nearest_ancestor("merged-4bit") == "nf4+adapter"
    assert variants.nearest_ancestor("requantized") == "nf4"
    assert describe(variants.edge("requantized")) == (
        "dequantise to fp16, attach a, merge, quantise nf4"
    )
    assert describe(variants.edge("fp16")) == "load fp16"


def test_stops_that_nobody_scored_collapse_into_one_edge():
    variants = graph("fp16", "merged-4bit")
    assert variants.nearest_ancestor("merged-4bit") == "fp16"
    assert variants.edge("merged-4bit") == (NF4, Attach("a"), Merge())


def test_two_names_of_one_path_are_no_ancestors_of_each_other():
    path = path_of({"quantize": "nf4"})
    variants = VariantGraph({"one": path, "two": path})
    assert variants.nearest_ancestor("one") is None
    assert variants.nearest_ancestor("two") is None


# --- group4, and adapters that need their own kind of weights

GROUP4 = {"quantize": "group4"}
KINDS = {"lora": "lora", "qa": "qa-lora", "q": "loftq", "p": "pissa", "r": "ready", "f": "full"}


# --- what several variants begin with


def beginnings(*names):
    made = [normalise(preset_path(name, ["a"]), dtype="fp16") for name in names]
    return [describe(start) for start in shared_beginnings(made)]


def test_a_beginning_is_shared_where_weights_are_written_down_for_a_quantisation():
    merged = "load fp16, quantise nf4, dequantise to fp16, attach a, merge"
    assert beginnings("nf4", "dequant-merged", "requantized") == [merged]
    assert beginnings("fp16-merged", "fp16-merged-nf4") == ["load fp16, attach a, merge"]
    assert beginnings(*(name for name in PRESETS if "+" not in name)) == [
        merged,
        "load fp16, attach a, merge",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("fp16", "nf4", "int8"),  # the base's own files are there already
        ("nf4", "nf4+adapter", "merged-4bit"),  # nothing is written down on their way
        ("nf4", "requantized"),  # one alone
        ("fp16-merged-nf4",),
    ],
)
def test_no_beginning_is_shared_where_nothing_would_be_saved(names):
    assert beginnings(*names) == []


def test_two_variants_of_one_path_share_all_of_it_that_is_written_down():
    path = path_of({"load": "fp16"}, {"attach": "a"}, "merge", {"quantize": "nf4"})
    assert shared_beginnings([path, path]) == (path[:3],)


def test_group4_has_a_group_size_and_no_double_quantisation():
    step = path_of(GROUP4)[1]
    assert step == Quantize("group4", double_quant=False, compute_dtype="fp16", group_size=64)
    raw = {"type": "group4", "group_size": 32, "optimize": "hqq", "compute_dtype": "fp32"}
    path = path_of({"quantize": raw})
    assert (path[1].group_size, path[1].optimize) == (32, "hqq")
    assert path_from_json(json.loads(json.dumps(path_json(path)))) == path
    assert path_json(path_of(GROUP4))[1] == {"quantize": {"type": "group4", "group_size": 64}}
    assert describe(path) == (
        "load fp16, quantise group4 (groups of 32, optimised by hqq, computes in fp32)"
    )


@pytest.mark.parametrize("raw", ["hqq", {"type": "hqq"}, {"type": "hqq", "group_size": 64}])
def test_hqq_is_group4_with_hqqs_solver(raw):
    path = path_of({"quantize": raw})
    assert path == path_of({"quantize": {"type": "group4", "optimize": "hqq"}})
    assert path[1] == Quantize(
        "group4", double_quant=False, compute_dtype="fp16", group_size=64, optimize="hqq"
    )
    assert path_from_json(json.loads(json.dumps(path_json(path)))) == path
    assert describe(path) == "load fp16, quantise group4 (optimised by hqq)"


def test_a_mapping_of_hqq_sets_what_group4_has():
    raw = {"group_size": 32, "compute_dtype": "fp32", "skip_modules": ["head"]}
    ours, theirs = (
        path_of({"quantize": {**raw, **kind}})
        for kind in ({"type": "hqq"}, {"type": "group4", "optimize": "hqq"})
    )
    assert ours == theirs
    assert (ours[1].group_size, ours[1].skip_modules) == (32, ("head",))


def test_hqq_has_presets_as_nf4_has():
    hqq = Quantize(
        "group4", double_quant=False, compute_dtype="bf16", group_size=64, optimize="hqq"
    )
    assert normalise(preset_path("hqq", []), dtype="bf16") == (Load("bf16"), hqq)
    for name, adapters in (("hqq+adapter", ["a"]), ("hqq+a", ["a", "b"])):
        path = normalise(preset_path(name, adapters), dtype="bf16")
        assert path == (Load("bf16"), hqq, Attach("a"))
    with pytest.raises(PathError, match="did you mean 'quantize: hqq'"):
        path_of({"load": "fp16"}, "hqq")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "group4", "group_size": 63}, "group_size is an even number of weights from 2"),
        ({"type": "group4", "group_size": True}, "group_size is an even number"),
        ({"type": "group4", "double_quant": True}, "group4 has no double quantisation"),
        ({"type": "group4", "optimize": "hqqq"}, "did you mean 'hqq'?"),
        ({"type": "nf4", "group_size": 64}, "group_size goes with group4 and hqq, not with nf4"),
        ({"type": "nf4", "optimize": "hqq"}, "optimize goes with group4, not with nf4"),
        ("HQQ", "write quantize: hqq, or {type: hqq, group_size: 64}"),
        ("hqq-int8", "quantize cannot be 'hqq-int8': HQQ is here in 4 bits"),
        ({"type": "hqq", "double_quant": True}, "hqq has no double quantisation"),
        ({"type": "hqq", "bits": 3}, "unknown key 'bits'"),
        ({"type": "hqq", "group_size": 63}, "group_size is an even number"),
        ({"type": "hqq", "optimize": "none"}, "optimize cannot be 'none'"),
        ("quanto-int8", "merge into quanto's weights does nothing"),
        ("torchao-int4", "only torchao-int8 is here"),
        ({"type": "torchao-int8", "double_quant": True}, "has no double quantisation"),
        ("gptq", "pip install gptqmodel"),
        ("AWQ", "pip install autoawq"),
    ],
)
def test_a_quantisation_that_cannot_be_says_why(fields, message):
    with pytest.raises(PathError) as error:
        path_of({"quantize": fields})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "raw",
    [
        [GROUP4, {"attach": "qa"}],
        [GROUP4, {"attach": "qa"}, "merge"],
        [GROUP4, {"attach": "qa"}, "merge", {"attach": "qa"}],
        [GROUP4, {"attach": "qa"}, "merge", "dequantize"],
        [GROUP4, {"attach": "qa"}, "merge", "dequantize", {"attach": "lora"}, "merge", GROUP4],
        [GROUP4, {"attach": "lora"}],
        [GROUP4, "dequantize", {"attach": "lora"}, "merge", GROUP4],
        [{"quantize": "hqq"}, "dequantize", {"attach": "lora"}, "merge", {"quantize": "hqq"}],
        [{"quantize": "hqq"}, {"attach": "qa"}, "merge"],
        [{"attach": "lora"}, "merge", GROUP4, {"attach": "qa"}, "merge"],
        [GROUP4, {"attach": "r"}, "merge"],
        [{"quantize": "nf4"}, {"attach": "q"}, "merge"],
        [{"quantize": "nf4"}, "dequantize", {"attach": "q"}, "merge", {"quantize": "nf4"}],
        [{"attach": "p"}, "merge", {"quantize": "nf4"}],
        [{"quantize": "nf4"}, {"attach": "lora"}, {"attach": "p"}],
    ],
    ids=str,
)
def test_legal_paths_of_every_kind_of_adapter(raw):
    assert problems_of(*raw, adapters=KINDS) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([GROUP4, {"attach": "lora"}, "merge"], "step 3: 'lora' cannot be merged into group4"),
        (
            [{"quantize": "hqq"}, {"attach": "lora"}, "merge"],
            "step 3: 'lora' cannot be merged into group4 weights (hqq is such): only an adapter "
            "with 'flavour: qa-lora' is constant in every group, so that its merge moves the zeros "
            "and leaves the codes (put 'dequantize' before 'attach', or train it so)",
        ),
        (
            [GROUP4, {"attach": "qa"}, {"attach": "lora"}, "merge"],
            "step 4: 'lora' cannot be merged into group4",
        ),
        ([{"attach": "qa"}], "step 1: 'qa' is a QA-LoRA adapter, and the weights are not quant"),
        ([{"quantize": "nf4"}, {"attach": "qa"}], "step 2: 'qa' is a QA-LoRA adapter, and the wei"),
        ([GROUP4, "dequantize", {"attach": "qa"}], "step 3: 'qa' is a QA-LoRA adapter"),
        ([GROUP4, {"quantize": "nf4"}], "step 2: the weights are group4 already"),
        ([GROUP4, {"attach": "qa"}, "dequantize"], "step 3: dequantize with 'qa' attached"),
        ([{"attach": "q"}], "step 1: 'q' was initialised by LoftQ with what quantising lost"),
        ([{"attach": "p"}, {"attach": "p2"}], "step 2: 'p' and 'p2' were initialised by PiSSA"),
        ([{"attach": "p"}, "merge", {"attach": "p"}], "step 3: 'p' and 'p' were initialised by"),
        ([{"attach": "f"}, {"attach": "p"}], "step 2: 'p' was initialised by PiSSA and needs"),
    ],
    ids=str,
)
def test_illegal_paths_of_every_kind_of_adapter(raw, message):
    problems = problems_of(*raw, adapters={**KINDS, "p2": "pissa"})
    assert len(problems) == 1
    assert problems[0].startswith(message)
