"""Which run of a suite stopped early, for whoever asks to go on from it."""

from __future__ import annotations

from evalkit.errors import UsageError
from evalkit.store import RunSummary, Store

_LOOKED_AT = 1000
"""Runs of all suites: older ones are nobody's to go on from."""
_STOPPED = {None: "was killed, or is running still", 130: "was interrupted", 3: "had a failed job"}
"""What an exit code says of a run that did not do all of its work."""


def last_run(store: Store, suite: str) -> RunSummary:
    """The newest run of a suite, which must have stopped early.

    Raises:
        UsageError: it ended, or the suite has no run.
    """
    mine = [run for run in store.list_runs(_LOOKED_AT) if run.suite == suite]
    if not mine:
        raise UsageError(
            f"--resume: {store.place} has no run of suite {suite} to go on from; leave it out"
        )
    newest = mine[0]
    if newest.exit_code not in _STOPPED:
        raise UsageError(
            f"--resume: the last run of suite {suite}, {newest.id}, ended with exit code "
            f"{newest.exit_code}: there is nothing to go on with. Leave --resume out to run again "
            "(what is stored is used again)"
        )
    return newest


def standing(run: RunSummary) -> str:
    """'run 20261121-224455-a3f1, which was interrupted: 2 of 4 variants are scored'."""
    how = _STOPPED[run.exit_code]
    return f"run {run.id}, which {how}: {run.scored} of {run.variants} variants are scored"
