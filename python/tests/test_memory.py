"""What a worker reports of its GPUs. This machine may have none, so NVML's Python module is a stand-in here."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from conftest import first_in_path
from ostler_worker.testing import Worker

NVML = """
class NVMLError(Exception): pass
class Memory: used, total = 1 << 30, 8 << 30
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 4
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}{handle}aa-bb"
def nvmlDeviceGetMemoryInfo(handle):
    if handle == 3: raise NVMLError("Not Supported")
    return Memory
"""


@pytest.mark.parametrize(
    "visible, indices",
    [(None, ["0", "1", "2"]), ("1", ["1"]), ("2, 0", ["0", "2"]), ("GPU-11aa", ["1"]), ("", []), ("-1", []), ("3", [])],
)
def test_the_memory_of_visible_gpus(start: Callable[..., Worker], tmp_path: Path, visible: str, indices: list[str]) -> None:
    (tmp_path / "pynvml.py").write_text(NVML)
    env = first_in_path(tmp_path)
    worker = start(env=env if visible is None else {**env, "CUDA_VISIBLE_DEVICES": visible})
    found = worker.ping(stats=True)["gpu"]
    assert [gpu["index"] for gpu in found] == indices
    assert all((gpu["used"], gpu["total"]) == (1 << 30, 8 << 30) for gpu in found)


@pytest.mark.parametrize("broken", ["raise OSError('no libnvidia-ml')", NVML + "def nvmlInit(): raise NVMLError('no driver')"])
def test_a_machine_without_a_driver_reports_none(start: Callable[..., Worker], tmp_path: Path, broken: str) -> None:
    (tmp_path / "pynvml.py").write_text(broken)
    worker = start(env=first_in_path(tmp_path))
    assert worker.ping(stats=True)["gpu"] == []
    assert worker.call("add", 1, 2) == 3
