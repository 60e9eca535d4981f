"""Writes docs/suite.md from the suite's models: run it after a change to `evalkit/suite/`.

python docs/generate_suite_reference.py
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evalkit.paths import PRESETS, preset_path
from evalkit.suite import (
    AdapterSpec,
    DataSpec,
    DivergenceSpec,
    GateSpec,
    LoraSpec,
    Metrics,
    ModelSpec,
    PerplexitySpec,
    Requires,
    SamplesSpec,
    Suite,
    TaskSpec,
    TrainingSpec,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "The suite": Suite,
    "`model`": ModelSpec,
    "`requires`": Requires,
    "`data.NAME`": DataSpec,
    "`adapters.NAME`": AdapterSpec,
    "`adapters.NAME.lora`": LoraSpec,
    "`adapters.NAME.training`": TrainingSpec,
    "`metrics`": Metrics,
    "`metrics.perplexity`": PerplexitySpec,
    "`metrics.divergence`": DivergenceSpec,
    "`metrics.samples`": SamplesSpec,
    "`tasks`": TaskSpec,
    "`gates`": GateSpec,
}

TYPES = {
    (Suite, "variants"): "list of presets and `NAME: [steps]`",
    (Suite, "tasks"): "list, or mapping of names to [tasks](#tasks)",
    (Suite, "gates"): "list of [gates](#gates)",
    (TaskSpec, "data"): "file, or mapping of splits to files",
    (Requires, "memory"): "amount of memory",
    (AdapterSpec, "on_path"): "preset or list of steps",
    (LoraSpec, "target_modules"): "`all-linear` or list of text",
    (Metrics, "perplexity"): "[mapping](#metricsperplexity), or mapping of names to such",
    (GateSpec, "max_increase"): "budget",
    (GateSpec, "max_decrease"): "budget",
}
"""What the annotation of a field does not say in a user's words."""

HEAD = """\
<!-- Written by docs/generate_suite_reference.py from the models: do not edit by hand. -->
# The suite: every key

A suite is a YAML 1.2 file. `on`, `no` and `off` are text there, `2e-4` is a number, and a revision
of digits keeps its digits. Unknown keys are refused, nothing in the file is executed, and all
mistakes are reported at once, each with its file and line.

```yaml
name: guanaco
model: meta-llama/Llama-2-7b-hf
data:
  train: {dataset: timdettmers/openassistant-guanaco, split: train}
  test: {dataset: timdettmers/openassistant-guanaco, split: test}
adapters:
  guanaco:
    on: nf4
    data: train
    lora: {r: 64, alpha: 16, dropout: 0.1}
    training: {steps: 1875, batch_size: 16, learning_rate: 2e-4, max_length: 512}
variants:
  - fp16
  - nf4
  - nf4+adapter
  - merged-4bit
  - plain-nf4: [quantize: {type: nf4, double_quant: false}]
metrics:
  perplexity: {on: test, max_length: 1024}
gates:
  - {metric: perplexity, variant: nf4, against: fp16, max_increase: 10%}
  - {metric: perplexity, variant: merged-4bit, against: nf4+adapter, max_increase: 1%,
     expect: regressed}
```

## Layers: `extends` and `--set`

`extends: other.yaml` lays the file over another one, which is named relative to it. Mappings merge
deeply, lists replace, and `null` deletes a key. `--set dotted.key=VALUE` on the command line is one
more layer, and the value is YAML: `--set adapters.guanaco.training.steps=30`,
`--set variants='[fp16, nf4]'`, `--set requires=null`.

- A string laid over a mapping of `data` or `model` sets its `dataset` or `source` and keeps the
  rest: after `--set data.test=test.jsonl` the columns, the limit and the cluster are as they were.
- What belonged to the old one goes with it: another `dataset` drops `config` and `revision` of the
  layers below, and also `split` where the new one is a file; another `source` drops `revision`. An
  adapter's `from` drops `on`, `data`, `lora` and `training`; `steps` drops `epochs`, and `epochs`
  drops `steps`; several named corpora of `metrics.perplexity` replace a single one, and the other
  way round.
- A mapping laid over a list of `tasks` changes those that it names and adds the others:
  `--set tasks.blimp.data=pairs.jsonl`, `--set tasks.mmlu.limit=50`.
- A file that a layer names is relative to the file that wrote it; with `--set`, to the working
  directory. Data is a file when its name ends in `.jsonl`, `.json`, `.csv`, `.parquet` or `.txt`;
  data, weights and adapters are when their name starts with `.`, `/` or `~`; `data` and
  `include_path` of a task always are.

## Variants: paths of steps

A variant is a path from the base weights to what would be deployed.

| step | does | argument |
|---|---|---|
| `load` | reads the base weights | `fp16`, `bf16`, `fp32`, `auto` |
| `quantize` | stores the weights in few bits | a type, or a mapping |
| `dequantize` | expands quantised weights; their rounding stays | a dtype, else the load dtype |
| `attach` | puts an adapter on top | the adapter's name |
| `merge` | folds what is attached into the weights as they are now | none |

- `load` comes first; a path without it loads in `model.dtype`.
- `quantize` goes on 16- or 32-bit weights, `dequantize` on quantised ones.
- After `attach` a path ends, attaches another adapter, or merges; `merge` comes after `attach`.

| type of `quantize` | what it is |
|---|---|
| `nf4`, `fp4` | bitsandbytes' 4 bits, with double quantisation or without |
| `int8` | bitsandbytes' LLM.int8 |
| `group4` | evalkit's own 4 bits, in groups along the input; QA-LoRA merges into them exactly |
| `hqq` | `group4` with zeros chosen by HQQ's solver: short for `{type: group4, optimize: hqq}` |
| `torchao-int8` | torchao's int8 of weights alone; needs `pip install torchao` |

The mapping of `quantize` has `type`, `double_quant` (of `nf4` and `fp4`, where it is on),
`compute_dtype` (else the load dtype; not of the two int8), `skip_modules` (names of modules that
stay as loaded; each must be there), `group_size` (of `group4` and `hqq`; 64) and `optimize` (of
`group4`: `hqq`).
`quanto`, `gptq`, `awq` and other types of `torchao` are refused, with the reason and the way round.
A GGUF file is not a step but weights to start from: `model: ./file.gguf`.

A plain LoRA does not merge into `group4` or `hqq` weights, which would round it away:
`dequantize` before `attach`, or train it with `flavour: qa-lora`.

An adapter with `method: full` is a whole model: it is attached directly after `load`.

A preset is a name that stands for a path. Those with an adapter use the suite's only one; where
there are several, `BASE+NAME` picks one, as in `nf4+guanaco`.

| preset | path |
|---|---|
"""


def main() -> None:
    """Write the file."""
    target = Path(__file__).with_name("suite.md")
    target.write_text(reference(), encoding="utf-8")


def reference() -> str:
    """Return the whole of docs/suite.md."""
    presets = "".join(f"| `{name}` | {_preset(name)} |\n" for name in PRESETS)
    sections = (_section(title, model) for title, model in SECTIONS.items())
    return HEAD + presets + "".join(sections)


def _preset(name: str) -> str:
    steps = preset_path(name, ["ADAPTER"]) or []
    words = (_step(step) for step in steps)
    return f"`[{', '.join(words)}]`"


def _step(step: object) -> str:
    if isinstance(step, dict):
        return ", ".join(f"{verb}: {argument}" for verb, argument in step.items())
    return str(step)


def _section(title: str, model: type[BaseModel]) -> str:
    intro = " ".join((model.__doc__ or "").split())
    rows = [_row(model, name, field) for name, field in model.model_fields.items()]
    table = "".join(row for row in rows if row)
    return f"\n## {title}\n\n{intro}\n\n| key | value | default | |\n|---|---|---|---|\n{table}"


def explanations(model: type[BaseModel]) -> dict[str, str]:
    """What stands below each field in the source, by the field's name.

    pydantic would read it too, each time that a suite's models are imported.
    """
    found = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.startswith("evalkit."):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(definition, ast.ClassDef)
            for field, below in itertools.pairwise(definition.body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(field.target)] = str(ast.literal_eval(below.value))
    return found


def _row(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.exclude:
        return ""
    key = field.alias or name
    kind = TYPES.get((model, name)) or _kind(field.annotation)
    if field.is_required():
        default = "required"
    else:
        value = field.get_default(call_default_factory=True)
        default = "" if value in (None, "", (), {}) else f"`{_yaml(value)}`"
    meaning = " ".join(explanations(model).get(name, "").split()).replace("|", "\\|")
    return f"| `{key}` | {kind} | {default} | {meaning} |\n"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(annotation: Any) -> str:
    """Return what a value of this annotation is, in a user's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"mapping of names to {_kind(arguments[1])}"
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if arguments:
        return next(_kind(argument) for argument in arguments if argument is not NoneType)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        title = next(title for title, model in SECTIONS.items() if model is annotation)
        anchor = "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
        return f"[mapping](#{anchor})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names[annotation]


if __name__ == "__main__":
    main()
