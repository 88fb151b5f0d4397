# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of the load balancer, run beside it. Each command prints a JSON object."""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import subprocess
import threading
import time

ADDRESS = "127.0.0.1"


def request_one(arguments: argparse.Namespace) -> dict[str, object]:
    """One request: status, headers, body, and the seconds to the first and to the last of the body."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(ADDRESS, arguments.port, timeout=arguments.timeout)
    body = arguments.body and arguments.body + " " * arguments.padding
    headers = {"Content-Type": "application/json"} if body else {}
    if arguments.user:
        headers["Authorization"] = "Basic " + base64.b64encode(arguments.user.encode()).decode()
    try:
        connection.request(arguments.method, arguments.path, body, headers)
        response = connection.getresponse()
        pieces, times = [], []
        while piece := response.read1():
            pieces.append(piece)
            times.append(time.monotonic() - started)
    except TimeoutError:
        connection.close()
        return {"status": None}
    return {
        "status": response.status,
        "headers": {name.lower(): value for name, value in response.getheaders()},
        "body": b"".join(pieces).decode(),
        "first": times[0] if times else None,
        "last": times[-1] if times else None,
    }


class Load:
    """Clients that ask for completions, not streamed, without pause."""

    def __init__(self, port: int, seconds: float, tokens: int) -> None:
        self.port, self.seconds, self.tokens = port, seconds, tokens
        self.lock = threading.Lock()
        self.answered = 0
        self.failed: list[str] = []
        self.slowest = 0.0

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """One completion; headers and body leave in two packets, as with most clients."""
        body = {"model": "org/tiny", "prompt": "count", "max_tokens": self.tokens, "ignore_eos": True}
        started = time.monotonic()
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            whole = response.status == 200 and json.loads(text)["usage"]["completion_tokens"] == self.tokens
            failure = "" if whole else f"{response.status} {text}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = repr(error)
            connection.close()
        with self.lock:
            self.slowest = max(self.slowest, time.monotonic() - started)
            if failure:
                self.failed.append(failure)
            else:
                self.answered += 1

    def run_client(self) -> None:
        """Ask until the time is over, once at least."""
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=60)
        end = time.monotonic() + self.seconds
        self.ask(connection)
        while time.monotonic() < end:
            self.ask(connection)


def run_load(arguments: argparse.Namespace) -> dict[str, object]:
    """Some clients for a while, and a command a third into it: what was answered, what failed, and the slowest."""
    load = Load(arguments.port, arguments.seconds, arguments.tokens)
    threads = [threading.Thread(target=load.run_client, name=f"client {number}") for number in range(arguments.clients)]
    for thread in threads:
        thread.start()
    time.sleep(arguments.seconds / 3)
    if arguments.command:
        subprocess.run(arguments.command, check=True)
    for thread in threads:
        thread.join()
    return {"answered": load.answered, "failed": load.failed, "slowest": load.slowest}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    one = commands.add_parser("one", help=request_one.__doc__)
    one.set_defaults(function=request_one)
    one.add_argument("method")
    one.add_argument("path")
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--body")
    one.add_argument("--padding", type=int, default=0, help="bytes to add to the body")
    one.add_argument("--user", help="name:password")
    one.add_argument("--timeout", type=float, default=60, help="seconds of silence after which to leave")

    load = commands.add_parser("load", help=run_load.__doc__)
    load.set_defaults(function=run_load)
    load.add_argument("--port", type=int, required=True)
    load.add_argument("--clients", type=int, default=8)
    load.add_argument("--seconds", type=float, default=6)
    load.add_argument("--tokens", type=int, default=25)
    load.add_argument("command", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    parsed = parse_arguments()
    print(json.dumps(parsed.function(parsed)))
