"""The faults of the fake backend, by name, and when they strike.

Decides what kinds of misfortune there are and whether one strikes now: with a
seeded chance, or a scripted number of times. Refuses to know what a fault
does: ``server.py`` and ``backend.py`` do it.

A fault is a frozen dataclass or its text: ``LostAnswer(chance=0.2)`` and
``"LostAnswer(chance=0.2)"`` are the same. Every fault takes

* ``chance``: how likely it strikes at each occasion, 1 by default;
* ``name``: a glob (``*``, ``?``) that the experiment's or job's name must match;
* ``methods``: the calls of the backend in which it strikes.

Whether a chance comes true depends on the seed, the fault, the call, the name
and how often that came up before, never on the order of threads.
"""

from __future__ import annotations

import ast
import difflib
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from skydeck_nb.errors import InvalidSetting

METHODS = ("observe", "launch", "resolve", "refuse", "cancel", "logs")


@dataclass(frozen=True, slots=True)
class Fault:
    """The base of all faults; see the module for its three fields."""

    chance: float = field(default=1.0, kw_only=True)
    name: str = field(default="*", kw_only=True)
    methods: tuple[str, ...] = field(default=METHODS, kw_only=True)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in ("chance", "fraction") and not 0 <= value <= 1:
                raise InvalidSetting(f"{type(self).__name__}: {one.name} must lie between 0 and 1; got {value!r}.")
            if one.name == "seconds" and not (0 <= value < math.inf):
                raise InvalidSetting(f"{type(self).__name__}: seconds must be 0 or more; got {value!r}.")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise InvalidSetting(f"{type(self).__name__}: no call is named {unknown[0]!r}; use {', '.join(METHODS)}.")

    def __str__(self) -> str:
        """What :func:`parse` reads back."""
        said = [
            f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if getattr(self, one.name) != one.default
        ]
        return type(self).__name__ + (f"({', '.join(said)})" if said else "")

    def matches(self, *names: str) -> bool:
        """Whether one of these names is meant."""
        return self.name == "*" or any(fnmatchcase(name, self.name) for name in names)


# Of launches.


@dataclass(frozen=True, slots=True)
class LostAnswer(Fault):
    """What was asked is done, and the call raises ``BackendUnavailable``."""

    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class LostRequest(Fault):
    """Nothing arrives, and the call raises ``BackendUnavailable``."""

    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class LateRequest(Fault):
    """The sender freezes between its check and its write: the call raises, the request arrives later."""

    seconds: float = 60.0
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class QueuedRequest(Fault):
    """The answer holds a request id only; the job is made later."""

    seconds: float = 10.0
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class Retried(Fault):
    """The transport writes the request twice, asking its gate each time."""

    seconds: float = 1.0
    """Between the two writes."""
    first_arrives: bool = False
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class Duplicate(Fault):
    """One request makes two jobs of the same claim."""

    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class LateDuplicate(Fault):
    """The request is carried out again later."""

    seconds: float = 60.0
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class Rejected(Fault):
    """The launch is understood and refused: ``LaunchRejected``."""

    retryable: bool = False
    reason: str = "LaunchRejected"
    message: str = "The fake server refused this launch, as it was told to."
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class RejectedLater(Fault):
    """The answer holds a request id only, and so much later the request fails on the server."""

    seconds: float = 5.0
    retryable: bool = False
    message: str = "The fake server took this launch and then failed it, as it was told to."
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


# Of looking.


@dataclass(frozen=True, slots=True)
class FailedListing(Fault):
    """Looking raises ``BackendUnavailable``."""

    methods: tuple[str, ...] = field(default=("observe", "resolve"), kw_only=True)


@dataclass(frozen=True, slots=True)
class PartialListing(Fault):
    """A listing lacks about this fraction of its rows, and says ``complete=False``."""

    fraction: float = 0.5
    methods: tuple[str, ...] = field(default=("observe", "resolve"), kw_only=True)


@dataclass(frozen=True, slots=True)
class LateListing(Fault):
    """A new job is listed only so much later; with ``requests`` its launch request is, too."""

    seconds: float = 30.0
    requests: bool = False
    methods: tuple[str, ...] = field(default=("launch",), kw_only=True)


@dataclass(frozen=True, slots=True)
class StaleListing(Fault):
    """A listing shows everything as it was so long ago.

    Its ``begun_at`` is nevertheless the time at which looking began, as with a
    real server that answers from a replica.
    """

    seconds: float = 30.0
    methods: tuple[str, ...] = field(default=("observe", "resolve"), kw_only=True)


@dataclass(frozen=True, slots=True)
class VanishedJob(Fault):
    """Listings that say they are complete lack the jobs of this name, which go on living."""

    methods: tuple[str, ...] = field(default=("observe", "resolve"), kw_only=True)


@dataclass(frozen=True, slots=True)
class UnknownStatus(Fault):
    """A live job shows a status that no build has heard of."""

    status: str = "HIBERNATING"
    methods: tuple[str, ...] = field(default=("observe",), kw_only=True)


@dataclass(frozen=True, slots=True)
class UnreadableRequests(Fault):
    """The server's list of launch requests cannot be read: absence cannot be shown."""

    methods: tuple[str, ...] = field(default=("resolve",), kw_only=True)


# Of everything.


@dataclass(frozen=True, slots=True)
class Unreachable(Fault):
    """The call raises ``BackendUnavailable`` before anything is sent."""


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """A call takes so much longer; past its deadline it raises.

    The wait lies before what is asked (``where="request"``: the gate is asked
    after it) or between what was done and the answer (``where="answer"``).
    """

    seconds: float = 5.0
    where: str = "answer"

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.where not in ("request", "answer"):
            raise InvalidSetting(f"Slow: where must be 'request' or 'answer'; got {self.where!r}.")


@dataclass(frozen=True, slots=True)
class SignInExpired(Fault):
    """From now on every call raises ``NeedsSignIn``, until ``backend.sign_in()``."""


@dataclass(frozen=True, slots=True)
class ServerRestart(Fault):
    """The server dies with its request list and queued launches, and is down so long; jobs go on."""

    seconds: float = 0.0


# Of jobs.


@dataclass(frozen=True, slots=True)
class Preemption(Fault):
    """A job that starts to run loses its machine after so long and recovers: RUNNING, RECOVERING, RUNNING."""

    after: float = 2.0
    seconds: float = 3.0
    """How long it recovers."""


@dataclass(frozen=True, slots=True)
class CancelIgnored(Fault):
    """The first so many cancels of a job are taken and have no effect; ``None``: all of them."""

    count: int | None = 1
    methods: tuple[str, ...] = field(default=("cancel",), kw_only=True)


KINDS: dict[str, type[Fault]] = {
    kind.__name__: kind
    for kind in (
        LostAnswer, LostRequest, LateRequest, QueuedRequest, Retried, Duplicate, LateDuplicate, Rejected,
        RejectedLater, FailedListing, PartialListing, LateListing, StaleListing, VanishedJob, UnknownStatus,
        UnreadableRequests, Unreachable, Slow, SignInExpired, ServerRestart, Preemption, CancelIgnored,
    )
}  # fmt: skip
"""Every fault by its name."""


def parse(text: str | Fault | type[Fault]) -> Fault:
    """``"LateListing(240, chance=0.5)"`` as a fault; a fault, or its class, as it is."""
    if isinstance(text, Fault):
        return text
    if isinstance(text, type) and issubclass(text, Fault):
        return text()
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        args = [ast.literal_eval(arg) for arg in call.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, AttributeError, TypeError):
        raise InvalidSetting(f"{text!r} is no fault; write one as 'LateListing(30, chance=0.5)'.") from None
    if name not in KINDS:
        near = difflib.get_close_matches(name or str(text), KINDS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(KINDS)}."
        raise InvalidSetting(f"There is no fault {text!r}; {hint}")
    try:
        return KINDS[name](*args, **named)
    except TypeError as error:
        raise InvalidSetting(f"The fault {text!r} cannot be made: {error}.") from None


@dataclass(slots=True)
class Injection:
    """One fault that was put in, and how often it may still strike (``None``: always)."""

    fault: Fault
    times: int | None
    number: int


F = TypeVar("F", bound=Fault)


class Faults:
    """The faults that are in, and the dice. Not thread-safe by itself: the server's lock guards it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = 0
        self._draws: dict[tuple[Any, ...], int] = {}
        self._injections: list[Injection] = []

    def inject(self, fault: Fault, times: int | None) -> None:
        if times is not None and times < 1:
            raise InvalidSetting(f"times must be 1 or more, or None for always; got {times!r}.")
        self._number += 1
        self._injections.append(Injection(fault, times, self._number))

    def heal(self, kinds: Iterable[type[Fault]]) -> None:
        chosen = tuple(kinds)
        self._injections = [one for one in self._injections if chosen and not isinstance(one.fault, chosen)]

    @property
    def active(self) -> tuple[Fault, ...]:
        return tuple(one.fault for one in self._injections)

    def strikes(self, kind: type[F], method: str, *names: str) -> F | None:
        """The first fault of this kind that strikes here; it has struck once more then."""
        return next(iter(self.striking(kind, method, *names, most=1)), None)

    def striking(self, kind: type[F], method: str, *names: str, most: int | None = None) -> list[F]:
        """All faults of this kind that strike here, each once more then."""
        found: list[F] = []
        for one in list(self._injections):
            fault = one.fault
            if len(found) == most or not isinstance(fault, kind):
                continue
            if method not in fault.methods or not (fault.matches(*names) if names else fault.name == "*"):
                continue
            if fault.chance < 1 and self.draw(one.number, kind.__name__, method, *names) >= fault.chance:
                continue
            if one.times is not None:
                one.times -= 1
                if one.times == 0:
                    self._injections.remove(one)
            found.append(fault)
        return found

    def draw(self, *key: Any) -> float:
        """The next number in [0, 1) of this key's own sequence."""
        nth = self._draws[key] = self._draws.get(key, 0) + 1
        return random.Random(f"{self._seed}:{key}:{nth}").random()
