"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Count the cores granted, often fewer in a container or batch job than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
