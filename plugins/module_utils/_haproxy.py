# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy says of its servers, asked at its admin socket."""

from __future__ import annotations

import csv
import os
import re
import socket
from collections.abc import Collection
from typing import Any

# Where the packages of Debian's and Red Hat's families let it listen.
SOCKETS = ("/run/haproxy/admin.sock", "/var/lib/haproxy/stats")
ANSWER_SECONDS = 5
CHUNK_BYTES = 1 << 16
# Every server of every backend, and neither frontends nor backends themselves.
QUESTION = "show stat -1 4 -1"
# What the role load_balancer keeps for the case that no server is ready.
HELPER = re.compile(r"_.+_open$")
UP = ("up", "no-check")
STATES = {"no check": "no-check"}
COUNTERS = ("hrsp_5xx", "econ", "eresp")


class Unanswered(Exception):
    """HAProxy has not answered; the message says where it was asked, and why it did not."""


def socket_path(asked: str | None, known: Collection[str] = SOCKETS) -> str:
    """Where it listens: where the caller says, or else where one of the packages has it."""
    path = asked or next(filter(os.path.exists, known), "")
    if not path:
        raise Unanswered(
            f"HAProxy has no admin socket at {' nor '.join(known)}: start it, or set socket_path to where its"
            " configuration has it"
        )
    return path


def ask(path: str, question: str, seconds: float = ANSWER_SECONDS) -> str:
    received = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
            connection.sendall(f"{question}\n".encode())
            while chunk := connection.recv(CHUNK_BYTES):
                received += chunk
    except OSError as error:
        reason = error.strerror or f"no answer within {seconds:g} s"
        raise Unanswered(f"HAProxy does not answer at {path} ({reason}): see that it runs") from error
    return received.decode(errors="replace")


def services(path: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each service and server, what HAProxy says of it."""
    answer = ask(path, QUESTION)
    if not answer.startswith("# pxname,svname,"):
        raise Unanswered(f"what answers at {path} is not HAProxy's admin socket: {answer[:60].strip()!r}")
    return parse(answer)


def parse(answer: str) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in csv.DictReader(answer[2:].splitlines()):
        if not HELPER.match(row["pxname"]) and not HELPER.match(row["svname"]):
            found.setdefault(row["pxname"], {})[row["svname"]] = server(row)
    return found


def server(row: dict[str, str]) -> dict[str, Any]:
    status = row["status"]
    state = STATES.get(status, status.partition(" ")[0].lower())
    return {
        "state": state,
        "up": state in UP,
        "status_text": status_text(row),
        "sessions": number(row["scur"]),
        "sessions_total": number(row["stot"]),
        "last_change_seconds": number(row["lastchg"]),
        **{counter: number(row[counter]) for counter in COUNTERS},
    }


def number(text: str) -> int:
    """Empty where HAProxy has no such number of a server."""
    return int(text or 0)


def status_text(row: dict[str, str]) -> str:
    """Its status, and what the last checks said of it."""
    # A star marks a check that goes on just now.
    check = " ".join(filter(None, (row["check_status"].lstrip("* "), row["check_code"], row["last_chk"])))
    agent = " ".join(filter(None, (row.get("agent_status", "").lstrip("* "), row.get("last_agt", ""))))
    parts = [row["status"], f"check {check}" if check else "", f"agent {agent}" if agent else ""]
    return ", ".join(filter(None, parts))


def missing(wanted: dict[str, list[str]], found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """A server that HAProxy does not have; empty where it has all of them."""
    for service, names in wanted.items():
        if service not in found:
            return f"it has no service {service}, but {', '.join(sorted(found)) or 'none'}"
        for name in names:
            if name not in found[service]:
                return f"its service {service} has no server {name}, but {', '.join(sorted(found[service])) or 'none'}"
    return ""


def not_up(wanted: dict[str, list[str]], found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Of each wanted server that is not up, what HAProxy says of it."""
    return [
        f"{name} of {service} is {found[service][name]['status_text']}"
        for service, names in wanted.items()
        for name in names
        if not found[service][name]["up"]
    ]
