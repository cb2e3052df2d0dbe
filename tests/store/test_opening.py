"""Which files are taken, which are refused untouched, and what is said about where they lie."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from skydeck_nb.errors import DatabaseDamaged, DatabaseError, DatabaseTooNew, WrongBackend
from skydeck_nb.store import Store, leave_wal, location
from skydeck_nb.store.location import Mount
from tests.store.rows import declared, experiment

LOCAL = {"kind": "local", "place": "box", "scope": "ann"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def table(folder: Path, kind: str) -> str:
    """A mount table that says what file system this folder is."""
    point = str(folder).replace(" ", "\\040")
    return f"22 1 8:1 / / rw - ext4 /dev/sda rw\n23 22 0:9 / {point} rw,relatime shared:7 - {kind} server:/x rw\n"


@pytest.fixture
def network(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The deck's folder, said to be on NFS."""
    path.parent.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(location, "mountinfo", lambda: table(path.parent, "nfs4"))
    return path


@pytest.fixture
def elsewhere(store: Store) -> Iterator[sqlite3.Connection]:
    """Another program, connected to the same file."""
    connection = sqlite3.connect(store.path)
    connection.execute("SELECT count(*) FROM deck").fetchall()
    yield connection
    connection.close()


# -- a new file ---------------------------------------------------------------------------


def test_file_and_folders_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a" / "b" / "deck.db")
    assert [mode(p) for p in (store.path, store.path.parent, tmp_path / "a")] == [0o600, 0o700, 0o700]
    assert store.notices == ()
    store.close()


def test_the_database_knows_its_own_random_name(path: Path, tmp_path: Path) -> None:
    first, other = Store.open(path), Store.open(tmp_path / "other.db")
    again = Store.open(path)
    assert first.deck_id == again.deck_id != other.deck_id
    assert len(first.deck_id) == 6
    assert set(first.deck_id) <= set("abcdefghijklmnopqrstuvwxyz234567")
    for store in (first, other, again):
        store.close()


def test_paths_become_absolute_and_may_hold_any_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real ?#%41 é")
    store = Store.open("link/deck.db")
    assert store.path == tmp_path / "real ?#%41 é" / "deck.db"
    assert store.path.exists()
    store.close()


def test_wider_modes_are_reported_once_and_left(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o755)
    Store.open(path).close()
    path.chmod(0o644)
    store = Store.open(path)
    assert [n for n in store.notices if "mode 0644" in n and "chmod 0600" in n]
    assert [n for n in store.notices if "mode 0755" in n and "chmod 0700" in n]
    store.close()
    again = Store.open(path)
    assert again.notices == ()
    assert (mode(path), mode(path.parent)) == (0o644, 0o755)
    again.close()


def test_a_place_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatabaseError, match=r"file/deck\.db cannot be made: "):
        Store.open(tmp_path / "file" / "deck.db")
    with pytest.raises(DatabaseError, match="is not a file"):
        Store.open(tmp_path)


# -- whose it is --------------------------------------------------------------------------


def test_a_database_belongs_to_the_backend_that_claimed_it_first(path: Path) -> None:
    store = Store.open(path)
    assert store.identity() is None
    store.claim_identity(LOCAL)
    store.claim_identity(LOCAL)
    assert store.identity() == LOCAL
    with pytest.raises(WrongBackend, match=r"belongs to local on box as ann.* opened for fake on seed 1.*sd\.open\("):
        store.claim_identity({"kind": "fake", "place": "seed 1", "scope": ""})
    store.close()


def test_the_original_skydeck_s_database_is_refused_untouched(path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE experiments (id INTEGER PRIMARY KEY, name TEXT UNIQUE, base_command TEXT, tool_path TEXT)"
    )
    old.commit()
    old.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"original SkyDeck.*left untouched.*sd\.open\("):
        Store.open(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_database_of_something_else_is_refused_untouched(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"something else \(tables: bookmarks\)"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_file_says_restart(path: Path) -> None:
    Store.open(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    for read_only in (False, True):
        with pytest.raises(DatabaseTooNew, match="restart this kernel"):
            Store.open(path, read_only=read_only)


# -- broken files -------------------------------------------------------------------------


def filled(path: Path) -> None:
    store = Store.open(path)
    store.apply(declared(*(experiment(i, description="x" * 500) for i in range(1, 301))))
    store.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 500)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def corrupt(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(3, size // 4096, 2):
            file.seek(page * 4096)
            file.write(os.urandom(4096))


@pytest.mark.parametrize("breakage", [garbage, truncated, corrupt])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_broken_file_says_where_its_newest_backup_lies(path: Path, breakage: object, read_only: bool) -> None:
    filled(path)
    assert callable(breakage)
    breakage(path)
    with pytest.raises(DatabaseDamaged, match="There is no backup"):
        Store.open(path, read_only=read_only)
    for stamp in ("20250101T000000.000000Z", "20260101T000000.000000Z"):
        path.with_name(f"{path.name}.{stamp}.v1.backup").touch()
    with pytest.raises(DatabaseDamaged, match=r"newest backup is .*db\.20260101T000000\.000000Z\.v1\.backup"):
        Store.open(path, read_only=read_only)


def test_a_file_cut_to_nothing_is_not_taken_for_a_new_one(path: Path) -> None:
    filled(path)
    shutil.copy(path, path.with_name(f"{path.name}.20260101T000000.000000Z.v1.backup"))
    os.truncate(path, 0)
    with pytest.raises(DatabaseDamaged, match="it is empty"):
        Store.open(path)


def test_a_page_that_breaks_while_it_is_open_is_noticed(path: Path) -> None:
    filled(path)
    store = Store.open(path)
    corrupt(path)
    with pytest.raises(DatabaseDamaged, match=r"broken: .*malformed"), store.read() as tx:
        tx.tables()
    store.close()


def test_a_damaged_shm_beside_it_costs_nothing(path: Path) -> None:
    """Another process is killed while it holds committed work in the log; then its index of the log is overwritten."""
    script = f"""
    import os, signal
    from skydeck_nb.store import Store
    from tests.store.rows import declared, experiment
    store = Store.open({str(path)!r})
    store.apply(declared(experiment(1)), durable=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    Path(f"{path}-shm").write_bytes(os.urandom(32768))
    with Path(f"{path}-wal").open("ab") as log:
        log.write(os.urandom(5000))
    store = Store.open(path)
    with store.read() as tx:
        assert [e.id for e in tx.experiments()] == [1]
    store.close()


# -- reading only -------------------------------------------------------------------------


def test_read_only_reads_and_never_writes(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    store = Store.open(path, read_only=True)
    with store.read() as tx:
        assert len(tx.experiments()) == 300
    with pytest.raises(DatabaseError, match="read_only=True: nothing can be written"):
        store.apply(declared(experiment(999)))
    store.claim_identity(LOCAL)
    assert store.identity() is None
    store.close()
    assert path.read_bytes() == before


def test_read_only_follows_a_writer(path: Path) -> None:
    filled(path)
    reader, writer = Store.open(path, read_only=True), Store.open(path)
    before = reader.data_version()
    writer.apply(declared(experiment(301)))
    assert reader.data_version() != before
    with reader.read() as tx:
        assert len(tx.experiments()) == 301
    reader.close()
    writer.close()


READER = """
import os, sys
from skydeck_nb.errors import DatabaseError
from skydeck_nb.store import Store
os.setgid(65534); os.setuid(65534)
path = sys.argv[1]
try:
    Store.open(path)
except DatabaseError as error:
    print(error, flush=True)
store = Store.open(path, read_only=True)
while True:
    with store.read() as tx:
        found = len(tx.experiments())
    print(found, flush=True)
    if sys.stdin.readline() != "again\\n":
        break
store.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_read_only_works_where_nothing_can_be_written() -> None:
    """As another user, in a folder and on a file of somebody else, who begins to write meanwhile."""
    folder = Path("/tmp") / f"skydeck-ro-{os.getpid()}"
    path = folder / "deck.db"
    try:
        filled(path)
        path.chmod(0o444)
        folder.chmod(0o555)
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            assert "open the deck with read_only=True" in reader.stdout.readline()
            assert reader.stdout.readline() == "300\n"
            assert [p.name for p in folder.iterdir()] == [path.name], "nothing was left beside it"
            writer = Store.open(path)
            writer.apply(declared(experiment(301)))
            reader.stdin.write("again\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "301\n"
            writer.close()
        assert reader.returncode == 0
    finally:
        shutil.rmtree(folder)


def test_read_only_does_not_make_a_file(path: Path) -> None:
    with pytest.raises(DatabaseError, match="There is no file"):
        Store.open(path, read_only=True)
    assert not path.parent.exists()


# -- network file systems -----------------------------------------------------------------


def test_the_mount_table_is_read_as_the_kernel_writes_it() -> None:
    lines = ["1 0 8:1 / / rw - ext4 /dev/a rw", "2 1 0:5 / /home/a\\040b rw master:1 - nfs4 s:/ rw"]
    text = "\n".join([*lines, "3 1 0:6 / /home rw - xfs x rw", ""])
    assert location.mounts(text) == [Mount("/", "ext4"), Mount("/home/a b", "nfs4"), Mount("/home", "xfs")]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/ann/x", "nfs"), ("/home/annie", "xfs"), ("/home/ann/local", "ext4"), ("/var", "overlay")],
)
def test_the_longest_mount_point_holds_the_folder_and_the_later_of_two(folder: str, kind: str) -> None:
    points = [("/", "overlay"), ("/home", "nfs"), ("/home", "xfs"), ("/home/ann", "nfs"), ("/home/ann/local", "ext4")]
    assert location.filesystem(Path(folder), [Mount(*p) for p in points]) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "lustre", "gpfs", "9p", "fuse.sshfs", "fuse.rclone", "afs"])
def test_network_file_systems_are_known_by_name(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(location, "mountinfo", lambda: table(path.parent, kind))
    assert location.on_network(path.parent) == f"a network file system ({kind})"


def test_an_unknown_file_system_is_probed_and_left_clean(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(location, "mountinfo", lambda: table(path.parent, "brandnewfs"))
    assert location.on_network(path.parent) is None
    monkeypatch.setattr(location, "mountinfo", lambda: None)
    assert location.on_network(path.parent) is None
    assert list(path.parent.iterdir()) == []


def test_on_a_network_the_rollback_journal_is_used_and_said(network: Path) -> None:
    store = Store.open(network)
    assert store.journal == "delete"
    [notice] = store.notices
    assert "network file system (nfs4)" in notice
    with store.trace() as statements:
        store.apply(declared(experiment(1)))
    assert "PRAGMA synchronous = FULL" in statements, "a rollback journal is safe only when synced whole"
    with store.read() as tx:
        assert tx.db.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert tx.folded() == tx.tables()
    store.close()
    assert not Path(f"{network}-wal").exists()


def test_a_file_left_in_wal_is_refused_there_until_it_is_converted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    monkeypatch.setattr(location, "mountinfo", lambda: table(path.parent, "nfs4"))
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(DatabaseError, match=r"in WAL mode, which loses commits.*leave_wal\("):
            Store.open(path, read_only=read_only)
    assert path.read_bytes() == before
    leave_wal(path)
    store = Store.open(path)
    with store.read() as tx:
        assert len(tx.experiments()) == 300
    store.close()


def test_converting_waits_for_nobody_to_be_connected(store: Store, elsewhere: sqlite3.Connection) -> None:
    store.apply(declared(experiment(1)))
    store.close()
    with pytest.raises(DatabaseError, match="locked"):
        leave_wal(store.path)
    elsewhere.close()
    leave_wal(store.path)
    assert not location.is_wal(store.path)


def test_back_on_a_local_disk_wal_returns(path: Path) -> None:
    filled(path)
    leave_wal(path)
    store = Store.open(path)
    assert store.journal == "wal"
    store.close()
    assert location.is_wal(path)


def test_an_unfinished_rollback_is_finished_at_the_next_open(network: Path) -> None:
    """Killed in the middle of a commit in rollback mode: the journal that is left is played back."""
    filled(network)
    script = f"""
    import os, signal, sqlite3
    db = sqlite3.connect({str(network)!r}, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE experiments SET description = hex(randomblob(400))")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert Path(f"{network}-journal").stat().st_size
    store = Store.open(network)
    with store.read() as tx:
        assert {e.description for e in tx.experiments()} == {"x" * 500}
    store.close()
