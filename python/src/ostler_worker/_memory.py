"""How much memory this process and its GPUs use."""

from __future__ import annotations

import os
from typing import Any, Optional


def rss() -> int:
    """Resident memory of this process in bytes; 0 where /proc cannot be read."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def gpu() -> list[dict[str, Any]]:
    """Memory of the visible NVIDIA GPUs in bytes, by NVML (`pip install ostler-worker[gpu]`); empty without it.

    A GPU whose memory NVML does not report, such as one that shares the machine's, is left out.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        # Without the package it is an ImportError, and without a driver an NVMLError. A question about memory ends no worker.
        return []
    try:
        return [found for index in range(pynvml.nvmlDeviceGetCount()) if (found := _of(pynvml, index)) is not None]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _of(pynvml: Any, index: int) -> Optional[dict[str, Any]]:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = pynvml.nvmlDeviceGetUUID(handle)
        uuid = name.decode() if isinstance(name, bytes) else name
        if not _is_visible(index, uuid):
            return None
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        return None
    return {"index": str(index), "used": int(memory.used), "total": int(memory.total)}


def _is_visible(index: int, uuid: str) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` names this GPU: by its number, or by the beginning of its UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return str(index) in names or any(name.startswith("GPU-") and uuid.startswith(name) for name in names)
