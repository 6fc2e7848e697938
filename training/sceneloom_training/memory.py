"""What becomes of memory that a step has freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of parameters in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next step instead of being returned to the system.

    glibc maps every large tensor anew, and the system clears each of its pages at the first touch:
    at 512x256 with ngf 16, 100 MB a step and more. How much time that takes depends on the machine:
    `make train-speed` measures the step both ways. It is for the CPU: tensors on a GPU have an
    allocator of their own.

    Returns:
        whether this process's C library can be told so; nothing has changed if not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
