"""The exceptions of udrl.

    UdrlError                 anything udrl reports in one sentence; exit code 1
    ├── UsageError            the call itself is wrong (unknown name, target out of range); exit code 2
    ├── InputError            a file of the user's that cannot be read as it stands
    ├── TaskError             a task, card, suite or configuration file that is not valid
    ├── RunError              a run folder that is missing, locked, damaged or of another version
    ├── TeacherError          a teacher that cannot be started or failed too often
    ├── RewardError           a reward that cannot be computed or leaves its declared range
    ├── WeightsError          pretrained weights that are nowhere, damaged, or of a kind that cannot be read
    ├── StudentError          a student that cannot be trained, loaded or run
    │   └── Diverged          its loss is not finite any more
    └── MissingDependency     an optional package that is not installed

Each message is one sentence that says what was found, where, and what to do.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.util
from collections.abc import Iterable, Iterator
from typing import TypeVar

Value = TypeVar("Value")


class UdrlError(Exception):
    """Base of every error that udrl raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(UdrlError):
    """The call is wrong: an unknown name, a value outside its declared range, options that contradict."""

    exit_code = 2


class InputError(UdrlError):
    """A file of the user's that is missing, empty, binary, half-written or lacks a field."""


class TaskError(UdrlError):
    """A task, teacher card, suite or configuration file that does not say what it must."""


class RunError(UdrlError):
    """A run folder that is missing a stage, is locked by another writer, or has another schema."""


class TeacherError(UdrlError):
    """A teacher that cannot be started, reached, or fails too often."""


class RewardError(UdrlError):
    """A reward that is NaN, leaves its declared range, or cannot be computed."""


class WeightsError(UdrlError):
    """Pretrained weights, of a student or a teacher, that are not found, not whole, or cannot be read."""


class StudentError(UdrlError):
    """A student that cannot be trained, loaded or run."""


class HardwareError(UdrlError):
    """A device that was asked for and cannot be used on this machine."""


class Diverged(StudentError):
    """A training whose loss is not finite any more: in a study of learning rates that is a result."""


class MissingDependency(UdrlError):
    """An optional package is not installed; the message names the command that installs it."""


_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, NotImplementedError, EOFError,
    OSError,
)  # fmt: skip


@contextlib.contextmanager
def damaged(
    kind: type[UdrlError], what: object, advice: str, *, errors: tuple[type[Exception], ...] = _DAMAGE
) -> Iterator[None]:
    """Turn whatever the reading of one damaged file raises into one error of ``kind``: what is damaged, how, advice.

    For files that udrl or a library wrote and nobody should have changed, around their reading and nothing else. An
    error of udrl passes as it is. errors: what else a library raises.
    """
    try:
        yield
    except UdrlError:
        raise
    except errors as error:
        if is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise kind(f"{what} is damaged ({type(error).__name__}{': ' + said if said else ''}): {advice}") from error


def expect(value: object, kind: type[Value], name: str) -> Value:
    """Return ``value``, read from a file under ``name``; raises ValueError where it is not of its ``kind``."""
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"'{name}' is {str(value)[:60]!r}, no {kind.__name__}")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory did not suffice, of the processor or of a GPU.

    torch's errors are told by name and text, so that torch need not be imported to report a wrong option.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or any(said in str(error) for said in ("DefaultCPUAllocator", "bad_alloc", "bad allocation"))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return ``' (did you mean X?)'`` for the nearest of ``names``, or an empty string."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def unknown(kind: str, name: str, names: Iterable[str]) -> UsageError:
    """Build the error for a ``name`` that is not among ``names``: it suggests the nearest and lists all."""
    known = sorted(names)
    listed = ", ".join(known) if known else "none"
    return UsageError(f"unknown {kind} '{name}'{suggestion(name, known)}; known: {listed}")


def is_installed(package: str) -> bool:
    """Say whether an optional ``package`` is there; a folder of its name that happens to lie on the path is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
