"""Reading YAML: lines, layers, files, and that no file does more than be refused."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from evalkit.errors import EvalkitError, SuiteError, UsageError
from evalkit.suite import load_suite, suite_from_json
from evalkit.suite.layers import is_data_file, read_suite_tree

BASE = """\
name: base
model: {source: some/model, revision: abc, dtype: bf16}
data:
  train: {dataset: org/set, split: train, revision: abc, text: body}
  test: {dataset: org/set, split: test, cluster: who, limit: 9}
adapters:
  mine:
    on: nf4
    data: train
    lora: {r: 8}
    training: {steps: 3, seed: 7}
variants: [fp16, nf4]
metrics: {perplexity: {on: test}}
"""


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a file and returns its path."""

    def _write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


@pytest.fixture
def base(write):
    return write("base.yaml", BASE)


# --- not a suite


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("name: a\n\tmodel: b\n", 2, "indent with spaces, not tabs"),
        ("name: [a\n", 2, "not YAML"),
        ("name: a\nname: b\n", 2, "name: the key is there already (line 1)"),
        ("model: {a: 1, a: 2}\n", 1, "model.a: the key is there already"),
        ("name: a\n---\nname: b\n", 2, "not YAML"),
        ("- a\n- b\n", 1, "must be a mapping of keys"),
        ("just text\n", 1, "must be a mapping of keys"),
        ("", 1, "the file is empty"),
        ("# nothing\n", 1, "the file is empty"),
        ("name: *who\n", 1, "undefined alias"),
        ("? [a, b]\n: c\n", 1, "a key is plain text"),
        (b"name: a\nmodel: \xff\xfe\n", 2, "not UTF-8 text"),
        ("name: !!python/object/apply:os.system [touch x]\n", 1, "name: the tag !!python/object"),
        ("name: !custom a\n", 1, "name: the tag !custom is not allowed"),
        ("name: !!binary aGk=\n", 1, "name: the tag !!binary is not allowed"),
        ("name: !!set {a}\n", 1, "the tag !!set is not allowed"),
        ("name: &a [*a]\n", None, "nested more than 20 deep"),
        ("name: " + "[" * 3000, None, "nested too deeply"),
        ("name: " + "[" * 25 + "]" * 25, 1, "nested more than 20 deep"),
        ('name: "\\UFFFFFFFF"\n', None, "not YAML"),
        ("name: \x00\n", None, "not YAML"),
    ],
)
def test_what_is_no_suite_is_refused_with_its_line(write, text, line, message):
    path = write("bad.yaml", text)
    with pytest.raises(SuiteError) as error:
        load_suite(path)
    problem = error.value.problems[0]
    assert message in str(problem)
    if line is not None:
        assert problem.place == f"{path}:{line}"
    assert problem.place.startswith(str(path))


def test_anchors_that_multiply_are_bounded(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(SuiteError, match="more than 20000 values"):
        load_suite(write("laughs.yaml", "\n".join(lines)))


def test_a_huge_file_is_refused_unread(write):
    with pytest.raises(SuiteError, match="at most 1000000"):
        load_suite(write("huge.yaml", "#" * 1_000_001))


def test_a_missing_file_is_a_mistake_of_the_command_line(tmp_path):
    with pytest.raises(UsageError, match="there is no such suite file"):
        load_suite(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="there is no such suite file: it is a folder"):
        load_suite(tmp_path)


def test_a_similar_name_is_told(write, tmp_path, monkeypatch):
    near = write("guanaco.yaml", "name: near\n")
    write("action.yml", "name: of something else\n")
    write("guanco.txt", "no suite\n")
    for wrong in ("guanco.yaml", "guanaco", "guanaco.yml"):
        with pytest.raises(UsageError) as error:
            load_suite(tmp_path / wrong)
        told = f"{tmp_path / wrong}: there is no such suite file (did you mean '{near}'?)"
        assert str(error.value) == told
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\(did you mean 'guanaco\.yaml'\?\)"):
        load_suite(Path("Guanaco.yaml"))
    for other in ("llama.yaml", "nowhere/guanaco.yaml"):
        with pytest.raises(UsageError, match=r"there is no such suite file$"):
            load_suite(tmp_path / other)
    with pytest.raises(SuiteError, match=r"there is no file .*guanaca.* \(did you mean '.*guanaco"):
        load_suite(write("top.yaml", "extends: guanaca.yaml\n"))


def test_anchors_a_byte_order_mark_and_quoted_digits_are_fine(write):
    text = BASE.replace("{r: 8}", "&shape {r: 8}").replace("mine:", "first: &it", 1)
    text = "\ufeff" + text.replace("variants:", "  second: *it\nvariants:")
    suite = load_suite(write("a.yaml", text))
    assert suite.adapters["first"] == suite.adapters["second"]


def test_another_yaml_version_changes_nothing(write):
    suite = load_suite(write("a.yaml", "%YAML 1.1\n---\n" + BASE.replace("body", "no")))
    assert suite.data["train"].text == "no"


# --- extends


def test_layers_merge_lists_replace_and_null_deletes(base, write):
    top = write(
        "top.yaml",
        "extends: base.yaml\nname: top\nvariants: [int8]\n"
        "data: {test: {limit: null, cluster: null}, more: x.jsonl}\n"
        "adapters: {mine: {lora: {alpha: 4}}}\n",
    )
    suite = load_suite(top)
    assert suite.name == "top"
    assert [variant.name for variant in suite.variants] == ["int8"]
    assert (suite.data["test"].limit, suite.data["test"].cluster) == (None, None)
    assert suite.data["test"].split == "test"
    assert (suite.adapters["mine"].lora.r, suite.adapters["mine"].lora.alpha) == (8, 4)
    assert set(suite.data) == {"train", "test", "more"}


def test_the_text_names_every_layer(base, write):
    top = write("top.yaml", "extends: base.yaml\nname: top # mine\n")
    text = load_suite(top, overrides=["model.dtype=fp16"]).text
    assert text.index(f"# {base}") < text.index("some/model") < text.index(f"# {top}")
    assert "name: top # mine" in text
    assert text.rstrip().endswith("# --set model.dtype=fp16")


def test_problems_name_the_layer_that_wrote_them(base, write, tmp_path):
    base.write_text(BASE.replace("{r: 8}", "{r: 0}"))
    top = write("sub/top.yaml", "extends: ../base.yaml\n\nmodel: {dtype: fp8}\n")
    with pytest.raises(SuiteError) as error:
        load_suite(top)
    assert [problem.place for problem in error.value.problems] == [
        f"{tmp_path / 'base.yaml'}:10",
        f"{top}:3",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nowhere.yaml\n", "top.yaml:1: extends: there is no file"),
        ("extends: [a, b]\n", "extends: must be the name of one suite file"),
        ("extends: top.yaml\n", "they go in a circle"),
        ("extends: round.yaml\n", "round.yaml:1: extends: .*they go in a circle"),
        ('extends: "a\\0b"\n', "there is no file"),
        ("extends: ~nobody-here/x.yaml\n", "there is no file"),
    ],
)
def test_bad_extends(write, text, message):
    write("round.yaml", "extends: top.yaml\n")
    with pytest.raises(SuiteError, match=message):
        load_suite(write("top.yaml", text))


def test_a_long_tower_is_refused(write, base):
    write("s0.yaml", "extends: base.yaml\n")
    for level in range(1, 12):
        write(f"s{level}.yaml", f"extends: s{level - 1}.yaml\n")
    assert load_suite(base.with_name("s8.yaml")).name == "base"
    with pytest.raises(SuiteError, match="more than 10 files"):
        load_suite(base.with_name("s11.yaml"))


def test_extends_null_is_nothing(write):
    assert load_suite(write("a.yaml", "extends: null\n" + BASE)).name == "base"


# --- what goes with what


def test_another_data_set_takes_its_revision_and_a_file_its_split(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_suite(base, overrides=["data.train=new.jsonl", "data.test=org/other"]).data
    assert data["train"].dataset == str(tmp_path / "new.jsonl")
    assert (data["train"].split, data["train"].revision, data["train"].text) == (None, None, "body")
    assert data["test"].dataset == "org/other"
    assert (data["test"].split, data["test"].cluster, data["test"].limit) == ("test", "who", 9)


def test_setting_the_leaf_is_the_same(base):
    one = load_suite(base, overrides=["data.test=/x/new.jsonl"])
    two = load_suite(base, overrides=["data.test.dataset=/x/new.jsonl"])
    assert one.data == two.data
    same = load_suite(base, overrides=["data.train.dataset=org/set"])
    assert same.data["train"].revision == "abc"


def test_a_later_layer_may_say_it_again(base):
    overrides = ["data.test=builtin:python-reference", "data.test.split=train"]
    assert load_suite(base, overrides=overrides).data["test"].split == "train"


def test_another_model_takes_its_revision(base):
    model = load_suite(base, overrides=["model=./here"]).model
    assert (model.revision, model.dtype) == (None, "bf16")


def test_an_adapter_from_elsewhere_replaces_its_training(base):
    adapter = load_suite(base, overrides=["adapters.mine.from=org/adapter"]).adapters["mine"]
    assert (adapter.from_, adapter.training, adapter.on_path) == ("org/adapter", None, None)


def test_epochs_replace_steps(base):
    training = load_suite(base, overrides=["adapters.mine.training.epochs=2"]).adapters["mine"]
    assert (training.training.steps, training.training.epochs) == (None, 2.0)
    assert training.training.seed == 7


def test_named_corpora_replace_a_single_one(base):
    named = "metrics.perplexity={a: {on: test}, b: {on: train}}"
    again = "metrics.perplexity.b={max_length: 64}"
    perplexity = load_suite(base, overrides=[named, again]).metrics.perplexity
    assert (perplexity["perplexity/b"].on, perplexity["perplexity/b"].max_length) == ("train", 64)
    single = load_suite(base, overrides=[named, "metrics.perplexity={on: test}"])
    assert list(single.metrics.perplexity) == ["perplexity"]
    fewer = load_suite(base, overrides=[named, "metrics.perplexity.a=null"])
    assert list(fewer.metrics.perplexity) == ["perplexity/b"]


def test_a_mapping_over_a_string_keeps_the_string(write):
    low = BASE.replace("{source: some/model, revision: abc, dtype: bf16}", "some/model")
    write("low.yaml", low)
    model = load_suite(write("top.yaml", "extends: low.yaml\nmodel: {dtype: fp32}\n")).model
    assert (model.source, model.dtype) == ("some/model", "fp32")


# --- files


def test_files_are_relative_to_the_layer_that_wrote_them(write, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    low = BASE.replace("org/set, split: train, revision: abc", "data/low.CSV")
    low = low.replace("some/model, revision: abc", "./weights")
    write("low/base.yaml", low)
    top = write(
        "top/top.yaml",
        "extends: ../low/base.yaml\ndata: {more: ../up.txt, built: builtin:python-reference}\n"
        "adapters: {there: {from: ./adapter}}\n",
    )
    suite = load_suite(top, overrides=["data.cwd=here.parquet", "data.home=~/x.json"])
    assert suite.model.source == str(tmp_path / "low/weights")
    assert suite.data["train"].dataset == str(tmp_path / "low/data/low.CSV")
    assert suite.data["more"].dataset == str(tmp_path / "up.txt")
    assert suite.data["built"].dataset == "builtin:python-reference"
    assert suite.data["test"].dataset == "org/set"
    assert suite.data["cwd"].dataset == str(tmp_path / "cwd/here.parquet")
    assert suite.data["home"].dataset.endswith("/x.json")
    assert "~" not in suite.data["home"].dataset
    assert suite.adapters["there"].from_ == str(tmp_path / "top/adapter")


@pytest.mark.parametrize(
    ("name", "is_file"),
    [
        ("a.jsonl", True),
        ("./folder", True),
        ("/x/y", True),
        ("org/set", False),
        ("builtin:python-reference", False),
        (None, False),
    ],
)
def test_what_is_a_file(name, is_file):
    assert is_data_file(name) is is_file


# --- --set


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model", "write --set dotted.key=VALUE"),
        ("=x", "write --set dotted.key=VALUE"),
        ("model..dtype=x", "write --set dotted.key=VALUE"),
        ("model.dtype=", "no value after '='"),
        ("data.test=*.jsonl", "quote the value if it is text"),
        ("name=[a", "quote the value if it is text"),
        ("name=!!python/name:os.system x", "the tag"),
    ],
)
def test_malformed_overrides_are_mistakes_of_the_command_line(base, override, message):
    with pytest.raises(UsageError) as error:
        load_suite(base, overrides=[override])
    assert message in str(error.value)
    assert override in str(error.value)


def test_a_typo_is_not_silently_deleted(base):
    with pytest.raises(SuiteError, match="did you mean 'cluster'"):
        load_suite(base, overrides=["data.test.clster=null"])


def test_overrides_are_laid_in_order(base):
    overrides = ["model.dtype=fp32", "model.dtype=fp16", "description=a=b"]
    suite = load_suite(base, overrides=overrides)
    assert suite.model.dtype == "fp16"
    assert suite.description == "a=b"


# --- any input


def test_the_tree_locates_what_was_not_written_at_its_parent(base):
    tree = read_suite_tree(base)
    assert tree.locate(("data", "test", "limit")).place == f"{base}:5"
    assert tree.locate(("data", "test", "nothing", 3)).place == f"{base}:5"
    assert tree.locate(("variants", 99)).place == f"{base}:12"


_WORDS = st.sampled_from(
    """
    name model data adapters variants metrics gates extends source dtype dataset split cluster on
    training lora steps epochs method perplexity samples prompts protocol max_length metric
    variant against max_increase max min fp16 nf4 int8 nf4+adapter merged-4bit quantize attach
    merge load full stream chunks test train 1% 2pp ./x a.jsonl org/set from from_ text
    """.split()  # noqa: SIM905
)
_SCALARS = st.one_of(
    _WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_WORDS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)
_FAST = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def load_or_refuse(path, overrides=()):
    """Load a suite; a valid one must give the same JSON back, any other an EvalkitError."""
    try:
        suite = load_suite(path, overrides=overrides)
    except EvalkitError as error:
        assert str(error)  # noqa: PT017
        assert error.exit_code == 2  # noqa: PT017
        return None
    written = suite.to_json()
    again = suite_from_json(json.loads(json.dumps(written, allow_nan=False)), place="x")
    assert again.to_json() == written
    assert [variant.path for variant in again.variants] == [v.path for v in suite.variants]
    return suite


@_FAST
@given(raw=_ANYTHING)
def test_any_data_is_a_suite_or_explained(raw, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    load_or_refuse(path)


@_FAST
@given(text=st.text(alphabet=st.sampled_from("abon:- \n\t[]{}&*!?|>'\"%@#,0179.e~\\"), max_size=60))
def test_any_text_is_a_suite_or_explained(text, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    load_or_refuse(path)


@_FAST
@given(blob=st.binary(max_size=60))
def test_any_bytes_are_a_suite_or_explained(blob, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_bytes(blob)
    load_or_refuse(path)


def _places(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(below, (*place, key))


_VALID = YAML(typ="safe", pure=True).load(BASE)
_VALID["gates"] = [{"metric": "perplexity", "variant": "nf4", "against": "fp16",
                    "max_increase": "1%"}]  # fmt: skip


@_FAST
@given(place=st.sampled_from([place for place in _places(_VALID) if place]), value=_ANYTHING)
def test_a_valid_suite_with_one_thing_replaced_is_loaded_or_explained(place, value, tmp_path):
    raw = json.loads(json.dumps(_VALID))
    target = raw
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    load_or_refuse(path)


@_FAST
@given(key=st.lists(_WORDS, min_size=1, max_size=3).map(".".join), value=st.text(max_size=10))
def test_any_override_is_applied_or_explained(key, value, tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE, encoding="utf-8")
    load_or_refuse(path, overrides=[f"{key}={value}"])


def budgets():
    amounts = st.floats(min_value=-0.99, max_value=1e6, allow_nan=False).map(lambda x: round(x, 9))
    return st.one_of(amounts.map(lambda x: f"{x:.9f}%"), amounts)


@_FAST
@given(
    variants=st.lists(
        st.sampled_from(["fp16", "nf4", "int8", "nf4+adapter", "merged-4bit", "requantized"]),
        min_size=2, max_size=6, unique=True,
    ),
    budget=budgets(),
    dtype=st.sampled_from(["fp16", "bf16", "fp32", "auto"]),
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1.0),
)  # fmt: skip
def test_valid_suites_round_trip(variants, budget, dtype, steps, rate, tmp_path):
    raw = json.loads(json.dumps(_VALID)) | {"variants": variants}
    raw["model"]["dtype"] = dtype
    raw["adapters"]["mine"]["training"] = {"steps": steps, "learning_rate": rate}
    raw["gates"][0] |= {"variant": variants[0], "against": variants[1], "max_increase": budget}
    path = tmp_path / "valid.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    suite = load_or_refuse(path)
    assert suite is not None
    assert suite.adapters["mine"].training.learning_rate == rate
    assert suite.gates[0].variant == variants[0]
    again = suite_from_json(suite.to_json(), place="x")
    assert again.gates[0].max_increase == suite.gates[0].max_increase
