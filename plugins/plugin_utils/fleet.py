# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a fleet, from what was gathered of each host: what is not well, a table, and all of it as data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HEAD = ("NODE", "INSTANCE", "VERDICT", "VERSION", "MODEL", "REQUESTS", "GPU", "LOAD BALANCERS")
WELL = ("ready", "busy")
GAP = "  "
NONE = "-"
OUT = "unreachable"


@dataclass(frozen=True)
class Node:
    """What was gathered of a node, each as its module returns it; empty where it was not."""

    name: str
    reachable: bool = True
    failure: str = ""
    """Why not all was gathered."""
    wanted: tuple[str, ...] = ()
    """Names of the instances that the inventory has."""
    version: str = ""
    """Of vLLM, by the inventory."""
    info: Mapping[str, Any] = field(default_factory=dict)
    gpus: Mapping[str, Any] = field(default_factory=dict)
    configured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Balancer:
    name: str
    failure: str = ""
    services: Mapping[str, Any] = field(default_factory=dict)


def report(nodes: Iterable[Node], balancers: Iterable[Balancer]) -> dict[str, Any]:
    """All of it, with the sentences that say what is not well."""
    asked = list(balancers)
    found = {node.name: _node(node, asked) for node in nodes}
    problems = [f"{balancer.name}: {balancer.failure}" for balancer in asked if balancer.failure]
    for name, node in found.items():
        problems += [f"{name}: {problem}" for problem in node["problems"]]
        for instance, seen in node["instances"].items():
            problems += [f"{name}: {instance}: {problem}" for problem in seen["problems"]]
    return {
        "ok": not problems,
        "problems": problems,
        "nodes": found,
        "load_balancers": {
            balancer.name: {"failure": balancer.failure, "services": dict(balancer.services)} for balancer in asked
        },
    }


def _node(node: Node, balancers: list[Balancer]) -> dict[str, Any]:
    present = node.info.get("instances", {})
    names = [*present, *(name for name in node.wanted if name not in present)] if node.info else []
    gpus = {"state": node.gpus.get("state", ""), "reasons": list(node.gpus.get("reasons", []))}
    problems = [OUT] if not node.reachable else [node.failure] if node.failure else []
    if node.info.get("agent_error"):
        problems.append(f"its agent does not answer: {node.info['agent_error']}")
    if gpus["state"] not in ("", "ok"):
        problems.append(f"its GPUs are {gpus['state']}: {'; '.join(gpus['reasons'])}")
    return {
        "reachable": node.reachable,
        "problems": problems,
        "gpus": gpus,
        "instances": {name: _instance(name, node, present.get(name), balancers) for name in names},
    }


def _instance(name: str, node: Node, seen: Mapping[str, Any] | None, balancers: list[Balancer]) -> dict[str, Any]:
    views = {
        balancer.name: balancer.services.get(name, {}).get(node.name, {}).get("status_text", "unknown there")
        for balancer in balancers
        if not balancer.failure
    }
    up = [
        balancer.name for balancer in balancers if balancer.services.get(name, {}).get(node.name, {}).get("up", False)
    ]
    drift = list(_drift(name, node, seen))
    if seen is None:
        return {"verdict": "missing", "problems": drift, "drift": drift, "load_balancers": views, "up": up}
    agent = seen["agent"] or {}
    # The agent has watched it for long; one look tells less.
    verdict = agent.get("state") or seen["probe"]["state"]
    evidence = agent.get("evidence") or seen["probe"]["evidence"]
    drained = dict(seen["drain"])
    problems = list(drift)
    if drained["drained"]:
        problems.append(f"drained since {drained['since'] or 'some time'}: {drained['reason'] or 'no reason given'}")
    elif verdict not in WELL:
        problems.append(f"{verdict}: {evidence}")
    else:
        problems += [f"{balancer} sends it no requests: {views[balancer]}" for balancer in views if balancer not in up]
    return {
        "verdict": verdict,
        "evidence": evidence,
        "version": _version(seen),
        "model": seen["served_model_name"],
        "requests": seen.get("in_flight"),
        "gpu": agent.get("gpu", {}).get("state", ""),
        "quarantine": agent.get("quarantine", ""),
        "drained": drained,
        "drift": drift,
        "load_balancers": views,
        "up": up,
        "problems": problems,
    }


def _version(seen: Mapping[str, Any]) -> str:
    """Of the virtual environment that the running server was started from."""
    return os.path.basename(str(seen["record"].get("venv", "")))


def _drift(name: str, node: Node, seen: Mapping[str, Any] | None) -> Iterator[str]:
    if name not in node.wanted:
        yield "surplus: the inventory does not have it"
    elif seen is None:
        yield "missing: the inventory has it, and the node does not"
    elif name in node.configured.get("changed_instances", ()):
        yield "its configuration on the node is older than the inventory"
    elif name in node.configured.get("stale", ()) or (_version(seen) and not seen["current"]):
        yield "its server is older than its configuration"
    if seen and node.version and _version(seen) not in ("", node.version):
        yield f"it runs {_version(seen)}, and the inventory has {node.version}"


def table(found: Mapping[str, Any]) -> list[str]:
    """One screen of it."""
    rows = [HEAD, *_rows(found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [GAP.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    count = sum(len(node["instances"]) for node in found["nodes"].values())
    if found["ok"]:
        return [*lines, "", f"All is well: {count} instances on {len(found['nodes'])} nodes."]
    return [*lines, "", "Not well:", *(f"{GAP}{problem}" for problem in found["problems"])]


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, node in found["nodes"].items():
        gpu = node["gpus"]["state"] or NONE
        if not node["instances"]:
            yield (name, NONE, NONE if node["reachable"] else OUT, NONE, NONE, NONE, gpu, NONE)
        for instance, seen in node["instances"].items():
            requests = seen.get("requests")
            views = seen["load_balancers"]
            yield (
                name,
                instance,
                "drained" if seen.get("drained", {}).get("drained") else seen["verdict"],
                seen.get("version") or NONE,
                seen.get("model") or NONE,
                NONE if requests is None else str(requests),
                seen.get("gpu") or gpu,
                f"{len(seen['up'])}/{len(views)} up" if views else NONE,
            )
