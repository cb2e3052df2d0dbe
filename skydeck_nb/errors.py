"""Everything this package raises on purpose, as one tree.

::

    SkydeckError
    ├── UnknownExperiment      (also a KeyError)
    ├── NameTaken
    ├── InvalidName            (also a ValueError, like the next two)
    ├── InvalidFlag
    ├── InvalidCommand
    ├── InvalidSetting         (also a ValueError)
    ├── StalePlan
    ├── NotYours
    ├── DeckOpen
    ├── WrongBackend
    ├── BackendError
    │   ├── NeedsSignIn
    │   ├── BackendUnavailable
    │   └── LaunchRejected
    └── DatabaseError
        ├── DatabaseTooNew
        └── DatabaseDamaged

Each message says what, which and what to do, in one or two sentences. This
module decides the tree; it refuses to know who raises what.
"""

from __future__ import annotations


class SkydeckError(Exception):
    """The base of every error that skydeck_nb raises on purpose."""


class UnknownExperiment(SkydeckError, KeyError):
    """A literal name, id or job that this deck does not have."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class NameTaken(SkydeckError):
    """Another experiment, sweep or group that is not deleted has this name."""


class InvalidName(SkydeckError, ValueError):
    """A name that is not ``[A-Za-z][A-Za-z0-9._-]{0,99}``, or a template that cannot make one."""


class InvalidFlag(SkydeckError, ValueError):
    """A flag key, a flag value or an axis that cannot be kept as it is."""


class InvalidCommand(SkydeckError, ValueError):
    """A command, script, task or resource that cannot be executed as written."""


class InvalidSetting(SkydeckError, ValueError):
    """A setting, argument or selection that has no meaning; the message names it and where it came from."""


class StalePlan(SkydeckError):
    """What a plan read has changed since; make it again."""


class NotYours(SkydeckError):
    """A job of another user, or one that carries no claim of this deck."""


class DeckOpen(SkydeckError):
    """This database is already open in this kernel, with other arguments."""


class WrongBackend(SkydeckError):
    """The database belongs to another backend; both are named, with the call that makes a new one."""


class BackendError(SkydeckError):
    """The place where jobs run did not do as asked."""


class NeedsSignIn(BackendError):
    """The backend wants a sign-in; the message holds the one command to run."""


class BackendUnavailable(BackendError):
    """No answer, or one that cannot be understood. Nothing is known about what was asked."""


class LaunchRejected(BackendError):
    """The backend understood the launch and said no: nothing runs.

    ``retryable`` is true where the same launch may be taken later (no capacity),
    false where a person must change something first.
    """

    def __init__(self, message: str, *, retryable: bool = False, reason: str = "LaunchRejected") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.reason = reason


class DatabaseError(SkydeckError):
    """The deck's file cannot be used."""


class DatabaseTooNew(DatabaseError):
    """A newer build wrote this file; restart the kernel with that build."""


class DatabaseDamaged(DatabaseError):
    """SQLite finds the file broken; the message says where its newest backup lies."""
