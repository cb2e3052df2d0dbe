"""An edit of experiments that exist, to the rows that are to stand.

Decides what ``update`` and ``duplicate`` change, when a change applies and what
makes a new generation. Refuses to know the database, the backend and clocks,
and leaves alone what a cell has declared: an edit is not the cell's word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from skydeck_nb import codec
from skydeck_nb.control import requesting
from skydeck_nb.control.requesting import Outcome, Work, check_name
from skydeck_nb.declaration import Said, Surroundings, agreed, differences, loose_of, of_row, plain, spec_of
from skydeck_nb.errors import InvalidFlag, InvalidSetting, NameTaken
from skydeck_nb.events import Event, SpecChanged
from skydeck_nb.flags.command import validate
from skydeck_nb.flags.values import check_key, spec_hash, suggest
from skydeck_nb.models import ExperimentRow
from skydeck_nb.selection import shortened


@dataclass(frozen=True, slots=True)
class Edit:
    """What one call changes: flags merged and removed, keywords set."""

    keywords: Mapping[str, Any]
    unset: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Edited:
    """An outcome with the time at which the change takes effect: ``applies``."""

    outcome: Outcome
    applies: str


def update(
    rows: Iterable[ExperimentRow], edit: Edit, work: Work, around: Surroundings, now: datetime
) -> tuple[list[Event], list[Edited]]:
    """Change these experiments, all or none; raises where one of them cannot be so."""
    events: list[Event] = []
    done: list[Edited] = []
    if "groups" in edit.keywords:
        raise InvalidSetting("groups= is for deck.create and deck.sweep; a group of its own is made there.")
    keywords = {key: value for key, value in edit.keywords.items() if key != "flags"}
    own = plain(keywords, around)
    flags = plain({"flags": edit.keywords.get("flags") or {}}, around).get("flags", {})
    dropped = {keyword for keyword in keywords if keyword not in own}
    for row in rows:
        stands = of_row(row)
        what = _edit(row, stands, own, dropped, flags, edit.unset)
        changes = differences(stands, what)
        if row.deleted or not changes:
            why = "deleted: undelete it first" if row.deleted else "is so already"
            done.append(Edited(Outcome(row.id, row.name, "skipped", why), ""))
            continue
        after = replace(edited(row, agreed(what), around), updated_at=now)
        change = codec.update(row, after)
        assert change is not None
        events.append(
            SpecChanged(at=now, experiment_id=row.id, what="edited", generation=after.generation, changes=(change,))
        )
        carried = after.generation != row.generation or after.max_hours != row.max_hours  # by the job itself
        when = applies(row, work) if carried else "at once"
        done.append(Edited(Outcome(row.id, row.name, "updated", shortened(changes, 4)), when))
    return events, done


def _edit(
    row: ExperimentRow, stands: Said, own: Said, dropped: set[str], flags: Mapping[str, Any], unset: Sequence[str]
) -> Said:
    what = {keyword: value for keyword, value in stands.items() if keyword not in dropped}
    if "accelerators" in own and "gpus" not in own:
        what.pop("gpus", None)
    if "gpus" in own and "accelerators" in what and "accelerators" not in own:
        what["accelerators"] = f"{what['accelerators'].rpartition(':')[0]}:{own['gpus']}"
    if "accelerators" in dropped and "gpus" not in own:
        what.pop("gpus", None)
    for one, other in (("command", "script"), ("script", "command")):
        if one in own:
            what.pop(other, None)
    what.update(own)
    merged = {**stands.get("flags", {}), **flags}
    for key in [unset] if isinstance(unset, str) else unset:
        if check_key(key) not in merged:
            raise InvalidFlag(f"{row.name} has no flag {key!r} to unset.{suggest(key, merged)}")
        del merged[key]
    what["flags"] = merged
    if not merged:
        del what["flags"]
    return what


def duplicate(
    row: ExperimentRow,
    to: str,
    flags: Mapping[Any, Any] | None,
    taken: Mapping[str, int],
    number: int,
    around: Surroundings,
    now: datetime,
) -> tuple[list[Event], ExperimentRow]:
    """Another experiment with the same spec, and these flags besides; it stands right after the first."""
    check_name(to)
    if to in taken:
        raise NameTaken(f"{to!r} is the name of another experiment: choose another name.")
    own = plain({"flags": flags or {}}, around).get("flags", {})
    what = of_row(row)
    what["flags"] = {**what.get("flags", {}), **own}
    if not what["flags"]:
        del what["flags"]
    spec = spec_of(what, around, row.spec)
    validate(spec, to)
    around.check(spec)
    copy = ExperimentRow(
        id=number,
        name=to,
        spec=spec,
        spec_hash=spec_hash(spec),
        exp_order=row.exp_order + 1e-6 * number,
        created_at=now,
        updated_at=now,
        **loose_of(what),
    )
    event = SpecChanged(at=now, experiment_id=number, what="duplicated", generation=1, changes=(codec.insert(copy),))
    return [event], copy


def applies(row: ExperimentRow, work: Work) -> str:
    """When a change of what is executed takes effect."""
    if work.busy(row.id):
        return "after restart"
    return "when run again" if requesting.phase(row, work) in ("succeeded", "failed") else "at launch"


def edited(row: ExperimentRow, what: Said, around: Surroundings, *, anew: bool = False) -> ExperimentRow:
    """The row as this declaration has it: a new generation where what is executed changed."""
    spec = spec_of(what, around, None if anew else row.spec)
    validate(spec, row.name)
    around.check(spec)
    digest = spec_hash(spec)
    return replace(
        row,
        spec=spec if digest != row.spec_hash or anew else row.spec,
        spec_hash=digest,
        generation=row.generation + (digest != row.spec_hash),
        **loose_of(what),
    )
