"""Metrics and checkpoints come from the folders of runs, each once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.fake import FakeBackend
from skydeck_nb.control.syncing import Syncer
from skydeck_nb.errors import DatabaseError
from skydeck_nb.models import JobRow
from skydeck_nb.store.store import Store
from tests.control.rows import experiment, job


class Folders(FakeBackend):
    """A backend whose runs have folders that a test writes into."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def run_dir(self, job_id: int) -> Path | None:
        return self.root / "run"

    def checkpoint_dir(self, job_id: int) -> Path | None:
        return self.root / "checkpoints"


class Always:
    def __init__(self, term: int | None) -> None:
        self.term = term

    def held(self) -> int | None:
        return self.term


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "deck.db")
    made.apply(
        [
            ev.SpecChanged(
                at=datetime.now(UTC),
                experiment_id=1,
                what="created",
                generation=1,
                changes=(codec.insert(experiment()),),
            )
        ]
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "checkpoints").mkdir()
    yield made
    made.close()


@pytest.fixture
def syncer(store: Store, tmp_path: Path) -> Syncer:
    with store.write() as tx:
        term = tx.take_lease("me", "here", 1)
    return Syncer(store, Folders(tmp_path), Always(term), lambda: datetime.now(UTC))


def sync(syncer: Syncer, row: JobRow) -> None:
    syncer.offer([row])
    assert not syncer.sync()


def write(tmp_path: Path, text: str) -> None:
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(text)


def test_readings_are_taken_up_as_they_are_written(store: Store, syncer: Syncer, tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    sync(syncer, job())
    write(tmp_path, 'ss": 2.0}\n')
    sync(syncer, job())
    sync(syncer, job())
    with store.read() as tx:
        assert tx.recent_metric(1, "loss") == [(1, 3.0), (2, 2.0)]


def test_the_last_line_of_a_run_that_ended_counts_without_its_newline(
    store: Store, syncer: Syncer, tmp_path: Path
) -> None:
    write(tmp_path, '{"step": 7, "loss": 0.5}')
    sync(syncer, job())
    sync(syncer, job(1, "SUCCEEDED"))
    with store.read() as tx:
        assert tx.recent_metric(1, "loss") == [(7, 0.5)]


def test_readings_are_published_to_whoever_listens(store: Store, syncer: Syncer, tmp_path: Path) -> None:
    heard: list[str] = []
    store.subscribe(lambda stored: heard.extend(s.type for s in stored))
    write(tmp_path, '{"step": 1, "loss": 3.0}\n')
    sync(syncer, job())
    assert "metric.sampled" in heard


def test_a_checkpoint_is_found_once_and_again_when_it_changes(store: Store, syncer: Syncer, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "epoch_3.npz"
    file.write_bytes(b"12")
    sync(syncer, job())
    sync(syncer, job())
    file.write_bytes(b"1234")
    sync(syncer, job())
    with store.read() as tx:
        assert [(c.epoch, c.size) for c in tx.checkpoints([1])] == [(3, 4)]
        assert [line.type for line in tx.log()].count("checkpoint.found") == 2
        assert tx.folded() == tx.tables()


def test_a_bad_line_is_said_once_and_the_others_count(store: Store, syncer: Syncer, tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 3.0}\nnot json\n{"step": 2, "loss": 1.0}\n')
    sync(syncer, job())
    sync(syncer, job())
    with store.read() as tx:
        assert tx.recent_metric(1, "loss") == [(1, 3.0), (2, 1.0)]
        failed = [line for line in tx.log() if line.type == "sync.failed"]
    assert len(failed) == 1
    assert "line 2" in failed[0].payload


def test_what_could_not_be_written_is_read_again(
    store: Store, syncer: Syncer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, '{"step": 1, "loss": 3.0}\n')
    (tmp_path / "checkpoints" / "epoch_3.npz").write_bytes(b"12")

    def full(*_: object) -> None:
        raise DatabaseError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(syncer, "_write", full)
        syncer.offer([job(1, "SUCCEEDED")])
        with pytest.raises(DatabaseError):
            syncer.sync()
    assert not syncer.sync()
    with store.read() as tx:
        assert tx.recent_metric(1, "loss") == [(1, 3.0)]
        assert [c.epoch for c in tx.checkpoints([1])] == [3]


def test_who_does_not_lead_writes_nothing(store: Store, tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 3.0}\n')
    syncer = Syncer(store, Folders(tmp_path), Always(None), lambda: datetime.now(UTC))
    syncer.offer([job()])
    assert not syncer.sync()
    with store.read() as tx:
        assert tx.recent_metric(1, "loss") == []
