"""What a record says of where it was made."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.config.groups import ENTRY_POINTS

PACKAGES = (
    "peft-verdict",
    "torch",
    "transformers",
    "datasets",
    "hydra-core",
    "bitsandbytes",
    "safetensors",
    "evaluate",
    "peft",
)


CODE = ("bench", "methods", "conf", "pyproject.toml")
"""What metrics depend on; a page that is being written beside them changes none."""


@cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


@cache
def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the packages that metrics depend on.

    Among them are ``packages``: those that bring a method, and those on which one runs.
    """
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for point in metadata.entry_points(group=ENTRY_POINTS):
        package = point.module.partition(".")[0]  # which its distribution need not be called
        if package in packages and point.dist is not None:
            found[package] = point.dist.version
    return found


@cache
def commit() -> str | None:
    """The commit of this checkout, with ``-dirty`` where its code has changed since; None for an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
