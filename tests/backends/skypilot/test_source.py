"""The code that a launch takes along, on real repositories."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import taskfile
from skydeck_nb.backends.skypilot import source
from skydeck_nb.backends.skypilot.source import Source, prepared
from skydeck_nb.errors import LaunchRejected
from skydeck_nb.models import Spec


class Repository:
    """A real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("train.py", "one")
        self.commit()

    def git(self, *arguments: str) -> str:
        said = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments], check=True, capture_output=True, text=True,
            env=os.environ | said | {"GIT_CONFIG_GLOBAL": os.devnull},
        )  # fmt: skip
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        return self.git("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return self.folder.as_uri()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def local_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """``file://`` as a repository's address: SkyPilot's servers take none, git takes it as any other."""

    def is_git_url(workdir: str) -> bool:
        return workdir.startswith("file://") or taskfile.is_git_url(workdir)

    monkeypatch.setattr(source, "is_git_url", is_git_url)


def spec(workdir: str | Path | None, **changes: Any) -> Spec:
    return Spec(command=("train",), workdir=None if workdir is None else str(workdir), **changes)


def taken(workdir: str | Path | None, **changes: Any) -> Source:
    with prepared(spec(workdir, **changes), until=time.monotonic() + 60) as found:
        return found


# -- a folder as it is ------------------------------------------------------------------------------


def test_a_clean_folder_is_its_commit(repository: Repository) -> None:
    found = taken(repository.folder)
    head = repository.git("rev-parse", "HEAD")
    assert (found.commit, found.dirty, found.diff) == (head, False, None)
    assert found.metadata == {"git_commit": head, "git_dirty": "0"}
    assert found.spec == spec(repository.folder)


@pytest.mark.parametrize("name", ["train.py", "new.py"], ids=["changed", "untracked"])
def test_what_is_not_committed_makes_it_dirty(repository: Repository, name: str) -> None:
    repository.write(name, "two")
    found = taken(repository.folder)
    assert found.dirty
    assert found.metadata["git_dirty"] == "1"
    assert found.metadata["git_diff"] == found.diff


def test_the_hash_of_what_differs_changes_with_it_and_comes_back(repository: Repository) -> None:
    hashes = []
    for text in ("two", "three", "two"):
        repository.write("train.py", text)
        hashes.append(taken(repository.folder).diff)
    assert hashes[0] == hashes[2] != hashes[1]


def test_another_untracked_file_is_another_difference(repository: Repository) -> None:
    repository.write("a.py", "x")
    first = taken(repository.folder).diff
    repository.write("b.py", "x")
    assert taken(repository.folder).diff != first


def test_what_git_ignores_makes_nothing_dirty(repository: Repository) -> None:
    repository.write(".gitignore", "*.log\n")
    repository.commit()
    repository.write("a.log", "x")
    assert not taken(repository.folder).dirty


def test_a_folder_inside_is_dirty_by_what_lies_in_it(repository: Repository) -> None:
    repository.write("inner/a.py", "x")
    repository.commit()
    repository.write("train.py", "two")
    assert not taken(repository.folder / "inner").dirty
    assert taken(repository.folder).dirty


def test_looking_changes_nothing_of_the_repository(repository: Repository) -> None:
    repository.write("train.py", "two")
    before = {path: path.stat().st_mtime_ns for path in repository.folder.rglob("*")}
    taken(repository.folder)
    assert {path: path.stat().st_mtime_ns for path in repository.folder.rglob("*")} == before


@pytest.mark.parametrize("what", ["no repository", "no commit", "no folder", "no workdir"])
def test_where_there_is_no_commit_nothing_is_recorded(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if what != "no folder":
        folder.mkdir()
    if what == "no commit":
        subprocess.run(["git", "-C", str(folder), "init", "--quiet"], check=True)
    found = taken(None if what == "no workdir" else folder)
    assert (found.metadata, found.commit) == ({}, None)


def test_without_git_nothing_is_recorded(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert taken(repository.folder).metadata == {}


# -- a folder at a commit -----------------------------------------------------------------------------


def test_at_a_commit_what_is_not_committed_stays_at_home(repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.write("train.py", "two")
    repository.commit()
    repository.write("train.py", "three")
    repository.write("secret.txt", "x")
    with prepared(spec(repository.folder, git_commit=first), until=time.monotonic() + 60) as found:
        tree = Path(str(found.spec.workdir))
        assert {path.name: path.read_text() for path in tree.iterdir()} == {"train.py": "one"}
        assert found.metadata == {"git_commit": first, "git_dirty": "0"}
    assert not tree.parent.exists()
    assert (repository.folder / "train.py").read_text() == "three"


def test_what_was_exported_is_removed_when_the_launch_fails(repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    folders: list[Path] = []

    def launch() -> None:
        with prepared(spec(repository.folder, git_commit=commit), until=time.monotonic() + 60) as found:
            folders.append(Path(str(found.spec.workdir)))
            raise LaunchRejected("no")

    with pytest.raises(LaunchRejected, match="no"):
        launch()
    assert not folders[0].parent.exists()


@pytest.mark.parametrize("commit", ["0" * 40, "--output=/tmp/x", "no such"])
def test_a_commit_that_is_not_there_is_rejected_by_name(repository: Repository, commit: str) -> None:
    with pytest.raises(LaunchRejected, match=commit[:12]) as caught:
        taken(repository.folder, git_commit=commit)
    assert (caught.value.reason, caught.value.retryable) == ("GitRefMissing", False)


# -- a repository -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local_urls")
@pytest.mark.parametrize("ref", [None, "main", "refs/heads/main", "v1", "v2"])
def test_a_repository_is_taken_at_the_commit_that_its_ref_means_now(repository: Repository, ref: str | None) -> None:
    head = repository.git("rev-parse", "HEAD")
    repository.git("tag", "v1")
    repository.git("-c", "user.name=a", "-c", "user.email=a@b", "tag", "--annotate", "--message=x", "v2")
    found = taken(repository.url, git_ref=ref)
    assert (found.commit, found.spec.git_commit, found.dirty) == (head, head, False)


@pytest.mark.usefixtures("local_urls")
def test_a_branch_that_moved_is_another_commit(repository: Repository) -> None:
    first = taken(repository.url, git_ref="main").commit
    repository.write("train.py", "two")
    second = repository.commit()
    assert taken(repository.url, git_ref="main").commit == second != first


@pytest.mark.usefixtures("local_urls")
def test_a_branch_is_not_one_whose_name_ends_like_it(repository: Repository) -> None:
    """git lists by the ends of names."""
    first = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "--quiet", "-b", "fix/main")
    repository.write("train.py", "two")
    repository.commit()
    assert taken(repository.url, git_ref="main").commit == first


def test_a_commit_needs_no_asking() -> None:
    commit = "c0ffee" + "0" * 34
    found = taken("https://sky.invalid/a/b", git_ref=commit)
    assert (found.commit, found.spec.git_commit) == (commit, commit)


@pytest.mark.usefixtures("local_urls")
@pytest.mark.parametrize("ref", ["nowhere", "c0ffee"])
def test_a_ref_that_is_not_there_is_rejected_by_name(repository: Repository, ref: str) -> None:
    with pytest.raises(LaunchRejected, match=f"has no {ref}") as caught:
        taken(repository.url, git_ref=ref)
    assert (caught.value.reason, caught.value.retryable) == ("GitRefMissing", False)


@pytest.mark.usefixtures("local_urls")
def test_a_repository_that_cannot_be_asked_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(LaunchRejected, match="cannot be asked for main") as caught:
        taken((tmp_path / "nowhere").as_uri(), git_ref="main")
    assert (caught.value.reason, caught.value.retryable) == ("GitUnreachable", True)


@pytest.mark.usefixtures("local_urls")
@pytest.mark.parametrize("ref", ["--upload-pack=touch x", "-x"])
def test_a_ref_is_never_an_option(repository: Repository, ref: str) -> None:
    with pytest.raises(LaunchRejected):
        taken(repository.url, git_ref=ref)
    assert not (Path.cwd() / "x").exists()


def test_a_git_that_does_not_answer_is_left_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nexec sleep 600\n")
    git.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (
        pytest.raises(LaunchRejected, match="cannot be asked for main"),
        prepared(spec("https://sky.invalid/a", git_ref="main"), until=time.monotonic() + 0.2),
    ):
        pass
