"""What Linux says about this machine's processor."""

from __future__ import annotations

from pathlib import Path


def cpuinfo(*fields: str) -> str:
    """The first line of `/proc/cpuinfo` with one of these fields, such as `flags : …`; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((x for x in lines if x.startswith(fields)), "")
