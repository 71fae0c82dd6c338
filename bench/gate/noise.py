"""A program that makes the machine noisy in bursts, as builds and other tenants do. It ends with its parent."""

from __future__ import annotations

import os
import random
import time

BURST_SECONDS = (0.02, 0.4)
PAUSE_SECONDS = (0.02, 0.4)
BUFFER_BYTES = 32 << 20
"""More than the caches hold, so that a burst takes memory bandwidth and shared cache as well as a processor."""


def main() -> None:
    """Copies memory in bursts, with pauses between them, both of random length, until the parent is gone."""
    parent, rng, buffer = os.getppid(), random.Random(0), bytearray(BUFFER_BYTES)
    while os.getppid() == parent:
        end = time.perf_counter() + rng.uniform(*BURST_SECONDS)
        while time.perf_counter() < end:
            buffer[:] = bytes(buffer)
        time.sleep(rng.uniform(*PAUSE_SECONDS))


if __name__ == "__main__":
    main()
