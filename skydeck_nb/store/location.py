"""Where the deck's file lies: its absolute path, file system, modes and identity.

Decides whether a folder is on a network file system (mount table, then a probe
with a scratch file), creates folder and file with modes 0700 and 0600, and says
in sentences which existing modes are wider. Refuses to know tables and
transactions.

POSIX locks belong to a process and fall when *any* descriptor of a file is
closed. Hence nothing here opens the deck's file, once it may be in use: it is
looked at with ``stat``, and its first bytes are read by another process.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from skydeck_nb.errors import DatabaseError

NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "9p", "afs", "auristorfs", "beegfs", "ceph"),
        *("coda", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "mmfs", "ocfs2", "orangefs", "panfs", "pvfs2"),
        *("virtiofs", "vboxsf", "vmhgfs", "prl_fs", "wekafs", "fuse"),
    )
)
"""File systems that another host may write, or that lack locks or shared memory. All of ``fuse.*`` counts too."""

LOCAL: Final = frozenset(
    (
        *("apfs", "bcachefs", "btrfs", "ecryptfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "jfs"),
        *("ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "ufs", "vfat", "xfs", "zfs"),
    )
)
"""File systems of one host, on which WAL is known to work. All others are probed."""

_creating = threading.Lock()


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    point: str
    type: str


def absolute(path: Path | str) -> Path:
    """The path with ``~``, relative parts and links resolved: one file, one path."""
    return Path(os.path.realpath(Path(path).expanduser()))


def uri(path: Path, query: str) -> str:
    """The path as an SQLite URI, whatever characters are in it."""
    return f"file:{quote(str(path))}?{query}"


def mountinfo() -> str | None:
    """The mount table's text, or ``None`` where the system has no ``/proc/self/mountinfo``."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def mounts(text: str) -> list[Mount]:
    """The lines of a mount table, in order; octal escapes (a space is ``\\040``) are undone."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, types = left.split(), right.split()
        if dash and len(fields) >= 5 and types:
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
            found.append(Mount(point, types[0]))
    return found


def filesystem(folder: Path, table: Sequence[Mount]) -> str | None:
    """The type of the file system that holds an absolute folder, ``None`` when the table does not say.

    The longest mount point wins, the later line where two are equal.
    """
    best: Mount | None = None
    for mount in table:
        if folder.is_relative_to(mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best.type if best else None


def on_network(folder: Path) -> str | None:
    """What makes this folder unfit for WAL, in a few words, or ``None`` when WAL is safe there.

    Where the mount table does not know the file system as local or as a
    network's, a scratch database in the folder decides.
    """
    text = mountinfo()
    kind = filesystem(folder, mounts(text)) if text is not None else None
    if kind in LOCAL:
        return None
    if kind is not None and (kind in NETWORK or kind.startswith("fuse.")):
        return f"a network file system ({kind})"
    if not os.access(folder, os.W_OK):
        return None
    return probe(folder)


def probe(folder: Path) -> str | None:
    """Try WAL with two connections on a scratch file: ``None`` when it works, else what failed."""
    scratch = folder / f".skydeck-probe-{secrets.token_hex(6)}"
    first = second = None
    try:
        first = sqlite3.connect(uri(scratch, "mode=rwc"), uri=True, timeout=2, isolation_level=None)
        if first.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            return "a file system on which SQLite has no WAL"
        first.execute("CREATE TABLE probe(x)")
        second = sqlite3.connect(uri(scratch, "mode=rw"), uri=True, timeout=2, isolation_level=None)
        second.execute("INSERT INTO probe VALUES (1)")
        seen = first.execute("SELECT count(*) FROM probe").fetchone()[0]
        return None if seen == 1 else "a file system on which two connections do not see each other's writes"
    except sqlite3.Error as error:
        return f"a file system on which SQLite's WAL fails ({error})"
    finally:
        for connection in (first, second):
            if connection is not None:
                connection.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{scratch}{suffix}").unlink(missing_ok=True)


def create(path: Path) -> bool:
    """Make missing folders (0700) and the file (0600, empty); whether the file is new.

    Raises:
        DatabaseError: it cannot be made there, or is no file.
    """
    try:
        for folder in reversed([f for f in path.parents if not f.exists()]):
            folder.mkdir(mode=0o700, exist_ok=True)
        # The only descriptor that this process ever has of it, before SQLite can: others wait for the lock.
        with _creating:
            if path.exists():
                raise FileExistsError
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return True
    except FileExistsError:
        if not path.is_file():
            raise DatabaseError(f"{path} is not a file; give the path of a database file.") from None
        return False
    except OSError as error:
        raise DatabaseError(
            f"The deck's file {path} cannot be made: {error.strerror}. Give a path in a folder that you can write."
        ) from error


def wait_for_creation() -> None:
    """Return when no thread of this process is just making a file."""
    with _creating:
        pass


def has_log(path: Path) -> bool:
    """Whether a write-ahead log lies beside the file: somebody is connected, or a crash left it."""
    return Path(f"{path}-wal").exists()


def was_emptied(path: Path, backups: Sequence[Path], *, patience: float = 2.0) -> bool:
    """Whether an existing file was cut to nothing: it is empty, though a log or backups of it lie beside it.

    A file that another process is just making is empty for a moment; that is waited for (seconds).
    """
    wal = Path(f"{path}-wal")
    deadline = time.monotonic() + patience
    while path.stat().st_size == 0:
        if not backups and not (wal.exists() and wal.stat().st_size):
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.01)
    return False


def is_wal(path: Path) -> bool:
    """Whether the file's header says WAL, read by another process: a descriptor of ours would drop locks."""
    code = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read(20))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DatabaseError(f"The first bytes of {path} cannot be read: {' '.join(reason)}")
    return len(done.stdout) == 20 and done.stdout[18] == 2


def inode(path: Path) -> tuple[int, int] | None:
    """Device and inode that the path names now, ``None`` when there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def wide_modes(path: Path) -> tuple[str, ...]:
    """One sentence for the file and one for its folder where others than the owner have rights there."""
    sentences = []
    for what, place, wanted in (("file", path, 0o600), ("folder", path.parent, 0o700)):
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & 0o077:
            sentences.append(
                f"The deck's {what} {place} has mode {mode:04o}, so that others than you may use it; "
                f"it was left as it is (chmod {wanted:04o} closes it)."
            )
    return tuple(sentences)
