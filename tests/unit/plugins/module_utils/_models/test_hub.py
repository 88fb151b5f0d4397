# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub's files through the real huggingface_hub, which runs as it does on a node: in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._models import hub
from doubles.hub import Hub, blob_id

MODEL = "org/house"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# huggingface_hub writes 10 MB at a time: what a cut leaves on disk is a multiple of that.
CHUNK = 10 * 1024 * 1024
WEIGHTS = bytes(range(256)) * (25 * 4096)
CONTENTS = {"config.json": b"{}\n", "model.bin": WEIGHTS, "sub/merges.txt": b"a b\n"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    for path, data in CONTENTS.items():
        file = tmp_path / "hub" / MODEL / COMMIT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    with Hub(tmp_path / "hub").start() as server:
        yield server
        server.shutdown()


def job(action: str, **more: Any) -> dict[str, Any]:
    return {"do": action, "model": MODEL, "revision": COMMIT, **more}


def start(endpoint: str, tmp_path: Path, token: str = "") -> subprocess.Popen[str]:
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PATH": os.environ["PATH"],
        **({"HF_TOKEN": token} if token else {}),
    }
    command = [sys.executable, "-I", hub.__file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)


def ask(server: Hub, tmp_path: Path, asked: dict[str, Any], token: str = "") -> dict[str, Any]:
    output, _errors = start(server.url, tmp_path, token).communicate(json.dumps(asked), timeout=60)
    result: dict[str, Any] = json.loads(output)
    return result


def download(tmp_path: Path, *paths: str) -> dict[str, Any]:
    files = [{"path": path, "size": len(CONTENTS[path])} for path in paths]
    return job("download", files=files, parts=str(tmp_path / "parts"))


def test_files(server: Hub, tmp_path: Path) -> None:
    assert ask(server, tmp_path, job("files")) == {
        "files": [
            {"path": "config.json", "size": 3, "blob": blob_id(b"{}\n")},
            {"path": "model.bin", "size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()},
            {"path": "sub/merges.txt", "size": 4, "blob": blob_id(b"a b\n")},
        ]
    }


def test_download(server: Hub, tmp_path: Path) -> None:
    assert ask(server, tmp_path, download(tmp_path, *CONTENTS)) == {}
    assert {path: (tmp_path / "parts" / path).read_bytes() for path in CONTENTS} == CONTENTS
    # What is there is not fetched again.
    server.requests.clear()
    assert ask(server, tmp_path, download(tmp_path, *CONTENTS)) == {}
    assert server.requests == []


def test_a_cut_connection_is_taken_up(server: Hub, tmp_path: Path) -> None:
    server.faults.cut = {"model.bin": 1}
    assert ask(server, tmp_path, download(tmp_path, "model.bin")) == {}
    assert (tmp_path / "parts" / "model.bin").read_bytes() == WEIGHTS
    assert f"bytes={CHUNK}-" in [request["range"] for request in server.requests]


def test_a_killed_download_is_continued(server: Hub, tmp_path: Path) -> None:
    server.faults.cut = {"model.bin": 100}
    part = tmp_path / "parts" / "model.bin"
    with start(server.url, tmp_path) as process:
        assert process.stdin
        process.stdin.write(json.dumps(download(tmp_path, "model.bin")))
        process.stdin.close()
        while not part.exists() or part.stat().st_size < CHUNK:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    server.faults.cut = {}
    server.requests.clear()
    assert ask(server, tmp_path, download(tmp_path, "model.bin")) == {}
    assert part.read_bytes() == WEIGHTS
    assert server.fetched("model.bin") <= len(WEIGHTS) - CHUNK


def test_a_part_that_is_too_long_is_begun_anew(server: Hub, tmp_path: Path) -> None:
    part = tmp_path / "parts" / "config.json"
    part.parent.mkdir()
    part.write_bytes(b"{}\nrubbish")
    assert ask(server, tmp_path, download(tmp_path, "config.json")) == {}
    assert part.read_bytes() == b"{}\n"


def test_the_token_goes_to_the_hub_alone(server: Hub, tmp_path: Path) -> None:
    server.faults.gated = [MODEL]
    assert ask(server, tmp_path, download(tmp_path, "model.bin"), token="hf_right") == {}
    sent = {(str(request["path"]).startswith("/storage/"), request["token"]) for request in server.requests}
    assert sent == {(False, "Bearer hf_right"), (True, "")}


def error(server: Hub, tmp_path: Path, asked: dict[str, Any], token: str = "") -> str:
    return str(ask(server, tmp_path, asked, token)["error"])


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "model org/house is gated and there is no token: accept its terms at {hub}/org/house and name a file"),
        ("hf_wrong", "is gated and the token may not read it: accept its terms at {hub}/org/house as its owner"),
        ("hf_expired", "hub {hub} does not accept the token: put a valid one into token_file"),
    ],
)
def test_gated(server: Hub, tmp_path: Path, token: str, sentence: str) -> None:
    server.faults.gated = [MODEL]
    said = error(server, tmp_path, download(tmp_path, "config.json"), token)
    assert sentence.format(hub=server.url) in said
    assert "hf_" not in said


def test_private(server: Hub, tmp_path: Path) -> None:
    server.faults.private = [MODEL]
    assert "has no model org/house, or it is private and there is no token" in error(server, tmp_path, job("files"))
    assert "or the token may not read it" in error(server, tmp_path, job("files"), "hf_wrong")
    assert "files" in ask(server, tmp_path, job("files"), "hf_right")


def test_unknown_revision(server: Hub, tmp_path: Path) -> None:
    said = error(server, tmp_path, job("files", revision="f" * 40))
    assert said == f"model org/house has no revision {'f' * 40}: take one from {server.url}/org/house/commits/main"


def test_unreachable(server: Hub, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    said = error(server, tmp_path, job("files"))
    assert said.startswith(f"hub {server.url} does not answer this host while it asks for org/house (")
    assert said.endswith("set endpoint to a mirror within its reach, or model to a directory on the controller")


def test_out_of_order(server: Hub, tmp_path: Path) -> None:
    server.faults.status = 503
    assert f"hub {server.url} answered 503 for model org/house" in error(server, tmp_path, job("files"))
    assert len(server.requests) == hub.ATTEMPTS


def test_disk_full() -> None:
    said = hub.sentence(OSError(errno.ENOSPC, "No space left on device"), job("download"))
    assert (
        said == "the disk filled up while org/house was downloaded: make room, or choose a root on a larger file system"
    )


def test_no_huggingface_hub() -> None:
    assert "has no huggingface_hub: install vLLM's environment first" in hub.sentence(ImportError(), job("files"))


def test_anything_else() -> None:
    said = hub.sentence(LookupError("no\n size"), job("files"))
    assert said == "model org/house could not be downloaded (LookupError: no size)"


def test_xet_is_left_to_huggingface_hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults.xet = True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    file = {"path": "model.bin", "size": len(WEIGHTS)}
    address = f"{server.url}/{MODEL}/resolve/{COMMIT}/model.bin"
    with (
        mock.patch("huggingface_hub.hf_hub_download") as through_xet,
        mock.patch("huggingface_hub.hf_hub_url", return_value=address),
        mock.patch.object(hub, "xet_usable", return_value=True),
    ):
        hub.fetch_once(job("download", parts=str(tmp_path)), file, str(tmp_path / "model.bin"))
    through_xet.assert_called_once_with(MODEL, "model.bin", revision=COMMIT, token="hf_right", local_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ["config.json", ".gitattributes", "model.safetensors", "pytorch_model.bin", "original/consolidated.00.pth"],
            ["config.json", "model.safetensors"],
        ),
        (["model.safetensors", "onnx/model.onnx", "original/params.json", "tf_model.h5"], ["model.safetensors"]),
        # vLLM reads these where they are: a Mistral model's own format.
        (["consolidated.safetensors", "model-00001-of-00002.safetensors", "params.json"], None),
        (["config.json", "pytorch_model.bin", ".cache/x"], ["config.json", "pytorch_model.bin"]),
        (["text_encoder/model.safetensors", "pytorch_model.bin"], None),
        (["model.safetensors", "1_Pooling/config.json", "chat_template.jinja", "code.py"], None),
    ],
)
def test_selected(paths: list[str], expected: list[str] | None) -> None:
    assert hub.selected(paths) == (paths if expected is None else expected)
