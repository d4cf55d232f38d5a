"""The package as users get it: wheel and sdist, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
WORKER = """\
from ostler_worker import serve

@serve.method
def shout(text: str) -> str:
    return text.upper()

@serve.method
def letters(text: str):
    yield from text

if __name__ == "__main__":
    serve.run()
"""


def run(*words: object, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("built")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy_of(PROJECT, folder / "source"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# Without the sources of this checkout, beside which an earlier build may have left what pip takes for an installation.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
PIP = ("-m", "pip", "install", "--no-index", "--disable-pip-version-check")
LICENCES = ("LICENSE-APACHE", "LICENSE-MIT")


def test_the_wheel_installs_without_a_dependency(built: Path, tmp_path: Path) -> None:
    wheel = next(built.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "ostler_worker/py.typed" in names
    assert [name.rpartition("/")[2] for name in sorted(names) if "/licenses/" in name] == list(LICENCES)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = run(python, *PIP, wheel, env=CLEAN)
    assert installed.returncode == 0, installed.stderr
    calls_shout([python], tmp_path, CLEAN)


def test_the_sdist_installs_without_a_dependency(built: Path, tmp_path: Path) -> None:
    sdist = next(built.glob("*.tar.gz"))
    # Its build needs setuptools, and the environment of these tests has it: pip fetches nothing.
    installed = run(sys.executable, *PIP, "--no-build-isolation", "--no-deps", "--target", tmp_path / "site", sdist, env=CLEAN)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert (tmp_path / "site" / "ostler_worker" / "py.typed").is_file()
    licences = next((tmp_path / "site").glob("ostler_worker-*.dist-info")) / "licenses"
    assert sorted(path.name for path in licences.iterdir()) == list(LICENCES)
    # `-S`: no other package than what was installed.
    env = {**CLEAN, "PYTHONPATH": str(tmp_path / "site")}
    imported = run(sys.executable, "-S", "-c", "import ostler_worker; print(ostler_worker.__file__)", cwd=tmp_path, env=env)
    assert imported.stdout == f"{tmp_path / 'site' / 'ostler_worker' / '__init__.py'}\n", imported.stderr
    calls_shout([sys.executable, "-S"], tmp_path, env)


def calls_shout(python: list[object], folder: Path, env: dict[str, str]) -> None:
    (folder / "worker.py").write_text(WORKER)
    called = run(*python, "-m", "ostler_worker", "call", folder / "worker.py", "shout", "hello", cwd=folder, env=env)
    assert (called.stdout, called.returncode) == ('"HELLO"\n', 0), called.stderr


def test_the_licences_are_those_of_the_repository() -> None:
    for name in LICENCES:
        assert (PROJECT / name).read_bytes() == (PROJECT.parent / name).read_bytes()


def copy_of(project: Path, to: Path) -> Path:
    """Builds leave files in the source tree."""
    import shutil

    shutil.copytree(project, to, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*"))
    return to


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    module = (sys.executable, "-m", "ostler_worker")
    described = run(*module, "describe", tmp_path / "worker.py")
    assert described.stdout == "letters  unary -> stream\nshout  unary -> unary\n"
    assert run(*module, "call", tmp_path / "worker.py", "letters", "ab").stdout == '"a"\n"b"\n'
    failed = run(*module, "call", tmp_path / "worker.py", "shout", "1")
    assert failed.returncode == 1 and "AttributeError: 'int' object has no attribute 'upper'" in failed.stderr
    (tmp_path / "worker.py").write_text("import no_such_module")
    broken = run(*module, "describe", tmp_path / "worker.py")
    assert broken.returncode == 1 and "No module named 'no_such_module'" in broken.stderr
