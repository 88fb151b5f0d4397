# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inject faults into a node of the demo fleet, a client asking all the while, and time how it heals by itself."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench._client import KINDS, Client, Request
from bench._faults import FAULTS, Fault, Fleet, Injection
from bench._node import AGENT_UNIT, INSTANCE, SERVER_UNIT, STATE_DIR, Failure, Node, Server, Watch, wait
from bench._run import CACHE, report, run, say

FLEET = Fleet(
    "http://172.30.57.10:8000",
    Node("lb1", "172.30.57.10"),
    (Node("node1", "172.30.57.11"), Node("node2", "172.30.57.12"), Node("node3", "172.30.57.13")),
)
RESULTS = CACHE / "results" / "mttr.jsonl"
BEGIN, END = "<!-- begin: script/bench mttr -->", "<!-- end: script/bench mttr -->"
# What a client sees before the fault, and once all is well again.
WARM_UP_SECONDS, SETTLE_SECONDS = 6, 6
RECOVERY_SECONDS = 900
QUIET_SECONDS = 600
POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0
GPU_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """What one run of a fault cost; None for what it does not have."""

    fault: str
    detect: float | None
    """Seconds from the fault to the agent's action, or to the runtime's reaction."""
    recover: float | None
    load: float | None
    held: float
    grace: float | None
    requests: int
    failed: int
    streams: int
    failed_streams: int
    restarts: int
    queue: float | None
    actions: list[str]
    """What the agent did, in its words."""
    errors: list[str]
    """What the failed requests met."""

    @property
    def overhead(self) -> float | None:
        """Seconds beyond those in which the server loaded, or could not serve."""
        return None if self.recover is None else self.recover - self.held - (self.load or 0)


@dataclass(frozen=True)
class Recovery:
    at: float
    load: float | None


def measure(fleet: Fleet, fault: Fault) -> Outcome:
    prepare(fleet, fault)
    victim = fleet.victim
    grace = float(victim.settings().get("hang_grace_seconds", GRACE_SECONDS)) if fault.hang else None
    if fault.gpu_look:
        grace = 2 * float(victim.settings().get("gpu_look_seconds", GPU_LOOK_SECONDS))
    with ExitStack() as stack:
        watches = [stack.enter_context(Watch(node)) for node in fleet.nodes]
        client = stack.enter_context(Client(fleet.endpoint, INSTANCE, KINDS if fault.client else ()))
        time.sleep(WARM_UP_SECONDS)
        say(f"{fault.name}: {fault.what}")
        with fault.inject(fleet) as injection:
            recovery = await_recovery(victim, fault, injection, watches[0]) if fault.recovers else None
            time.sleep(SETTLE_SECONDS)
        servers = sum(len(watch.since(injection.at)) for watch in watches)
    journal = victim.journal(injection.at)
    return Outcome(
        fault=fault.name,
        detect=reaction(fleet, fault, journal, injection.at),
        recover=recovery.at - injection.at if recovery else None,
        load=recovery.load if recovery else None,
        held=injection.held_seconds,
        grace=grace,
        restarts=servers - fault.own_starts,
        queue=injection.queue,
        actions=[text for _at, text in actions(journal)],
        **tally(client.requests if injection.requests is None else injection.requests),
    )


def prepare(fleet: Fleet, fault: Fault) -> None:
    say(f"{fault.name}: waiting for a fleet that is well and idle, load average {os.getloadavg()[0]:.1f}")
    for node in fleet.nodes:
        forget(node)
    for node in fleet.nodes:
        wait(f"{node.name} serves", RECOVERY_SECONDS, partial(serves, node))


def forget(node: Node) -> None:
    """Have a server that is idle, and an agent that remembers no restart."""
    wait(f"{node.name} is idle", QUIET_SECONDS, lambda: idle(node) is not False)
    if not node.completes():
        say(f"{node.name} does not serve: restarting it")
        node.systemctl("restart", SERVER_UNIT)
    node.systemctl("stop", AGENT_UNIT)
    node.run("rm", "-f", f"{STATE_DIR}/{INSTANCE}.json")
    # The count of the runtime's own restarts.
    node.systemctl("reset-failed", SERVER_UNIT)
    node.systemctl("start", AGENT_UNIT)


def serves(node: Node) -> bool:
    return node.ready() and node.completes()


def idle(node: Node) -> bool | None:
    """Whether the server has nothing to do, None where it does not say."""
    busy = [node.metric(f"vllm:num_requests_{what}") for what in ("running", "waiting")]
    return None if None in busy else not any(busy)


def await_recovery(node: Node, fault: Fault, injection: Injection, watch: Watch) -> Recovery:
    """Wait until the node serves: a completion from the server itself, and the agent's word for it."""
    loads: dict[Server, float] = {}
    at, possible = injection.at, injection.at + injection.held_seconds
    deadline = at + RECOVERY_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        started = watch.since(at)
        # Until there is another server nothing is asked: a completion would be load, and show an idle server's hang.
        if (fault.new_server and not started) or not node.healthy():
            continue
        for server in started[-1:]:
            loads.setdefault(server, time.monotonic() - max(server.started, possible))
        if (node.ready() or not fault.agent) and node.completes():
            return Recovery(time.monotonic(), loads[started[-1]] if started else None)
    state = node.systemctl("show", "--property=ActiveState,SubState,NRestarts,Result", SERVER_UNIT)
    raise Failure(f"{node.name} did not serve within {RECOVERY_SECONDS} s: {' '.join(state.split())}")


def reaction(fleet: Fleet, fault: Fault, journal: list[dict[str, Any]], at: float) -> float | None:
    """Seconds until somebody noticed: the agent, systemd, or for a node that is gone the load balancer."""
    if fault.name == "node-death":
        down = re.compile(rf"Server \S+/{fleet.victim.name} is DOWN")
        moments = [entry["at"] for entry in fleet.balancer.journal(at) if down.search(entry["MESSAGE"])]
    else:
        moments = [entry["at"] for entry in journal if entry.get("_PID") == "1" and entry.get("UNIT") == fault.unit]
        if fault.unit == SERVER_UNIT:
            moments += [moment for moment, _text in actions(journal)]
            moments += [moment for moment, line in told(journal) if line.get("event") == "gpu"]
    return min(moments) - at if moments and fault.recovers else None


def actions(journal: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """What the agent did and when, by its log."""
    return [
        (at, f"{line.get('action')}: {line.get('reason') or line.get('error')}")
        for at, line in told(journal)
        if line.get("event") == "action" and line.get("instance") == INSTANCE
    ]


def told(journal: list[dict[str, Any]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """What the agent has logged, and when."""
    for entry in journal:
        if entry.get("_SYSTEMD_UNIT") == AGENT_UNIT and entry["MESSAGE"].startswith("{"):
            with suppress(ValueError):
                yield entry["at"], json.loads(entry["MESSAGE"])


def tally(requests: list[Request]) -> dict[str, Any]:
    """Streams apart: what has begun to be streamed cannot be asked again by anybody but the client."""
    whole = [request for request in requests if not request.kind.streamed]
    streams = [request for request in requests if request.kind.streamed]
    return {
        "requests": len(whole),
        "failed": sum(1 for request in whole if request.fault),
        "streams": len(streams),
        "failed_streams": sum(1 for request in streams if request.fault),
        "errors": sorted({request.fault for request in requests if request.fault}),
    }


def worst(outcomes: list[dict[str, Any]], key: str) -> float | None:
    """Of several runs of one fault; of loads the one that goes with the slowest recovery."""
    if key == "load":
        return max(outcomes, key=lambda outcome: outcome["recover"] or 0)["load"]
    return max((outcome[key] for outcome in outcomes if outcome[key] is not None), default=None)


def publish(name: str, outcomes: list[dict[str, Any]]) -> None:
    """The figures of a fault, one a line."""
    figures = {key: worst(outcomes, key) for key in ("detect", "recover", "load", "overhead", "held", "grace", "queue")}

    def figure(case: str, value: float | None, unit: str, floor: float | None = None) -> None:
        if value is not None:
            report("mttr", f"{name}/{case}", value, unit, floor)

    figure("detect", figures["detect"], "s", figures["grace"])
    figure("recover", figures["recover"], "s", figures["load"])
    figure("load", figures["load"], "s")
    figure("overhead", figures["overhead"], "s")
    figure("held", figures["held"] or None, "s")
    figure("queue", figures["queue"], "requests")
    for case in ("requests", "failed"):
        figure(case, worst(outcomes, case), "requests")
    for case in ("streams", "failed_streams"):
        figure(case, worst(outcomes, case), "streams")
    figure("restarts", worst(outcomes, "restarts"), "restarts")


def save(batch: str, outcome: Outcome) -> dict[str, Any]:
    line = {"batch": batch, "load_average": os.getloadavg()[0], **asdict(outcome), "overhead": outcome.overhead}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    return line


def table(lines: list[dict[str, Any]]) -> str:
    """The newest batch of each fault, the worst of its runs."""
    titles = "fault, case, detected, serves again, of that loading, beyond that, failed, failed streams, restarts, runs"
    rows = [f"| {titles.replace(', ', ' | ')} |", "|---" * len(titles.split(",")) + "|"]
    for name, fault in FAULTS.items():
        mine = [line for line in lines if line["fault"] == name]
        newest = [line for line in mine if line["batch"] == mine[-1]["batch"]]
        if newest:
            rows.append(f"| {' | '.join((fault.what, f'`{name}`', *cells(newest)))} |")
    return "\n".join(rows)


def cells(outcomes: list[dict[str, Any]]) -> list[str]:
    def seconds(key: str) -> str:
        value = worst(outcomes, key)
        return "-" if value is None else f"{value:.1f} s"

    def of(failed: str, asked: str) -> str:
        total = sum(outcome[asked] for outcome in outcomes)
        return f"{sum(outcome[failed] for outcome in outcomes)} of {total}" if total else "-"

    held = worst(outcomes, "held")
    beyond = seconds("overhead") + (f", and {held:.0f} s of the cause" if held else "")
    counts = of("failed", "requests"), of("failed_streams", "streams"), str(worst(outcomes, "restarts"))
    return [seconds("detect"), seconds("recover"), seconds("load"), beyond, *counts, str(len(outcomes))]


def write_table(file: Path) -> None:
    """Between the two markers of a document."""
    if not RESULTS.exists():
        sys.exit("bench: nothing was measured yet: run script/bench mttr")
    text = file.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"bench: {file} has no place for the table: {BEGIN} and {END}, each on a line of its own")
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{after}", encoding="utf-8")


def bench(fleet: Fleet, faults: list[Fault], repeat: int) -> list[str]:
    """The faults that could not be measured."""
    batch, failures = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), []
    for fault in faults:
        try:
            publish(fault.name, [save(batch, measure(fleet, fault)) for _run in range(repeat)])
        except Failure as error:
            say(f"{fault.name} failed: {error}")
            failures.append(fault.name)
    return failures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench mttr", description=__doc__)
    parser.add_argument("fault", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each fault; the worst is told")
    parser.add_argument("--keep", action="store_true", help="leave a fleet that was raised for this")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="measure nothing: write the table of what was measured there"
    )
    wanted = parser.parse_args()
    unknown = set(wanted.fault) - set(FAULTS)
    if unknown:
        parser.error(f"no fault is called {' or '.join(sorted(unknown))}: there are {', '.join(FAULTS)}")
    if wanted.repeat < 1:
        parser.error("--repeat takes 1 or more")
    return wanted


def main() -> None:
    wanted = arguments()
    if wanted.markdown:
        write_table(wanted.markdown)
        return
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    borrowed = all(node.succeeds("true") for node in FLEET.nodes)
    try:
        if not borrowed or not all(map(serves, FLEET.nodes)):
            say("raising the demo fleet")
            run(CACHE / "logs" / "bench-demo.log", "script/demo")
        failures = bench(FLEET, [FAULTS[name] for name in wanted.fault or FAULTS], wanted.repeat)
    finally:
        if not borrowed and not wanted.keep:
            run(CACHE / "logs" / "bench-demo-down.log", "script/demo", "down", "--keep-images")
    if failures:
        sys.exit(f"bench: not measured: {', '.join(failures)}")


if __name__ == "__main__":
    main()
