"""Every bad input that is tried, and what a user gets: run by tests, shown in docs/bad-inputs.md.

A new case is one more `BadInput` in one of the lists, or a list of its own in `EVERY`; then write
the page again with `python docs/generate_bad_inputs.py`. Nothing here is imported by evalkit.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evalkit.store import Store
from evalkit.store.tables import VERSION_TABLE

RUN = ("run", "suite.yaml")
LIST = ("runs", "--db", "runs.db")
SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWx"
"""No token of anybody's."""

Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class BadInput:
    """One input that means harm, or an accident."""

    name: str
    """For the test's id."""
    tried: str
    """What it is, for the page."""
    message: str
    """A part of what is printed, word for word; empty where it simply works."""
    code: int
    """The exit code."""
    prepare: Prepare
    """Changes the workplace: `suite.yaml`, `test.jsonl` and `model/` are there and are sound."""
    command: tuple[str, ...] = RUN
    never: tuple[str, ...] = ()
    """What must be neither printed nor in the store and the reports."""
    files_never: tuple[str, ...] = field(default=())
    """Files of the workplace that must not come to be: they would prove that code was run."""


def suite_text(*, model: str = "{source: ./model, dtype: fp32}", extra: str = "") -> str:
    """The smallest suite that scores."""
    return (
        f"name: small\nmodel: {model}\ndata: {{test: test.jsonl}}\nvariants: [fp16]\n"
        "metrics:\n  perplexity: {on: test, max_length: 64}\n  footprint: false\n"
        f"  reload_check: false\n{extra}"
    )


def set_up(folder: Path) -> None:
    """Writes what every case starts from, beside the `model` that is there."""
    (folder / "suite.yaml").write_text(suite_text())
    rows = [{"text": f"The words of document {n} are scored one by one."} for n in range(4)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ----------------------------------------------------------------------------- ways to spoil


def suite(text: str) -> Prepare:
    """Another suite."""
    return lambda folder: (folder / "suite.yaml").write_text(text) and None


def data(content: bytes, name: str = "test.jsonl") -> Prepare:
    """Other data."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if name != "test.jsonl":
            text = suite_text().replace("test.jsonl", name)
            (folder / "suite.yaml").write_text(text)

    return write


def files(contents: Mapping[str, str]) -> Prepare:
    """More files; a folder is made where it is not there."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    return write


def header(change: Callable[[dict[str, dict[str, object]]], None]) -> Prepare:
    """The model's safetensors with another header, and the same bytes behind it."""

    def write(folder: Path) -> None:
        file = folder / "model" / "model.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        told = json.loads(content[8 : 8 + length])
        change(told)
        text = json.dumps(told).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return write


def model_file(name: str, change: Callable[[bytes], bytes]) -> Prepare:
    """One file of the model changed."""

    def write(folder: Path) -> None:
        file = folder / "model" / name
        file.write_bytes(change(file.read_bytes()))

    return write


def model_config(**fields: object) -> Prepare:
    """More in the model's config.json."""
    return model_file(
        "config.json", lambda text: json.dumps({**json.loads(text), **fields}).encode()
    )


def code_beside_the_weights(folder: Path) -> None:
    """A configuration that names Python in the same folder."""
    model_config(model_type="own", auto_map={"AutoConfig": "evil.Config"})(folder)
    files({"model/evil.py": "open('run-by-evil', 'w')\n"})(folder)


def link_out(inside: str) -> Prepare:
    """A file of the model moved away, with a link to it left behind."""

    def write(folder: Path) -> None:
        (folder / "elsewhere").mkdir()
        target = folder / "elsewhere" / Path(inside).name
        (folder / inside).rename(target)
        (folder / inside).symlink_to(target)

    return write


def pickled(folder: Path) -> None:
    """The weights as a pickle alone."""
    (folder / "model" / "model.safetensors").rename(folder / "model" / "pytorch_model.bin")


def spoil_weight(value: float) -> Prepare:
    """One number of the base weights replaced."""

    def write(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        file = folder / "model" / "model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"][3] = value
        save_file(tensors, file, metadata={"format": "pt"})

    return write


def index(**places: str) -> Prepare:
    """An index of shards over the one file."""
    told = json.dumps({"weight_map": {"model.norm.weight": "model.safetensors", **places}})
    return files({"model/model.safetensors.index.json": told})


def adapter(
    *, value: float = 0.01, width: int = 64, rename: str | None = None, **config: object
) -> Prepare:
    """A ready-made adapter, attached: as peft writes it, but for what is asked."""

    def write(folder: Path) -> None:
        from safetensors.numpy import save_file

        (folder / "ready").mkdir()
        tensors = {}
        for layer in range(2):
            module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            tensors[f"{module}.lora_A.weight"] = np.full((4, width), 0.01, np.float32)
            tensors[f"{module}.lora_B.weight"] = np.full((64, 4), value, np.float32)
        save_file(tensors, folder / "ready" / (rename or "adapter_model.safetensors"))
        told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
        told |= {"target_modules": ["q_proj"], "base_model_name_or_path": None, **config}
        (folder / "ready" / "adapter_config.json").write_text(json.dumps(told))
        text = suite_text(extra="adapters: {ready: {from: ./ready}}\n")
        text = text.replace("[fp16]", "\n  - on: [load: fp32, attach: ready]")
        (folder / "suite.yaml").write_text(text)

    return write


TASK = """\
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: samples.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{text}}"
doc_to_target: label
doc_to_choice: [" yes", " no"]
"""
EVIL = "from pathlib import Path\nPath('run-by-evil').touch()\ndef run(*args): return args\n"


def task(text: str, *, name: str = "own", row: object = None, **more: str) -> Prepare:
    """A definition of lm-eval's, with its samples, and Python that would leave a file behind."""
    sample = json.dumps({"text": "Is it so?", "label": 0} if row is None else row)

    def write(folder: Path) -> None:
        contents = {"tasks/own.yaml": text, "tasks/samples.jsonl": f"{sample}\n" * 4}
        leaves = EVIL.replace("'run-by-evil'", repr(str(folder / "run-by-evil")))
        files({**contents, "tasks/evil.py": leaves, **more})(folder)
        extra = f"tasks: [{{task: {name}, include_path: tasks}}]\n"
        (folder / "suite.yaml").write_text(suite_text(extra=extra))

    return write


def leaked(folder: Path) -> None:
    """An adapter that learns what is scored."""
    text = suite_text(
        extra="  leakage: refuse\nadapters:\n  tuned:\n    on: nf4\n    data: test\n"
        "    training: {steps: 1}\n"
    )
    (folder / "suite.yaml").write_text(text.replace("[fp16]", "[nf4+adapter]"))


def outside_of_the_checkout(folder: Path) -> None:
    """A suite in a checkout that extends a file of the machine's."""
    (folder / "secrets.yaml").write_text(f"token: {SECRET}\n")
    (folder / "checkout" / ".git").mkdir(parents=True)
    text = "extends: ../secrets.yaml\ntoken: null\n" + suite_text(model="../model")
    (folder / "checkout" / "suite.yaml").write_text(text)


def not_a_suite(folder: Path) -> None:
    """A suite that extends a list of passwords."""
    (folder / "passwd").write_text("root:x:0:0:a-secret-of-this-machine\n")
    (folder / "suite.yaml").write_text("extends: ./passwd\n" + suite_text())


def gguf(change: Callable[[bytes], bytes]) -> Prepare:
    """A GGUF file of one tensor, changed."""

    def write(folder: Path) -> None:
        write_gguf(folder / "model.gguf")
        file = folder / "model.gguf"
        file.write_bytes(change(file.read_bytes()))
        (folder / "suite.yaml").write_text(suite_text(model="./model.gguf"))

    return write


def write_gguf(file: Path) -> None:
    """A whole GGUF file with two tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    for name in ("token_embd.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones((32, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ----------------------------------------------------------------------------- the cases

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

SUITES = [
    BadInput("python tag", "A tag that would build an object: `!!python/object/apply:os.system`",
        "the tag !!python/object/apply:os.system is not allowed: a suite is plain data",
        2, suite(suite_text() + "x: !!python/object/apply:os.system ['touch run-by-evil']\n"),
        files_never=("run-by-evil",)),
    BadInput("aliases that multiply", "Nine anchors, each nine times the one before",
        "more than 20000 values, counting what its anchors repeat", 2, suite(BOMB + suite_text())),
    BadInput("huge suite", "A suite of two megabytes", "a suite has at most 1000000", 2,
        suite(suite_text() + "#" * 2_000_000)),
    BadInput("deep suite", "Lists a thousand deep", "nested", 2,
        suite(suite_text() + "tasks: " + "[" * 1000 + "]" * 1000)),
    BadInput("a suite that is not UTF-8", "Bytes that are no UTF-8", "not UTF-8 text", 2,
        lambda folder: (folder / "suite.yaml").write_bytes(b"name: \xff\xfe\n") and None),
    BadInput("extends no suite", "`extends:` of a file that is no suite, such as `/etc/passwd`",
        "is no suite (allowed: .yaml, .yml)", 2, not_a_suite, never=("a-secret-of-this-machine",)),
    BadInput("extends out of the checkout", "`extends:` of a YAML file outside of the checkout",
        "lies outside of the checkout", 2, outside_of_the_checkout,
        command=("run", "checkout/suite.yaml"), never=(SECRET,)),
    BadInput("remote code", "`trust_remote_code: true` in the suite alone",
        "Only the command line may allow that: add --trust-remote-code", 2,
        suite(suite_text(model="{source: ./model, trust_remote_code: true}"))),
    BadInput("token in a model's URL", "`model: https://user:TOKEN@host/name`",
        "https://***@hub.example/name", 2,
        suite(suite_text(model=f"https://user:{SECRET}@hub.example/name")), never=(SECRET,)),
    BadInput("password in a data URL", "`data: https://user:PASSWORD@host/file.jsonl`",
        "***@hub.example/x.jsonl: no such file", 2,
        suite(suite_text().replace("test.jsonl", "https://user:pass-word-1@hub.example/x.jsonl")),
        never=("pass-word-1",)),
    BadInput("token as a value", "A token where the suite wants something else",
        "cannot be '***'", 2, suite(suite_text(model=f"{{source: ./model, dtype: {SECRET}}}")),
        never=(SECRET,)),
    BadInput("token in a comment", "A token in a comment of a suite that runs: stored as `***`",
        "", 0, suite(f"# HF_TOKEN={SECRET}\n" + suite_text()), never=(SECRET,)),
    BadInput("token on the command line", "A token in `--set`", "no such file", 2,
        lambda folder: None, command=(*RUN, "--set", f"data.test={SECRET}.jsonl"),
        never=(SECRET,)),
]  # fmt: skip

TASKS = [
    BadInput("a function", "`!function` in a definition under `include_path`",
        "!function evil.run: this definition wants to run code that is not lm-eval's. Only the "
        "command line may allow that: add --trust-remote-code", 2,
        task(TASK + "process_docs: !function evil.run\n"), files_never=("run-by-evil",)),
    BadInput("a function of a group", "`!function` in a group",
        "!function evil.run: this definition wants to run code", 2,
        task(TASK, name="several", **{"tasks/group.yaml":
            "group: several\ntask: [own]\nmetadata: {version: !function evil.run}\n"}),
        files_never=("run-by-evil",)),
    BadInput("a function in an include", "`!function` in a file that a definition includes",
        "!function evil.run: this definition wants to run code", 2,
        task("include: base\n" + TASK,
             **{"tasks/base": "process_docs: !function evil.run\n"}),
        files_never=("run-by-evil",)),
    BadInput("a function that nobody asks for", "`!function` in another definition of the folder",
        "", 0, task(TASK, **{"tasks/other.yaml":
            TASK.replace("task: own", "task: other") + "process_docs: !function evil.run\n"}),
        files_never=("run-by-evil",)),
    BadInput("a python tag in a definition", "`!!python/object/apply` in a definition",
        "not YAML that lm-eval reads: could not determine a constructor for the tag", 2,
        task(TASK + "metadata: !!python/object/apply:os.system ['touch run-by-evil']\n"),
        files_never=("run-by-evil",)),
    BadInput("a template that reaches for code", "A Jinja template that reaches for `os`",
        "a template of its definition reaches for code", 2,
        task(TASK.replace('"{{text}}"',
            "\"{{ cycler.__init__.__globals__.os.system('touch run-by-evil') }}{{text}}\"")),
        files_never=("run-by-evil",)),
    BadInput("a metric that is a script", "A metric that is none of lm-eval's",
        "would be fetched as a script", 2, task(TASK + "metric_list: [{metric: owner/evil}]\n")),
    BadInput("a definition that multiplies", "Anchors that multiply in a definition",
        "more than 200,000 values, counting what its anchors repeat", 2, task(BOMB + TASK)),
    BadInput("a definition that holds itself", "An anchor that holds itself",
        "nested too deeply, or an anchor that holds itself", 2,
        task(TASK + "metadata: &a {a: *a}\n")),
    BadInput("an include of another file", "`include:` of a file that is no definition",
        "not YAML that lm-eval reads", 2,
        task("include: ../passwd\n" + TASK,
             **{"passwd": "root:x:0:0\n\tname: [a-secret-of-this-machine\n"}),
        never=("a-secret-of-this-machine",)),
    BadInput("labels are missing", "Samples without the column of labels",
        "doc_to_target: wants the column 'label'", 2, task(TASK, row={"text": "Is it so?"})),
]  # fmt: skip


def _first(told: dict[str, dict[str, object]]) -> dict[str, object]:
    return told["model.norm.weight"]


def _shift(told: dict[str, dict[str, object]]) -> None:
    entry = told["model.layers.1.self_attn.q_proj.weight"]
    entry["data_offsets"] = [offset - 4 for offset in entry["data_offsets"]]


WEIGHTS = [
    BadInput("a pickle", "Weights that are pickled (`.bin`)",
        "pytorch_model.bin is a pickle, which can run code when it is read. Convert it where you "
        "trust it", 3, pickled),
    BadInput("a cut file", "safetensors cut short", "long where its header promises", 3,
        model_file("model.safetensors", lambda content: content[:-1000])),
    BadInput("a header longer than the file", "A header whose length is more than the file",
        "is no safetensors file: its header is damaged", 3,
        model_file("model.safetensors", lambda content: b"\xff" * 7 + b"\0" + content[8:])),
    BadInput("offsets outside of the file", "A tensor that lies behind the file's end",
        "long where its header promises", 3,
        header(lambda told: _first(told).update(data_offsets=[10**9, 10**9 + 256]))),
    BadInput("tensors that overlap", "A tensor on top of another",
        "model.layers.1.self_attn.q_proj.weight overlaps another tensor", 3, header(_shift)),
    BadInput("a shape that lies", "A shape that is not as long as the tensor",
        "model.norm.weight is 256 bytes long, which is not F32 of shape [6400]", 3,
        header(lambda told: _first(told).update(shape=[6400]))),
    BadInput("a dtype that lies", "A dtype that is not as long as the tensor",
        "model.norm.weight is 256 bytes long, which is not F16 of shape [64]", 3,
        header(lambda told: _first(told).update(dtype="F16"))),
    BadInput("a dtype that is none", "A dtype that the format does not have",
        "its dtype 'X99' is not known", 3, header(lambda told: _first(told).update(dtype="X99"))),
    BadInput("a link out of the folder", "A link that leads out of the model's folder",
        "is a link that leads out of the folder", 3, link_out("model/model.safetensors")),
    BadInput("a tokenizer that is a link", "A tokenizer that is a link out of the folder",
        "is a link that leads out of the folder", 3, link_out("model/tokenizer.json")),
    BadInput("a missing shard", "An index that names a file which is not there",
        "model-2.safetensors is missing, though the index names it", 3,
        index(other="model-2.safetensors")),
    BadInput("an index that leads out", "An index that names `../other.safetensors`",
        "only files in the same folder are read", 3, index(other="../other.safetensors")),
    BadInput("a configuration that is no JSON", "`config.json` cut short", "is not readable JSON",
        3, model_file("config.json", lambda content: content[:50])),
    BadInput("code beside the weights", "`auto_map` in config.json, without the flag",
        "run with --trust-remote-code", 3,
        code_beside_the_weights,
        files_never=("run-by-evil",)),
    BadInput("weights that are not finite", "A base weight that is NaN",
        "hold numbers that are not finite", 3, spoil_weight(float("nan"))),
    BadInput("a cut GGUF file", "A GGUF file cut in its tensors", "is not a whole GGUF file", 3,
        gguf(lambda content: content[:-5000])),
    BadInput("a cut GGUF header", "A GGUF file cut in its header", "is not a whole GGUF file", 3,
        gguf(lambda content: content[:60])),
    BadInput("no GGUF file", "A text file that is named `.gguf`", "is not a whole GGUF file", 3,
        gguf(lambda content: b"not a model at all")),
]  # fmt: skip

ADAPTERS = [
    BadInput("a pickled adapter", "An adapter that is pickled (`.bin`)",
        "holds no adapter_model.safetensors. Pickled adapters (.bin) are not read", 3,
        adapter(rename="adapter_model.bin")),
    BadInput("an adapter with NaN", "An adapter with a number that is NaN",
        "holds numbers that are not finite", 3, adapter(value=float("nan"))),
    BadInput("an adapter with infinity", "An adapter with a number that is infinite",
        "holds numbers that are not finite", 3, adapter(value=float("inf"))),
    BadInput("an adapter of another shape", "An adapter of a wider model", "does not fit", 3,
        adapter(width=96)),
    BadInput("an adapter that names code", "`megatron_core` in adapter_config.json",
        "which names code to import; such adapters are not attached", 3,
        adapter(megatron_config={"a": 1}, megatron_core="evil")),
    BadInput("an adapter of another base", "`base_model_name_or_path` of somewhere else: not asked",
        "", 0, adapter(base_model_name_or_path="https://hub.example/evil",
                       auto_mapping={"base_model_class": "X", "parent_library": "evil"})),
]  # fmt: skip

DATA = [
    BadInput("data that is not UTF-8", "A file that is not UTF-8", "test.jsonl:2: not UTF-8 text",
        2, data(b'{"text": "one"}\n{"text": "\xff\xfe"}\n')),
    BadInput("NUL in a text", "NUL characters in a text: they are scored", "", 0,
        data(b'{"text": "one\\u0000two three"}\n' * 2)),
    BadInput("NUL bytes between rows", "NUL bytes in a `.jsonl`", "test.jsonl:2: not JSON", 2,
        data(b'{"text": "one two"}\n\0\0\0\n')),
    BadInput("NUL bytes in plain text", "NUL bytes in a `.txt`: they are scored", "", 0,
        data(b"one two\0three four\n\nfive six\0seven", "test.txt")),
    BadInput("half a surrogate pair", "Half a surrogate pair in a text",
        "character 4 is half a surrogate pair (U+D83D), which is no text", 2,
        data(b'{"text": "one\\ud83d two"}\n')),
    BadInput("one line of many megabytes", "A document of more than twenty million characters",
        "is a text of 20,000,001 characters (allowed: 20,000,000)", 2,
        data(b'{"text": "' + b"x" * 20_000_001 + b'"}\n')),
    BadInput("deep JSON", "JSON a hundred thousand lists deep", "test.jsonl:1: not JSON", 2,
        data(b"[" * 100_000 + b"]" * 100_000)),
    BadInput("a number without end", "A number of ten thousand digits", "test.json: not JSON", 2,
        data(b'[{"text": ' + b"1" * 10_000 + b"}]", "test.json")),
    BadInput("texts without length", "Texts that are all empty", "has no text in it", 2,
        data(b'{"text": ""}\n' * 3)),
    BadInput("an empty text among others", "An empty text among others: left out", "", 0,
        data(b'{"text": ""}\n{"text": "one two three"}\n{"text": "four five six"}\n')),
    BadInput("no documents", "An empty file", "has no text in it", 2, data(b"")),
    BadInput("one document", "One document: scored; a gate on it is INCONCLUSIVE", "", 0,
        data(b'{"text": "The words of it are scored one by one."}\n')),
    BadInput("another column", "No column `text`", "no column 'text' (columns there: body)", 2,
        data(b'{"body": "one"}\n')),
    BadInput("a text that is a number", "A number where a text should be",
        "column 'text' is 3, not text", 2, data(b'{"text": 3}\n')),
    BadInput("a ragged CSV file", "A CSV row with too many fields",
        "more fields than the header has columns", 2, data(b"text\none,two\n", "test.csv")),
    BadInput("no Parquet file", "A text file that is named `.parquet`", "not Parquet", 2,
        data(b"text", "test.parquet")),
    BadInput("trained on what is scored",
        "Scored documents in the training data, under `leakage: refuse`",
        "metrics.leakage: refuse: 4 of 4 documents of test are also in the training data test "
        "(4 exactly, 0 nearly)", 2, leaked),
]  # fmt: skip


def a_store(change: Callable[[Path], None]) -> Prepare:
    """Makes a store without runs, and changes its file."""

    def prepare(folder: Path) -> None:
        Store.open(str(folder / "runs.db")).close()
        change(folder / "runs.db")

    return prepare


def newer(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.close()


def overwritten(file: Path) -> None:
    """All pages but the first two, as a bad disk leaves them."""
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:8192])


STORE = [
    BadInput("a store that is none", "A database that is a text file",
        "this file is no SQLite database", 3,
        files({"runs.db": "these are no tables at all, whatever one may say of them\n" * 99})),
    BadInput("a store of a newer evalkit", "A store whose schema is newer",
        "Nothing was changed", 3, a_store(newer), command=LIST),
    BadInput("a store with lost pages", "A store whose pages were overwritten",
        "the database is damaged", 3, a_store(overwritten), command=LIST),
    BadInput("a store cut off", "A store's file, cut off", "the database is damaged", 3,
        a_store(cut_off), command=LIST),
    BadInput("a store with a password", "A database URL that nobody answers, with a password",
        "***", 3, lambda folder: None,
        command=("runs", "--db", "postgresql+psycopg://me:pass-word-2@127.0.0.1:1/runs"),
        never=("pass-word-2",)),
]  # fmt: skip

EVERY: dict[str, list[BadInput]] = {
    "Suites": SUITES,
    "Task definitions of lm-eval": TASKS,
    "Weights": WEIGHTS,
    "Adapters": ADAPTERS,
    "Data": DATA,
    "The store": STORE,
}
"""The page's sections."""
