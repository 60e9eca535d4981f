"""The plain records that cross module borders. No behaviour but what follows from their fields."""

from evalkit.records.corpora import (
    Corpus,
    Document,
)
from evalkit.records.footprint import COSTS, Cost
from evalkit.records.history import History, PastRun, PastScore, Promotion
from evalkit.records.judging import (
    BASELINE,
    DIVERGENCE,
    SURVIVAL,
    Baseline,
    Budget,
    BudgetUnit,
    Gate,
    JsonObject,
    NoiseFloor,
    Verdict,
    VerdictName,
)
from evalkit.records.runs import (
    JobKind,
    JobRecord,
    JobStatus,
    OnProgress,
    Progress,
    RunRecord,
    VariantRecord,
)
from evalkit.records.scores import (
    Float64s,
    MetricKind,
    Repeat,
    RepeatKind,
    Sample,
    SampleOutcome,
    SampleText,
    Score,
    TokenLosses,
)

__all__ = [
    "BASELINE",
    "COSTS",
    "DIVERGENCE",
    "SURVIVAL",
    "Baseline",
    "Budget",
    "BudgetUnit",
    "Corpus",
    "Cost",
    "Document",
    "Float64s",
    "Gate",
    "History",
    "JobKind",
    "JobRecord",
    "JobStatus",
    "JsonObject",
    "MetricKind",
    "NoiseFloor",
    "OnProgress",
    "PastRun",
    "PastScore",
    "Progress",
    "Promotion",
    "Repeat",
    "RepeatKind",
    "RunRecord",
    "Sample",
    "SampleOutcome",
    "SampleText",
    "Score",
    "TokenLosses",
    "VariantRecord",
    "Verdict",
    "VerdictName",
]
