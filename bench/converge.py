# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time site.yml on bare hosts, and again with nothing to do, against `ansible -m ping` on the same hosts."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from pathlib import Path

from bench._fleet import fleet
from bench._run import CACHE, report, run, say

NODES = (1, 3, 10)
NODES_MAX = 200
PINGS = 3


def converge(nodes: int) -> None:
    def log(case: str) -> Path:
        return CACHE / "logs" / f"bench-converge-{case}-{nodes}.log"

    def figure(case: str, seconds: float, floor: float) -> None:
        report("converge", f"{case}/{nodes}", seconds, "s", floor)

    with fleet(nodes) as inventory:
        ping = ("ansible", "bench_hosts", "-i", inventory, "-m", "ansible.builtin.ping")
        site = ("ansible-playbook", "-i", inventory, "site.yml")
        say(f"measuring, load average {os.getloadavg()[0]:.1f}")
        floor = statistics.median(run(log("ping"), *ping) for _attempt in range(PINGS))
        figure("ping", floor, floor)
        figure("first", run(log("first"), *site), floor)
        seconds = run(log("nochange"), *site)
        insist_on_no_change(log("nochange"), nodes + 1)
        figure("nochange", seconds, floor)


def insist_on_no_change(log: Path, hosts: int) -> None:
    """End the bench unless a run of ansible-playbook reached all hosts and changed none."""
    output = log.read_text(encoding="utf-8")
    if len(re.findall(r"^\S+ +: ok=\d+ +changed=0 ", output, re.MULTILINE)) == hosts:
        return
    tasks = re.findall(r"^TASK \[(.+)\] \*+\n(?:(?!TASK ).*\n)*?changed: ", output, re.MULTILINE)
    sys.exit(f"bench: the second run of site.yml changed something: {'; '.join(tasks)} (all of it: {log})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench converge", description=__doc__)
    parser.add_argument(
        "nodes", nargs="*", type=int, metavar="N", help=f"1 to {NODES_MAX} nodes (default: {' '.join(map(str, NODES))})"
    )
    counts = parser.parse_args().nodes or NODES
    if not all(1 <= nodes <= NODES_MAX for nodes in counts):
        parser.error(f"a fleet here has 1 to {NODES_MAX} nodes")
    for nodes in counts:
        converge(nodes)


if __name__ == "__main__":
    main()
