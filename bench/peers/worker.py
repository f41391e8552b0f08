"""What both peers share: a process that does a step for each line it reads, and says what it took in a line of JSON."""

import ctypes
import json
import resource
import sys
import time


def status_bytes(field):
    """A field of /proc/self/status, as VmRSS, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{field}:"))


def reset_peak():
    """Starts a new VmHWM at what is resident now."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")


def trim():
    """Gives memory that malloc holds unused back, so that it counts for nobody."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


ANSWERS, sys.stdout = sys.stdout, sys.stderr  # libraries that print must not speak between the answers


def answer(**values):
    print(json.dumps(values), file=ANSWERS, flush=True)


def serve(step, facts):
    """For each line on stdin runs step() -> dict and answers with it, its seconds and its seconds of the processor."""
    answer(**facts)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        result = step()
        answer(**{"seconds": time.perf_counter() - wall, "cpuSeconds": cpu_seconds() - cpu} | result)
