"""The exceptions that reach a user, each with the exit code it ends the command with.

    EvalkitError                  3  something a job did failed
    ├── UsageError                2  the command line
    ├── SuiteError                2  the suite's YAML: every problem at once
    ├── DataError                 2  a corpus that cannot be used as the suite says
    ├── MachineError              4  this machine cannot run the suite
    │   ├── MissingPackageError   4  a package is not installed; names the install command
    │   └── NetworkError          4  a hub look-up that cannot work
    ├── WeightsError              3  weights or adapters that cannot be read or do not fit
    ├── TrainingError             3  fine-tuning went wrong
    ├── ScoringError              3  a score that is not finite, or cannot be computed
    └── StoreError                3  the database
        └── NoStoreError          2  a place where no store is

They are caught once, in `evalkit.cli`, and printed without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evalkit.masking import masked


class EvalkitError(Exception):
    """Base of every error that evalkit explains itself.

    The message says where, what, and what is allowed. Credentials in it are masked: it is printed,
    stored, and shown in reports.
    """

    exit_code = 3

    def __str__(self) -> str:
        return masked(super().__str__())


class UsageError(EvalkitError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a suite: `place` is `file:line`, `where` the dotted key."""

    place: str
    where: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.where, self.what) if part)


class SuiteError(EvalkitError):
    """The suite is not valid. Carries every problem found, in file order."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(replace(problem, what=masked(problem.what)) for problem in problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(EvalkitError):
    """A corpus is empty, unreadable, or lacks the column that the suite names."""

    exit_code = 2


class MachineError(EvalkitError):
    """This machine cannot run the suite: what is needed and what is there."""

    exit_code = 4


class MissingPackageError(MachineError):
    """A Python package that this suite needs is not installed.

    Args:
        package: the distribution's name as an installer takes it, with its version if pinned.
        purpose: what it is needed for, as the end of the sentence "needed ...".
        options: options that `pip install` needs for it.
    """

    def __init__(self, package: str, *, purpose: str, options: str = "") -> None:
        self.package = package
        command = " ".join(part for part in ("pip install", options, package) if part)
        super().__init__(
            f"{package} is not installed; it is needed {purpose}. Install it: {command}"
        )


class NetworkError(MachineError):
    """Something must come from a hub, and the hub cannot be reached or may not be asked."""


class WeightsError(EvalkitError):
    """Model weights or an adapter cannot be read, or do not fit each other."""


class TrainingError(EvalkitError):
    """Fine-tuning stopped: the message names the step."""


class ScoringError(EvalkitError):
    """A score could not be computed, or is not finite. Never replaced by a zero."""


class StoreError(EvalkitError):
    """The database cannot be opened, read or written."""


class NoStoreError(StoreError):
    """There is no store where one is to be read: another place was meant, or nothing ran yet."""

    exit_code = 2
