"""What `pip install` gives: the built wheel in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
BUNDLE = {"skydeck_nb/widget/static/widget.js", "skydeck_nb/widget/static/widget.css"}
LAZY = ("sky", "boto3", "anywidget", "httpx")


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel made from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(uv.find_uv_bin(), "build", "--no-build-isolation", "--python", sys.executable, "--out-dir", out)
    return out


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a venv that holds the wheel and what it depends on."""
    venv = tmp_path_factory.mktemp("venv")
    (wheel,) = dist.glob("*.whl")
    run(uv.find_uv_bin(), "venv", "--clear", "--python", sys.executable, venv)
    run(uv.find_uv_bin(), "pip", "install", "--constraints", LOCK, wheel, VIRTUAL_ENV=str(venv))
    return venv / "bin" / "python"


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= BUNDLE | {"skydeck_nb/py.typed"}
    assert {name.partition("/")[0] for name in names} == {"skydeck_nb", "skydeck_nb-0.1.0.dist-info"}


def test_an_sdist_needs_no_node(dist: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("skydeck_nb-*")
    assert all((unpacked / name).is_file() for name in BUNDLE)
    asked = run(
        sys.executable, "-c", "import hatchling.build as b; print(b.get_requires_for_build_wheel())", cwd=unpacked
    )
    assert "nodejs" not in asked


def test_import_brings_only_what_is_needed(python: Path, tmp_path: Path) -> None:
    code = f"import skydeck_nb, sys; print([name for name in {LAZY} if name in sys.modules])"
    assert run(python, "-c", code, cwd=tmp_path).strip() == "[]"


def test_a_bare_install_opens_a_deck_and_shows_the_grid(python: Path, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        import skydeck_nb as sd
        with sd.open(path={str(tmp_path / "deck.db")!r}) as deck:
            deck.create("hello", "echo hello")
            assert not [name for name in {LAZY} if name in sys.modules]
            grid = deck.grid()
            assert "anywidget" in sys.modules
            assert len(str(grid._esm)) > 1000
            print(list(deck.experiments().index))
    """
    assert run(python, "-c", code, cwd=tmp_path).strip() == "['hello']"


def test_the_locks_name_no_registry() -> None:
    assert "://" not in LOCK.read_text()
    packages = json.loads((ROOT / "js" / "package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
