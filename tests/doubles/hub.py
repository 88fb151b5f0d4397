# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands for https://huggingface.co, which tests cannot count on: lists models and lets huggingface_hub download them.

Serves ROOT/<org>/<name>/<revision>/<files>. Weights are large files, as on the hub: known by their SHA-256 and fetched
by a redirect to storage, here the same server by its other name. All other files are known by Git's blob id.
Errors have the status and headers by which huggingface_hub 2.4 tells them apart. Xet is announced at most, not there.

Faults are scripted by POST /control with a JSON object of `Faults`; GET /control returns them and the requests seen.

    python tests/doubles/hub.py --port 8900 ROOT
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".bin", ".safetensors")


@dataclass
class Faults:
    gated: list[str] = field(default_factory=list)
    """Models that anybody sees and only `token` may download."""
    private: list[str] = field(default_factory=list)
    """Models that only `token` sees."""
    token: str = "hf_right"
    cut: dict[str, int] = field(default_factory=dict)
    """Connections to break in the middle of the rest of a file: how many, by file name."""
    altered: list[str] = field(default_factory=list)
    """Files whose last byte is another one than it should be."""
    status: int = 0
    """Answer everything with this status."""
    xet: bool = False
    """Say of large files that Xet has them."""


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, Handler)
        self.root = root
        self.faults = Faults()
        self.requests: list[dict[str, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self.server_port}/storage"

    def start(self) -> Hub:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def fetched(self, name: str) -> int:
        """Bytes of a file that were sent."""
        return sum(int(str(request["sent"])) for request in self.requests if str(request["path"]).endswith(f"/{name}"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.faults = Faults(**json.loads(body))
        self.server.requests.clear()
        self.reply(204)

    def answer(self, head: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/control":
            seen = {**asdict(self.server.faults), "requests": self.server.requests}
            self.reply(200, json.dumps(seen).encode())
            return
        self.seen: dict[str, object] = {
            "method": self.command,
            "path": path,
            "range": self.headers.get("Range", ""),
            "token": self.headers.get("Authorization", ""),
            "sent": 0,
        }
        self.server.requests.append(self.seen)
        parts = path.strip("/").split("/")
        if self.server.faults.status:
            self.reply(self.server.faults.status)
        elif parts[0] == "storage":
            self.send_file(self.server.root.joinpath(*parts[1:]), head, {})
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self.list_files("/".join(parts[2:4]), parts[5])
        elif parts[2:3] == ["resolve"]:
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), head)
        else:
            self.reply(404)

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.faults.token}"

    def visible(self, model: str, revision: str) -> bool:
        """Whether the caller may know of a revision; if not, it has its answer."""
        given = self.headers.get("Authorization")
        if given == "Bearer hf_expired":
            self.reply(401, error_message="Invalid credentials in Authorization header")
        elif not (self.server.root / model).is_dir() or (model in self.server.faults.private and not self.authorized()):
            # Who asks without a token is not told whether the model exists.
            self.reply(404 if given else 401, error_code="RepoNotFound", error_message="Repository not found")
        elif not (self.server.root / model / revision).is_dir():
            self.reply(404, error_code="RevisionNotFound", error_message=f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def list_files(self, model: str, revision: str) -> None:
        if not self.visible(model, revision):
            return
        folder = self.server.root / model / revision
        siblings = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sibling: dict[str, object] = {
                "rfilename": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "blobId": blob_id(path.read_bytes()),
            }
            if path.suffix in LARGE:
                sibling["lfs"] = {
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "size": path.stat().st_size,
                    "pointerSize": 134,
                }
            siblings.append(sibling)
        info = {"_id": "0", "id": model, "modelId": model, "sha": revision, "private": False, "siblings": siblings}
        self.reply(200, json.dumps(info).encode())

    def resolve(self, model: str, revision: str, name: str, head: bool) -> None:
        if not self.visible(model, revision):
            return
        if model in self.server.faults.gated and not self.authorized():
            status = 403 if self.headers.get("Authorization") else 401
            self.reply(status, error_code="GatedRepo", error_message=f"Access to model {model} is restricted.")
            return
        path = self.server.root / model / revision / name
        if not path.is_file():
            self.reply(404, error_code="EntryNotFound", error_message="Entry not found")
            return
        headers = {"X-Repo-Commit": revision}
        if path.suffix in LARGE:
            headers["X-Linked-Size"] = str(path.stat().st_size)
            headers["X-Linked-ETag"] = '"' + hashlib.sha256(path.read_bytes()).hexdigest() + '"'
            headers["Location"] = f"{self.server.storage}/{model}/{revision}/{name}"
            if self.server.faults.xet:
                headers["X-Xet-Hash"] = hashlib.sha256(path.read_bytes()).hexdigest()
                headers["X-Xet-Refresh-Route"] = f"{self.server.url}/xet-read-token"
            self.reply(302, headers=headers)
        else:
            headers["ETag"] = '"' + blob_id(path.read_bytes()) + '"'
            self.send_file(path, head, headers)

    def send_file(self, path: Path, head: bool, headers: dict[str, str]) -> None:
        contents = path.read_bytes()
        if path.name in self.server.faults.altered and contents:
            contents = contents[:-1] + bytes([contents[-1] ^ 1])
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
        headers["Accept-Ranges"] = "bytes"
        rest = contents[start:]
        if head or not self.server.faults.cut.get(path.name):
            self.reply(status, rest, headers, head)
            return
        self.server.faults.cut[path.name] -= 1
        self.reply(status, rest, headers, head=True)
        self.seen["sent"] = len(rest) // 2
        self.wfile.write(rest[: len(rest) // 2])
        self.close_connection = True

    def reply(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        head: bool = False,
        error_code: str = "",
        error_message: str = "",
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if error_code:
            self.send_header("X-Error-Code", error_code)
        if error_message:
            self.send_header("X-Error-Message", error_message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head and self.command != "HEAD":
            self.wfile.write(body)
            if self.path != "/control" and hasattr(self, "seen"):
                self.seen["sent"] = len(body)

    def log_message(self, *_words: Any, **_more: Any) -> None:
        """Say nothing: the requests are kept."""


def blob_id(contents: bytes) -> str:
    """Git's name for the contents of a file."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900)
    arguments = parser.parse_args()
    Hub(arguments.root, (arguments.host, arguments.port)).serve_forever()


if __name__ == "__main__":
    main()
