"""Row and event together or neither; whoever dies, waits, or looks on."""

from __future__ import annotations

import gc
import random
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.errors import DatabaseError, NameTaken
from skydeck_nb.store import Store, Stored
from tests.store.rows import T0, attempt, changed, declared, experiment, job


def test_an_exception_undoes_row_and_event(store: Store) -> None:
    heard: list[Stored] = []
    store.subscribe(heard.extend)
    with pytest.raises(ZeroDivisionError), store.write() as tx:  # noqa: PT012
        tx.apply(declared(experiment(1)))
        raise ZeroDivisionError
    with store.read() as tx:
        assert (tx.experiments(), tx.sequence) == ([], 0)
    assert heard == []


def test_a_kill_in_the_middle_of_writing_leaves_row_and_event_together(path: Path) -> None:
    script = f"""
    from skydeck_nb import codec
    from skydeck_nb.store import Store
    from tests.store.rows import changed, declared, experiment
    store = Store.open({str(path)!r})
    print("ready", flush=True)
    with store.read() as tx:
        first = tx.sequence + 1
    for n in range(first, 10**6):
        store.apply([*declared(experiment(n)), *(changed(n, codec.patch_change("experiments", i, exp_order=n / 7))
                     for i in range(max(1, n - 20), n + 1))][:1 + n % 21])
        if n == first: print("wrote", flush=True)
    """
    dice = random.Random(7)
    seen = 0
    for _ in range(4):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(script).replace(
                    "first = tx.sequence + 1", "first = tx.next_id('experiments') if tx.sequence else 1"
                ),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "wrote\n"]
        for _ in range(dice.randrange(20_000)):
            pass
        process.kill()
        process.communicate()
        store = Store.open(path)
        with store.read() as tx:
            assert tx.folded() == tx.tables()
            assert tx.sequence > seen
            seen = tx.sequence
        store.close()


def test_bulk_and_single_writers_take_turns(path: Path) -> None:
    """Four threads of two stores: nothing is lost, nothing is refused."""
    stores = [Store.open(path), Store.open(path)]

    def write(n: int) -> None:
        for _ in range(25):
            with stores[n % 2].write() as tx:
                i = tx.next_id("experiments")
                tx.apply(declared(experiment(i), experiment(i + 1)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with stores[0].read() as tx:
        assert [e.id for e in tx.experiments()] == list(range(1, 201))
        assert tx.folded() == tx.tables()
    for store in stores:
        store.close()


def test_a_snapshot_does_not_move(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with store.read() as tx:
        writer = threading.Thread(target=store.apply, args=(declared(experiment(2)),))
        writer.start()
        writer.join()
        assert (len(tx.experiments()), tx.sequence) == (1, 1)
    with store.read() as tx:
        assert (len(tx.experiments()), tx.sequence) == (2, 2)


def test_every_thread_has_a_connection_of_its_own_which_ends_with_it(store: Store) -> None:
    kept: list[int] = []

    def look() -> None:
        with store.read():
            kept.append(len(store._connections))

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    gc.collect()
    assert kept == [1, 2]
    assert len(store._connections) == 1, "closed with its thread"


def test_close_ends_the_connections_of_all_threads(store: Store) -> None:
    go, done = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def wait() -> None:
        with store.read() as tx:
            tx.experiments()
        done.set()
        go.wait()
        try:
            with store.read():
                pass
        except DatabaseError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    done.wait()
    store.close()
    assert not Path(f"{store.path}-wal").exists(), "the last connection takes the log with it"
    go.set()
    thread.join()
    assert "was closed" in str(errors[0])
    store.close()


def test_a_transaction_that_is_open_while_another_thread_closes_ends_well(store: Store) -> None:
    with store.write() as tx:
        tx.apply(declared(experiment(1)))
        closer = threading.Thread(target=store.close)
        closer.start()
        closer.join()
        tx.apply(declared(experiment(2)))
    again = Store.open(store.path)
    with again.read() as tx:
        assert len(tx.experiments()) == 2
    again.close()


def test_a_fork_cannot_use_its_parents_connections(store: Store) -> None:
    pid = store._pid
    store._pid = pid + 1
    with pytest.raises(DatabaseError, match="before a fork"), store.read():
        pass
    store._pid = pid


def test_a_transaction_inside_a_transaction_is_a_mistake(store: Store) -> None:
    with store.read(), pytest.raises(RuntimeError, match="open in this thread already"), store.write():
        pass
    with store.read() as tx, pytest.raises(DatabaseError, match="reads only"):
        tx.apply(declared(experiment(1)))


# -- the file is not what it was ----------------------------------------------------------


def test_a_deleted_file_stops_writing(store: Store) -> None:
    store.path.unlink()
    with pytest.raises(DatabaseError, match=r"deleted or replaced.*restart this kernel"), store.write():
        pytest.fail("the transaction began")
    assert not store.path.exists(), "and is not made again"


def test_a_file_deleted_within_a_transaction_is_noticed_before_its_commit(store: Store) -> None:
    heard: list[Stored] = []
    store.subscribe(heard.extend)
    with pytest.raises(DatabaseError, match="deleted or replaced"), store.write() as tx:  # noqa: PT012
        tx.apply(declared(experiment(1)))
        store.path.unlink()
    assert heard == []


def test_a_replaced_file_stops_writing_in_old_and_new_threads(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other.db")
    other.close()
    other.path.replace(store.path)
    with pytest.raises(DatabaseError, match="deleted or replaced"):
        store.apply(declared(experiment(1)))
    with ThreadPoolExecutor(1) as pool, pytest.raises(DatabaseError, match="deleted or replaced"):
        pool.submit(store.apply, declared(experiment(1))).result()


def test_nothing_here_opens_the_file_itself(path: Path) -> None:
    """A descriptor that is closed drops the process's locks: SQLite alone may have one, once the file exists."""
    Store.open(path).close()
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and watching[0] else None)
    store = Store.open(path)
    store.apply(declared(experiment(1)), durable=True)
    store.close()
    Store.open(path, read_only=True).close()
    watching[0] = False
    assert str(path) not in opened


# -- SQLite says no -----------------------------------------------------------------------


def test_a_full_disk_says_so_and_writes_nothing(store: Store) -> None:
    with store.write() as tx:
        pages = tx.db.execute("PRAGMA page_count").fetchall()[0][0]
        tx.db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(DatabaseError, match=r"No space is left for .*nothing was written: free some"):
        store.apply(declared(*(experiment(i, description="x" * 5000) for i in range(1, 50))))
    with store.read() as tx:
        assert (tx.experiments(), tx.sequence) == ([], 0)


def test_another_writer_is_waited_for_as_long_as_asked(store: Store) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match=r"holds .* locked for longer than was waited"), store.write(timeout=0.05):
        pass
    other.execute("ROLLBACK")
    other.close()
    store.apply(declared(experiment(1)))


def test_a_name_that_is_taken_says_so(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with pytest.raises(NameTaken, match="Another experiment that is not deleted has this name"):
        store.apply(declared(experiment(2, name="e1")))
    store.apply([changed(1, codec.patch_change("experiments", 1, deleted=True))])
    store.apply(declared(experiment(2, name="e1")))


def test_one_open_attempt_an_experiment(store: Store) -> None:
    store.apply(declared(experiment(1)))
    store.apply([changed(1, codec.insert(attempt("a", 1)))])
    with pytest.raises(DatabaseError, match=r"UNIQUE constraint failed: attempts\.experiment_id"):
        store.apply([changed(1, codec.insert(attempt("b", 1, state="UNKNOWN")))])
    store.apply([changed(1, codec.insert(attempt("c", 1, state="SUBMITTED")))])


def test_a_job_of_no_experiment_is_refused_at_the_commit(store: Store) -> None:
    with pytest.raises(DatabaseError, match="FOREIGN KEY"):
        store.apply([changed(7, codec.insert(job(1, 7)))])
    store.apply(
        [
            changed(7, codec.insert(job(1, 7))),
            *declared(experiment(1)),
            changed(1, codec.patch_change("jobs", 1, experiment_id=1)),
        ]
    )


def test_text_that_is_no_text_and_numbers_too_large_are_named(store: Store) -> None:
    for bad in (experiment(1, description="\ud800"), experiment(1, priority=2**70)):
        with pytest.raises(DatabaseError, match=r"A value for experiments .* cannot be stored"):
            store.apply(declared(bad))
    with pytest.raises(ValueError, match="NaN"):
        declared(experiment(1, max_hours=float("nan")))


# -- safe and quick commits ---------------------------------------------------------------


def test_durable_writes_are_synced_and_others_are_not(store: Store) -> None:
    def level(durable: bool) -> int:
        with store.write(durable=durable) as tx:
            return int(tx.db.execute("PRAGMA synchronous").fetchall()[0][0])

    assert [level(True), level(False), level(True)] == [2, 1, 2]
    with store.read() as tx:
        assert tx.db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
        assert tx.db.execute("PRAGMA foreign_keys").fetchall() == [(1,)]


def test_a_request_is_five_statements(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with store.trace() as statements:
        store.apply([ev.StopRequested(at=T0, experiment_id=1)])
    assert [s.split()[0] for s in statements] == ["BEGIN", "PRAGMA", "SELECT", "INSERT", "COMMIT"]
    store.apply([ev.StopRequested(at=T0, experiment_id=1)])
    assert len(statements) == 5, "nobody listens any more"


def test_facts_go_in_chunks(store: Store) -> None:
    events = declared(*(experiment(i) for i in range(1, 11)))
    sizes: list[int] = []
    store.subscribe(lambda stored: sizes.append(len(stored)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("skydeck_nb.store.store.CHUNK", 4)
        assert store.apply(events, chunk=True) == 10
        assert store.apply([changed(1)]) == 11
    assert sizes == [4, 4, 2, 1]


# -- following ----------------------------------------------------------------------------


def test_listeners_hear_after_the_commit_and_may_write(store: Store) -> None:
    heard: list[tuple[int, str]] = []

    def listen(stored: tuple[Stored, ...]) -> None:
        heard.extend((s.sequence, s.type) for s in stored)
        with store.read() as tx:
            assert tx.sequence >= stored[-1].sequence
        if len(heard) == 1:
            store.apply([ev.StopRequested(at=T0, experiment_id=1)])

    end = store.subscribe(listen)
    store.apply(declared(experiment(1)))
    assert heard == [(1, "spec.changed"), (2, "stop.requested")]
    end()
    store.apply([ev.StopRequested(at=T0, experiment_id=1)])
    assert len(heard) == 2


def test_a_listener_that_fails_is_logged_and_the_commit_stands(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Stored] = []
    store.subscribe(lambda stored: 1 / 0)  # type: ignore[arg-type]
    store.subscribe(heard.extend)
    assert store.apply(declared(experiment(1))) == 1
    assert len(heard) == 1
    assert "ZeroDivisionError" in caplog.text


def test_what_is_only_published_reaches_listeners_and_never_the_log(store: Store) -> None:
    heard: list[Stored] = []
    store.subscribe(heard.extend)
    sample = ev.MetricSampled(at=T0, experiment_id=1, job_id=2, name="loss", value=0.5)
    store.publish([sample])
    assert heard == [Stored(0, sample)]
    with pytest.raises(ValueError, match="use publish"):
        store.apply([sample])
    with pytest.raises(ValueError, match="use apply"):
        store.publish([ev.StopRequested(at=T0, experiment_id=1)])


def test_data_version_tells_of_own_and_others_commits_and_of_nothing_else(store: Store) -> None:
    other = Store.open(store.path)
    versions = [store.data_version(), store.data_version()]
    other.apply(declared(experiment(1)))
    versions.append(store.data_version())
    store.apply(declared(experiment(2)))
    versions += [store.data_version(), store.data_version()]
    assert versions[0] == versions[1] < versions[2] < versions[3] == versions[4]
    other.close()


def test_the_log_keeps_what_was_said_and_under_which_term(store: Store) -> None:
    store.apply(declared(experiment(1)), term=4)
    store.apply([ev.JobStarted(at=T0, experiment_id=1, job_id=9, started_at=T0)])
    with store.read() as tx:
        first, second = tx.log()
        assert (first.term, first.is_request, first.event) == (4, True, declared(experiment(1))[0])
        assert (second.term, second.is_request, second.type, second.job_id) == (None, False, "job.started", 9)
        assert second.event == ev.JobStarted(at=T0, experiment_id=1, job_id=9, started_at=T0)
        assert tx.log(1) == [second]
        assert tx.log(types=["spec.changed"], limit=5) == [first]
        assert tx.log(experiment_ids=[2]) == []
