# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every bench does: run a command with its output in a log, say what goes on, report a figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache"
TAIL_LINES = 40


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def report(bench: str, case: str, value: float, unit: str, floor: float | None = None) -> None:
    """Print a figure, for machines."""
    line = {"bench": bench, "case": case, "value": round(value, 2), "unit": unit}
    if floor:
        line |= {"floor": round(floor, 2), "ratio": round(value / floor, 2)}
    print(json.dumps(line), flush=True)


def run(log: Path, *command: str | Path) -> float:
    """Return the seconds that a command took; end the bench where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        began = time.monotonic()
        status = subprocess.run(
            command,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ).returncode
        seconds = time.monotonic() - began
    if status:
        tail = log.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]
        print(*(f"    {line}" for line in tail), sep="\n", file=sys.stderr)
        sys.exit(f"bench: failed: {' '.join(map(str, command))} (all of it: {log})")
    return seconds
