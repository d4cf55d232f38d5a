"""A bare multiprocessing.Pool of as many processes as the first argument says; prints its figures as JSON."""

import json
import multiprocessing
import sys
import time


def echo(value):
    return value


def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    result = {}
    for method in ("fork", "spawn"):
        begun = time.monotonic()
        with multiprocessing.get_context(method).Pool(count) as pool:
            # Every process has started when it has answered.
            pool.map(time.sleep, [0.05] * count, chunksize=1)
            started = time.monotonic() - begun
            memory = sum(pss(process.pid) for process in multiprocessing.active_children())
            begun, calls = time.monotonic(), 0
            while time.monotonic() - begun < seconds:
                calls += len(list(pool.imap_unordered(echo, range(1000))))
            rate = calls / (time.monotonic() - begun)
        result[method] = {"start_s": started, "memory_kib": memory, "calls_per_s": rate}
    print(json.dumps(result))
