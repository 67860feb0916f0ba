"""The threads that run kernels, which release the GIL."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor


@functools.lru_cache(maxsize=4)  # keyed by process: threads do not survive a fork
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sbm-kernel")
