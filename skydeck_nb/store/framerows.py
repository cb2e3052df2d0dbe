"""The SELECTs behind the frames: raw cells, in the order of the columns that ``frames`` names.

Decides which rows a frame of the deck has. Refuses to know pandas: what comes
back are ``fetchall()`` tuples, so that a frame of 100,000 rows costs one query.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from skydeck_nb.states import ALIVE_STATES
from skydeck_nb.store.lease import Leases
from skydeck_nb.store.schema import ALIVE_SQL

Cells = list[tuple[Any, ...]]
Ids = Collection[int] | None

_ALIVE_STATES = ", ".join(f"'{state}'" for state in sorted(ALIVE_STATES))
_MANY = "SELECT value FROM json_each(?)"


def _among(column: str, values: Collection[Any] | None) -> tuple[list[str], list[Any]]:
    return ([], []) if values is None else ([f"{column} IN ({_MANY})"], [json.dumps(list(values))])


def _where(*parts: tuple[Sequence[str], Sequence[Any]]) -> tuple[str, list[Any]]:
    terms = [term for wanted, _ in parts for term in wanted]
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), [p for _, params in parts for p in params]


def _said(*terms: str) -> tuple[list[str], list[Any]]:
    return [term for term in terms if term], []


class FrameRows(Leases):
    """The part of a transaction that the frames read."""

    def experiment_cells(self, ids: Ids = None, *, deleted: bool = False, flags: bool = True) -> Cells:
        """``frames.EXPERIMENT_COLUMNS`` in the deck's order; with ``deleted`` also those that are."""
        where, params = _where(_among("id", ids), _said("" if deleted else "deleted = 0"))
        return self._all(
            "SELECT name, id, desired_state, run, observed_run, current_state, reason, attention, starred, nodes, "
            f"gpus, accelerators, spot, git_commit, created_at, tags, {'flags' if flags else 'NULL'} "
            f"FROM experiments{where} ORDER BY exp_order, id",
            params,
        )

    def job_totals(self, now: int, ids: Ids = None) -> Cells:
        """``frames.TOTAL_COLUMNS``; ``now`` in microseconds counts for jobs that are alive.

        The bare columns are those of the row with the greatest ``max()``, as SQLite documents.
        """
        where, params = _where(_among("j.experiment_id", ids))
        alive = _alive("j")
        return self._all(
            "SELECT experiment_id, jobs, launched, recoveries, gpu_us, alive, started_at, ended_at, cost_us FROM ("
            "SELECT j.experiment_id, count(*) AS jobs, sum(j.run = e.run) AS launched, "
            "sum(CASE WHEN j.run = e.run THEN j.recoveries ELSE 0 END) AS recoveries, "
            f"{_USED}, "
            f"({alive}) AS alive, j.started_at, j.ended_at, "
            "max(CASE WHEN j.id = e.current_job_id THEN 9223372036854775807 ELSE j.created_at END) "
            f"FROM jobs j JOIN experiments e ON e.id = j.experiment_id{where} GROUP BY j.experiment_id)",
            [now, now, *params],
        )

    def epochs(self, ids: Ids = None) -> Cells:
        """``frames.EPOCH_COLUMNS``."""
        where, params = _where(_among("experiment_id", ids))
        return self._all(f"SELECT experiment_id, max(epoch) FROM checkpoints{where} GROUP BY experiment_id", params)

    def memberships(self, ids: Ids = None) -> Cells:
        """``frames.MEMBERSHIP_COLUMNS``."""
        where, params = _where(_among("m.experiment_id", ids))
        return self._all(
            "SELECT m.experiment_id, g.name FROM experiment_group_members m "
            f"JOIN experiment_groups g ON g.id = m.group_id{where} ORDER BY g.group_order, g.id",
            params,
        )

    def latest_cells(self, ids: Ids = None) -> Cells:
        """``frames.LATEST_COLUMNS``."""
        where, params = _where(_among("experiment_id", ids))
        return self._all(f"SELECT experiment_id, name, value FROM metric_latest{where}", params)

    def job_cells(self, experiment_ids: Ids = None, *, live: bool | None = None, all_users: bool = False) -> Cells:
        """``frames.JOB_COLUMNS``: the jobs of experiments, and with ``all_users`` everybody's that was seen."""
        alive = "" if live is None else _alive("j") if live else f"NOT ({_alive('j')})"
        ours = "(j.experiment_id IS NOT NULL OR j.forgotten = 0)" if all_users else "j.experiment_id IS NOT NULL"
        where, params = _where(_among("j.experiment_id", experiment_ids), _said(alive, ours))
        return self._all(
            "SELECT j.id, e.name, j.attempt_id, j.run, j.status, j.started_at, j.ended_at, j.exit_code, j.recoveries, "
            "j.infra, j.nodes, j.gpus, j.accelerators, j.generation, j.git_commit, j.command, j.user, j.workspace, "
            f"j.url, ({_alive('j')}), j.lost OR j.forgotten, j.hourly_cost "
            f"FROM jobs j LEFT JOIN experiments e ON e.id = j.experiment_id{where} ORDER BY j.id",
            params,
        )

    def orphan_cells(self, *, all_users: bool = False) -> Cells:
        """``frames.ORPHAN_COLUMNS``: jobs that carry no claim of this deck, and were there at the last look."""
        where, params = _where(_said("experiment_id IS NULL AND forgotten = 0", "" if all_users else "mine = 1"))
        return self._all(
            "SELECT id, name, status, submitted_at, started_at, ended_at, infra, nodes, gpus, accelerators, command, "
            f"user, mine, workspace, url, ({ALIVE_SQL}), lost OR forgotten FROM jobs{where} ORDER BY id",
            params,
        )

    def cluster_cells(self) -> Cells:
        """``frames.CLUSTER_COLUMNS``: the clusters of live jobs."""
        return self._all(
            "SELECT j.cluster_name, e.name, j.id, j.status, j.infra, j.nodes, j.gpus, j.accelerators, j.started_at, "
            "j.user, 1, j.lost FROM jobs j LEFT JOIN experiments e ON e.id = j.experiment_id "
            f"WHERE ({_alive('j')}) AND j.cluster_name IS NOT NULL AND (j.experiment_id IS NOT NULL OR j.mine = 1) "
            "ORDER BY j.cluster_name, j.id"
        )

    def attempt_cells(self, experiment_ids: Ids = None) -> Cells:
        """``frames.ATTEMPT_COLUMNS``, oldest first."""
        where, params = _where(_among("a.experiment_id", experiment_ids))
        return self._all(
            "SELECT a.id, e.name, a.run, a.generation, a.state, a.claim, a.job_id, a.request_id, a.term, a.created_at, "
            "a.send_before, a.ended_at, a.misses, a.error "
            f"FROM attempts a JOIN experiments e ON e.id = a.experiment_id{where} ORDER BY a.created_at, a.id",
            params,
        )

    def metric_cells(self, experiment_ids: Ids = None, names: Collection[str] | None = None) -> Cells:
        """``frames.METRIC_COLUMNS``: the curves as far as they are kept here."""
        where, params = _where(_among("m.experiment_id", experiment_ids), _among("m.name", names))
        return self._all(
            "SELECT e.name, m.job_id, m.step, m.at, m.name, m.value FROM metrics m "
            f"JOIN experiments e ON e.id = m.experiment_id{where} ORDER BY m.experiment_id, m.name, m.n",
            params,
        )

    def checkpoint_cells(self, experiment_ids: Ids = None, *, epoch: int | None = None, flags: bool = False) -> Cells:
        """``frames.CHECKPOINT_COLUMNS``, by experiment and epoch."""
        only = ([], []) if epoch is None else (["c.epoch = ?"], [epoch])
        where, params = _where(_among("c.experiment_id", experiment_ids), only)
        return self._all(
            "SELECT e.name, c.epoch, e.id, c.model_path, c.replay_paths, c.size, c.created_at, c.policy_version, "
            f"c.metrics, {'e.flags' if flags else 'NULL'} "
            f"FROM checkpoints c JOIN experiments e ON e.id = c.experiment_id{where} ORDER BY e.name, c.epoch",
            params,
        )

    def event_cells(self, experiment_ids: Ids = None, *, since: int | None = None) -> Cells:
        """``frames.EVENT_COLUMNS`` after the sequence ``since``."""
        after = ([], []) if since is None else (["v.sequence > ?"], [since])
        where, params = _where(_among("v.experiment_id", experiment_ids), after)
        return self._all(
            "SELECT v.sequence, v.at, v.type, e.name, v.job_id, v.payload FROM events v "
            f"LEFT JOIN experiments e ON e.id = v.experiment_id{where} ORDER BY v.sequence",
            params,
        )

    def group_cells(self) -> Cells:
        """``frames.GROUP_COLUMNS`` in the groups' order."""
        return self._all(
            f"SELECT g.name, g.id, count(e.id), coalesce(sum(e.current_state IN ({_ALIVE_STATES})), 0), g.max_live, "
            "g.flags, g.collapsed, g.created_at FROM experiment_groups g "
            "LEFT JOIN experiment_group_members m ON m.group_id = g.id "
            "LEFT JOIN experiments e ON e.id = m.experiment_id AND e.deleted = 0 "
            "GROUP BY g.id ORDER BY g.group_order, g.id"
        )

    def sweep_cells(self, now: int) -> Cells:
        """``frames.SWEEP_COLUMNS``, oldest first; ``now`` as in :meth:`job_totals`."""
        return self._all(
            f"SELECT s.name, s.id, count(e.id), coalesce(sum(e.current_state IN ({_ALIVE_STATES})), 0), "
            "coalesce(sum(e.current_state = 'SUCCEEDED'), 0), coalesce(sum(e.current_state = 'FAILED'), 0), "
            "s.max_live, s.brake, s.brake_message, s.created_at, s.updated_at, u.jobs, u.gpu_us, u.cost_us, "
            "s.max_gpu_hours, s.max_cost FROM sweeps s "
            "LEFT JOIN experiments e ON e.sweep_id = s.id AND e.deleted = 0 "
            f"LEFT JOIN (SELECT m.sweep_id, count(*) AS jobs, {_USED} FROM jobs j "
            "JOIN experiments m ON m.id = j.experiment_id WHERE m.sweep_id IS NOT NULL GROUP BY m.sweep_id) u "
            "ON u.sweep_id = s.id GROUP BY s.id ORDER BY s.id",
            (now, now),
        )


def _alive(alias: str) -> str:
    """The schema's condition for a live job, with the columns of one alias."""
    return ALIVE_SQL.replace("status", f"{alias}.status").replace("forgotten", f"{alias}.forgotten")


_RAN = f"(CASE WHEN j.ended_at IS NULL AND ({_alive('j')}) THEN ? ELSE j.ended_at END - j.started_at)"
_USED = f"sum({_RAN} * j.gpus * coalesce(j.nodes, 1)) AS gpu_us, sum({_RAN} * j.hourly_cost) AS cost_us"
"""Two sums over jobs ``j``, by the microsecond; each takes the present moment as a parameter."""
