"""Which paths are legal: what each step needs of the steps before it. Pure: no I/O, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evalkit.paths.steps import (
    AdapterMethod,
    Attach,
    Dequantize,
    Load,
    Merge,
    Path,
    Quantize,
    Step,
    StepProblem,
    describe,
    did_you_mean,
)


@dataclass(frozen=True)
class _State:
    """What a path has come to before a step."""

    quantised: str | None = None
    """What the weights are stored in."""
    on_grid: bool = False
    """Whether the weights are a quantisation's values, stored in few bits or expanded."""
    attached: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    """Every adapter that was attached so far, merged ones too."""

    def after(self, step: Step) -> _State:
        """The state after a step, as if it were legal: one mistake gives one message."""
        if isinstance(step, Quantize):
            return replace(self, quantised=step.type, on_grid=True, attached=())
        if isinstance(step, Dequantize):
            return replace(self, quantised=None, attached=())
        if isinstance(step, Attach):
            used = (*self.used, step.adapter)
            return replace(self, attached=(*self.attached, step.adapter), used=used)
        if isinstance(step, Merge):
            return replace(self, on_grid=self.quantised is not None, attached=())
        return self


def check(path: Path, *, adapters: Mapping[str, AdapterMethod]) -> list[StepProblem]:
    """Return everything that makes a normalised path illegal, in the order of its steps.

    Args:
        path: a normalised path.
        adapters: what each of the suite's adapters is. "full" is a whole fine-tuned model:
            attaching it replaces the weights, so it only goes directly on loaded ones. "qa-lora"
            goes on group4 weights, and only such a one can be merged into them. "loftq" holds
            what quantising lost, so it goes on quantised weights or what they expand to. "pissa"
            changes the base that the path starts from.
    """
    problems: list[StepProblem] = []
    state = _State()
    for index, step in enumerate(path):
        what = _illegal(step, index=index, state=state, adapters=adapters)
        if what is None and isinstance(step, Attach):
            what = _illegal_attach(step, path[:index], state=state, adapters=adapters)
        if what is not None:
            problems.append(StepProblem(index, what))
        state = state.after(step)
    return problems


def _illegal(
    step: Step, *, index: int, state: _State, adapters: Mapping[str, AdapterMethod]
) -> str | None:
    if isinstance(step, Load):
        return None if index == 0 else "load comes first: a path reads its weights once"
    if index == 0:
        return f"a path starts with load, not with {describe([step])}"
    if isinstance(step, Quantize | Dequantize) and state.attached:
        return (
            f"{_verb(step)} with '{state.attached[-1]}' attached: after attach a path ends, "
            "attaches another, or merges (put 'merge' before this step)"
        )
    if isinstance(step, Quantize) and state.quantised:
        return f"the weights are {state.quantised} already: put 'dequantize' before this step"
    if isinstance(step, Dequantize) and not state.quantised:
        return "dequantize of weights that are not quantised: put 'quantize' before this step"
    if isinstance(step, Merge):
        return _illegal_merge(state, adapters)
    return None


def _illegal_merge(state: _State, adapters: Mapping[str, AdapterMethod]) -> str | None:
    if not state.attached:
        return "merge with nothing attached: put 'attach' before this step"
    if state.quantised != "group4":
        return None
    for name in state.attached:
        if adapters.get(name, "qa-lora") not in ("qa-lora", "ready"):
            return (
                f"'{name}' cannot be merged into group4 weights (hqq is such): only an adapter "
                "with 'flavour: qa-lora' is constant in every group, so that its merge moves the "
                "zeros and leaves the codes (put 'dequantize' before 'attach', or train it so)"
            )
    return None


def _illegal_attach(
    step: Attach, before: Path, *, state: _State, adapters: Mapping[str, AdapterMethod]
) -> str | None:
    if step.adapter not in adapters:
        near = did_you_mean(step.adapter, adapters)
        names = ", ".join(adapters) or "the suite has none"
        return f"unknown adapter '{step.adapter}'{near} (allowed: {names})"
    if step.adapter in state.attached:
        return f"'{step.adapter}' is attached already"
    kind = adapters[step.adapter]
    if kind == "full" and len(before) != 1:
        return (
            f"'{step.adapter}' is a fully fine-tuned model (method: full) and replaces the "
            "weights: attach it directly after load"
        )
    if kind == "qa-lora" and state.quantised != "group4":
        return (
            f"'{step.adapter}' is a QA-LoRA adapter, and the weights are "
            f"{state.quantised or 'not quantised'}: it goes on 'quantize: group4'"
        )
    if kind == "loftq" and not state.on_grid:
        return (
            f"'{step.adapter}' was initialised by LoftQ with what quantising lost, and these "
            "weights lost nothing: put the 'quantize' that it was trained on before this step"
        )
    return _illegal_residual(step, state=state, adapters=adapters)


def _illegal_residual(
    step: Attach, *, state: _State, adapters: Mapping[str, AdapterMethod]
) -> str | None:
    """A PiSSA adapter's base is the residual: a path starts from one, and fills it up once."""
    names = (*state.used, step.adapter)
    residual = [name for name in names if adapters.get(name) == "pissa"]
    other = [name for name in names if adapters.get(name) in ("full", "loftq")]
    if len(residual) > 1:
        return (
            f"'{residual[0]}' and '{residual[1]}' were initialised by PiSSA: each fills up the "
            "residual that the path starts from, and it can be filled up once"
        )
    if residual and other:
        return (
            f"'{residual[0]}' was initialised by PiSSA and needs its residual as the base; "
            f"'{other[0]}' needs another"
        )
    return None


def _verb(step: Step) -> str:
    return type(step).__name__.lower()
