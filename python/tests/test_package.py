"""The package as users get it: wheel and sdist, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
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


def test_wheel_and_sdist_build_and_install_without_a_dependency(tmp_path: Path) -> None:
    pytest.importorskip("build")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, copy_of(PROJECT, tmp_path / "source"))
    assert built.returncode == 0, built.stdout + built.stderr
    wheel, sdist = next(tmp_path.glob("*.whl")), next(tmp_path.glob("*.tar.gz"))
    assert "ostler_worker/py.typed" in zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("src/ostler_worker/_engine.py") for name in tarfile.open(sdist).getnames())
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Without the sources of this checkout, beside which an earlier build may have left what pip takes for an installation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = run(python, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel, env=env)
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "worker.py").write_text(WORKER)
    called = run(python, "-m", "ostler_worker", "call", tmp_path / "worker.py", "shout", "hello", cwd=tmp_path, env=env)
    assert (called.stdout, called.returncode) == ('"HELLO"\n', 0), called.stderr


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
