"""Numbers, budgets and untrusted text in words, the same in every form of the report."""

from __future__ import annotations

import re

from evalkit.records import BASELINE, COSTS, Budget, BudgetUnit, Gate, Verdict

ACCURACY = "accuracy"
"""The unit of a share of right answers."""
NATS = "nats/token"
"""The unit of a divergence."""
MINUS = "\N{MINUS SIGN}"
_ON_CORPORA = ("perplexity", "divergence")
LONGEST_TEXT = 20_000
"""Characters of one untrusted text that a report shows; a model or a file may give megabytes."""

# C0 and C1 controls but tab and newline, surrogates that no encoder takes, and characters that turn
# the direction of the text around them, since <bdi> does not close every one.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def clean(text: str, *, longest: int = LONGEST_TEXT) -> str:
    """Untrusted text as it may be shown: no control characters, and no more than `longest`.

    What is taken out is replaced by U+FFFD, so that a reader sees that something was there.
    """
    shown = text[:longest].replace("\r\n", "\n")
    if not shown.isprintable():  # most text is, and there is much of it
        shown = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", shown)
    left_out = len(text) - longest
    return f"{shown}… ({left_out:,} more characters)" if left_out > 0 else shown


def first_line(text: str, *, longest: int = 160) -> str:
    """The first line of a message, shortened at a word, without a full stop."""
    line = clean(text, longest=10 * longest).strip().partition("\n")[0].strip()
    if len(line) > longest:
        line = line[:longest].rsplit(" ", 1)[0] + "…"
    return line.removesuffix(".")


def figure(value: float) -> str:
    """A metric's value with four significant digits: '5.174', '18.57', '1,204'."""
    size = abs(value)
    if size >= 1e7 or (size < 1e-3 and size > 0):
        text = f"{value:.3e}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"
    return text.replace("-", MINUS) if value < 0 else text


def stderr_figure(stderr: float, value: float) -> str:
    """A standard error with as many decimals as `figure` gives its value."""
    size = abs(value)
    if size >= 1e7 or size < 1e-3:
        return f"{stderr:.1e}"
    decimals = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{stderr:,.{decimals}f}"


def nats_figure(value: float) -> str:
    """Nats per token in three significant digits; as a power of ten under a thousandth."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e3:
        return power_figure(value, 2)
    return f"{value:#.3g}".rstrip(".").replace("-", MINUS)


def nats_stderr(stderr: float, value: float) -> str:
    """A standard error with as many decimals as `nats_figure` gives its value."""
    shown = nats_figure(value)
    if "e" in shown:
        return power_figure(stderr, 1)
    return f"{stderr:.{len(shown.partition('.')[2])}f}"


def power_figure(value: float, decimals: int) -> str:
    """'2.60e−4'."""
    mantissa, _, exponent = f"{value:.{decimals}e}".partition("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def score_figure(value: float, unit: str) -> str:
    """A score's value: '60.0 %' of an accuracy, '0.00304' nats per token, else `figure`."""
    if unit == NATS:
        return nats_figure(value)
    return f"{value * 100:.1f} %" if unit == ACCURACY else figure(value)


def score_stderr(stderr: float, value: float, unit: str) -> str:
    """A score's standard error with as many decimals as `score_figure` gives its value."""
    if unit == NATS:
        return nats_stderr(stderr, value)
    return f"{stderr * 100:.1f}" if unit == ACCURACY else stderr_figure(stderr, value)


def percent(fraction: float, *, signed: bool = False) -> str:
    """'66.7 %', '4.1 %', '0.53 %'; with a sign in front where `signed`."""
    size = abs(fraction) * 100
    return _with_unit(
        fraction * 100, 0 if size >= 1000 else 1 if size >= 1 else 2, " %", signed=signed
    )


def effect_words(verdict: Verdict, *, signed: bool = True, precise: bool = False) -> str:
    """A verdict's effect without its interval: '+67 %', '−2.1 pp', '+0.4'. Empty without one.

    `precise` gives a decimal more: for tables, where a budget stands beside it.
    """
    if verdict.effect is None:
        return ""
    scale, suffix = _scale(effect_unit(verdict.gate))
    value = verdict.effect * scale
    decimals = _verdict_decimals(verdict, scale, precise=precise)
    return _with_unit(value, decimals, suffix, signed=signed)


def interval_words(verdict: Verdict, *, signed: bool = False, precise: bool = False) -> str:
    """A verdict's 95 % interval: '62–72 %', '−0.4 to 1.2 %'. Empty where it has none.

    What was measured and not sampled has none: its ends are the value itself.
    """
    if (
        verdict.n_units == 0
        or verdict.effect is None
        or verdict.low is None
        or verdict.high is None
    ):
        return ""
    scale, suffix = _scale(effect_unit(verdict.gate))
    decimals = _verdict_decimals(verdict, scale, precise=precise)
    low, high = (
        _with_unit(bound * scale, decimals, "", signed=signed)
        for bound in (verdict.low, verdict.high)
    )
    plain = not signed and MINUS not in low + high
    return f"{low}–{high}{suffix}" if plain else f"{low} to {high}{suffix}"


def change_words(
    effect: float, low: float | None, high: float | None, unit: BudgetUnit
) -> tuple[str, str]:
    """A change and its interval, signed: ('+3.24 %', '+2.10 to +4.38 %'); '' for no interval."""
    scale, suffix = _scale(unit)
    width = None if low is None or high is None else (high - low) * scale
    decimals = _decimals(effect * scale, width) + 1 if abs(effect * scale) < 10 else 1
    change = _with_unit(effect * scale, decimals, suffix, signed=True)
    if low is None or high is None:
        return change, ""
    ends = [_with_unit(end * scale, decimals, "", signed=True) for end in (low, high)]
    return change, f"{ends[0]} to {ends[1]}{suffix}"


def short_change(effect: float, unit: BudgetUnit) -> str:
    """A change, signed, in few digits, for a sentence: '+31 %', '−2.1 pp', '+0.214'."""
    scale, suffix = _scale(unit)
    decimals = 3 if unit == "absolute" else _decimals(effect * scale, None)
    return _with_unit(effect * scale, decimals, suffix, signed=True)


def effect_unit(gate: Gate) -> BudgetUnit:
    """The unit of a gate's effect: its budget's, or the metric's own for an absolute limit."""
    budget = gate.max_increase or gate.max_decrease
    return budget.unit if budget is not None else "absolute"


def budget_words(budget: Budget) -> str:
    """'10 %', '2 pp', '0.5'."""
    return str(budget)


def metric_words(metric: str) -> str:
    """'perplexity', 'perplexity on wiki' for 'perplexity/wiki'; 'blimp/acc', a task's, as it is."""
    kind, _, corpus = metric.partition("/")
    return f"{kind} on {corpus}" if corpus and kind in _ON_CORPORA else metric


def against_words(gate: Gate) -> str:
    """The gate's reference: a variant's name, or 'the baseline'."""
    return "the baseline" if gate.against == BASELINE else str(gate.against)


def rule_words(gate: Gate) -> str:
    """What a gate promises: 'perplexity at most 10 % above nf4+adapter'."""
    metric = metric_words(gate.metric)
    budget = gate.max_increase or gate.max_decrease
    if budget is not None and budget.amount == 0:
        bound = "higher" if gate.max_increase is not None else "lower"
        return f"{metric} no {bound} than {against_words(gate)}'s"
    if gate.max_increase is not None:
        return f"{metric} at most {budget_words(gate.max_increase)} above {against_words(gate)}"
    if gate.max_decrease is not None:
        return f"{metric} at most {budget_words(gate.max_decrease)} below {against_words(gate)}"
    if gate.minimum is not None:
        return f"{metric} at least {limit_figure(gate.metric, gate.minimum)}"
    return f"{metric} at most {limit_figure(gate.metric, gate.maximum)}"


def cost_figure(metric: str, value: float) -> str:
    """A cost with its unit: '92.2 MB', '2.31 s', '14.2 tokens/s'; '' of what is no cost."""
    if metric not in COSTS:
        return ""
    unit = COSTS[metric].unit
    return bytes_words(round(value)) if unit == "bytes" else f"{value:.3g} {unit}"


def limit_figure(metric: str, limit: float | None) -> str:
    """A gate's absolute limit as it was written; of a cost with its unit."""
    return "" if limit is None else cost_figure(metric, limit) or f"{limit:g}"


def duration(seconds: float) -> str:
    """'8.4 s', '4 min 12 s', '2 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_words(count: int) -> str:
    """'98.4 MB': powers of ten."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return (
                f"{count / size:.3g} {unit}" if count < 100 * size else f"{count // size:,} {unit}"
            )
    return f"{count} B"


def count_words(count: float) -> str:
    """'135 M', '6.74 B', '512'."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def joined(names: list[str], word: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def counted(count: int, noun: str) -> str:
    """'1 gate', '4 gates'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scale(unit: BudgetUnit) -> tuple[float, str]:
    return {"relative": (100.0, " %"), "points": (100.0, " pp"), "absolute": (1.0, "")}[unit]


def _verdict_decimals(verdict: Verdict, scale: float, *, precise: bool) -> int:
    value = (verdict.effect or 0.0) * scale
    decimals = _decimals(value, _width(verdict, scale))
    if not precise:
        return decimals
    # Past ten, one decimal is enough to see on which side of a budget a bound lies.
    return decimals + 1 if abs(value) < 10 else 1


def _width(verdict: Verdict, scale: float) -> float | None:
    if verdict.low is None or verdict.high is None:
        return None
    return (verdict.high - verdict.low) * scale


def _decimals(value: float, width: float | None) -> int:
    """No more decimals than the interval's width bears out, else three significant digits."""
    if width is not None and width > 0:
        for decimals, least in ((0, 3.0), (1, 0.3), (2, 0.03), (3, 0.003)):
            if width >= least:
                return decimals
        return 4
    size = abs(value)
    return 0 if size >= 10 or size == 0 else 1 if size >= 1 else 2


def _with_unit(value: float, decimals: int, suffix: str, *, signed: bool) -> str:
    text = f"{abs(value):,.{decimals}f}".replace("inf", "∞")
    is_zero = not text.strip("0.,")
    sign = "" if is_zero else MINUS if value < 0 else "+" if signed else ""
    return f"{sign}{text}{suffix}"
