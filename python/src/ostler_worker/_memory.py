"""How much memory this process and its GPUs use."""

from __future__ import annotations

import os
from typing import Any


def rss() -> int:
    """Resident memory of this process in bytes; 0 where /proc cannot be read."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def gpu() -> list[dict[str, Any]]:
    """Memory of the visible NVIDIA GPUs in bytes, by NVML (`pip install ostler-worker[gpu]`); empty without it."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    result = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        if visible is not None and str(index) not in visible.split(","):
            continue
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
        result.append({"index": str(index), "used": int(memory.used), "total": int(memory.total)})
    return result
