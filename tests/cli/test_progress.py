import io

from rich.console import Console

from evalkit.cli.progress import LogWatcher, watch
from evalkit.records import JobRecord, Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def log_of(monkeypatch, ticks):
    """What a log shows of (seconds, done) ticks of one phase of 1,000 tokens."""
    clock = Clock()
    monkeypatch.setattr("evalkit.cli.progress.time.monotonic", clock)
    out = io.StringIO()
    watcher = LogWatcher(Console(file=out, width=40))
    for seconds, done in ticks:
        clock.now = 100.0 + seconds
        watcher.on_progress(Progress("score nf4", "perplexity", done, 1000, "tokens"))
    return [line[9:] for line in out.getvalue().splitlines()]


def test_a_log_says_where_a_phase_stands_now_and_then(monkeypatch):
    lines = log_of(monkeypatch, [(0, 0), (5, 100), (20, 400), (25, 500), (36, 720)])
    assert lines == [
        "[0/0] score nf4: perplexity",
        "[0/0] score nf4: perplexity 400/1,000 tokens, 20 tokens/s, 0:30 left",
        "[0/0] score nf4: perplexity 720/1,000 tokens, 20 tokens/s, 0:14 left",
    ]


def test_a_phase_that_resumes_is_timed_from_where_it_began(monkeypatch):
    assert "10 tokens/s" in log_of(monkeypatch, [(0, 500), (20, 700)])[-1]


def test_a_console_that_is_no_terminal_gets_a_log(monkeypatch):
    out = io.StringIO()
    with watch(Console(file=out, force_terminal=False)) as watcher:
        watcher.job_ended(JobRecord("score nf4", "score", "failed", 1.0, "out of [memory]"), {})
    assert out.getvalue()[9:].strip() == "✗ score nf4  FAILED: out of [memory]"


def test_a_terminal_gets_bars_with_amount_and_speed(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("evalkit.cli.progress.time.monotonic", clock)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, _environ={})
    with watch(console) as watcher:
        watcher.on_progress(Progress("score nf4", "perplexity", 0, 1000, "tokens"))
        clock.now += 2
        watcher.on_progress(Progress("score nf4", "perplexity", 500, 1000, "tokens", "warm [x]"))
    shown = out.getvalue()
    assert "500/1,000 tokens" in shown
    assert "250 tokens/s" in shown
    assert "warm [x]" in shown
