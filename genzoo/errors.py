"""Every error that genzoo raises on purpose.

GenzooError                     exit code 1
├── UsageError                  exit code 2: the caller can mend it; nothing was written
│   ├── ConfigError             a config key, value or type
│   ├── UnknownNameError        a model, data set, metric or estimator that is not there (carries near names)
│   ├── BudgetError             a budget that is not one
│   ├── PlanError               a plan file
│   ├── DataError               data that cannot be used: missing file, NaN, wrong type
│   ├── RunError                a run folder, record or checkpoint that cannot be read
│   ├── StorageError            a file that cannot be written: disk full, read-only; also an OSError
│   ├── LockedError             a folder that another process writes to
│   ├── ProvenanceError         a result to be committed whose code no commit holds
│   └── CapabilityError         this model, kind or data cannot do what was asked
├── InputError                  a tensor of the wrong shape, dtype or device given to a model
├── NumericsError               NaN or infinity where training or evaluation met it
├── WorkerDied                  the process that ran a cell ended without an answer
│   └── WorkerHung              it gave no sign of life, and was killed
└── PluginError                 a plugin that failed to load, or whose card lies
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

LONGEST = 100
"""Characters of a name in a message."""


class GenzooError(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(GenzooError):
    """What the caller asked for is wrong, and the message says how to mend it."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key, value or type."""


class UnknownNameError(UsageError):
    """A name that is not registered.

    Args:
        what: the sort of thing ("model", "data set", "config key of flow").
        name: what was asked for.
        known: the names that exist; near ones are shown.
        hint: one more sentence, such as the line that installs the plugin.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.what, self.name, self.known, self.hint = what, name, sorted(known), hint
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        elif self.known:
            advice = f"there is {', '.join(self.known)}"
        else:
            advice = "" if hint else "there is none"
        asked = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        super().__init__(f"unknown {what} {asked!r}: {' '.join(filter(None, (advice, hint)))}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        # Crosses process boundaries: the default would call __init__ with the message alone, and break the pool.
        return type(self), (self.what, self.name, self.known, self.hint)


class BudgetError(UsageError):
    """A training budget that is not `2000steps`, `10epochs` or `60s`."""


class PlanError(UsageError):
    """A plan file that cannot be used."""


class DataError(UsageError):
    """Data that cannot be used."""


class RunError(UsageError):
    """A run folder, record or checkpoint that cannot be read."""


class StorageError(UsageError, OSError):
    """A file that cannot be written. Under its name stands what stood there before, if anything."""

    @classmethod
    def of(cls, path: str | os.PathLike[str], error: OSError) -> StorageError:
        """What the system said of `path`, and what to do."""
        advice = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some of the quota",
            errno.EROFS: "give a folder that can be written",
            errno.EACCES: "give a folder that you may write to",
            errno.EPERM: "give a folder that you may write to",
        }.get(error.errno or 0, "see to the disk")
        return cls(
            f"cannot write {os.fspath(path)}: {error.strerror or error}; what was written before is intact: {advice} "
            "and run the same command again"
        )


class LockedError(UsageError):
    """A folder that another process writes to."""


class ProvenanceError(UsageError):
    """A result that is to be committed, made by code that no commit holds."""


class InputError(GenzooError, ValueError):
    """A tensor of the wrong shape, dtype, range or device."""


class NumericsError(GenzooError, ArithmeticError):
    """NaN or infinity met in training or evaluation; says where."""


class CapabilityError(UsageError):
    """This model, kind of answer or data set cannot do what was asked."""


class PluginError(GenzooError):
    """A plugin that failed to load, or that does not do what its card says."""


class WorkerDied(GenzooError):
    """The process that ran a cell ended without an answer: killed, out of memory, crashed."""


class WorkerHung(WorkerDied):
    """The process that ran a cell gave no sign of life for too long, and was killed."""
