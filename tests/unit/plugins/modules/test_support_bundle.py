# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What support_bundle packs, what it leaves out, and that nothing keeps it from its end."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._support import bundle
from ansible_collections.inferops.vllm.plugins.modules import support_bundle

SECRETS = ("planted-api-key", "hf_planted0hub0token", "planted-in-the-environment", "planted-in-a-hook")
TIMES = bundle.Bounds(part_seconds=5, seconds=10)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with secrets in every place that one gets to."""
    key, token, variable, hook = SECRETS
    files = {
        "etc/vllm/instances/chat.yaml": f'port: 1\napi-key: ["{key}"]\n',
        "etc/vllm/instances/chat.json": json.dumps(
            {
                "name": "chat",
                "port": 1,
                "served_model_name": "m",
                "user": "vllm",
                "root": "/opt/vllm",
                "environment": {"HF_TOKEN": token, "CREDENTIAL_OF_CHAT": variable},
            }
        ),
        "etc/vllm/instances/broken.json": f'{{"environment": {{"CREDENTIAL_OF_CHAT": "{variable}"',
        "etc/vllm/health.json": json.dumps(
            {"agent_port": 1, "hooks": [{"events": ["restart"], "url": f"http://x/{hook}"}]}
        ),
        "run/vllm/chat.obstacle": f"port 1 is held by x --api-key {key}",
        "var/log/vllm/chat.log": f"{token}\n" * 3 + f"Authorization: Bearer {key}\n{variable}\n{hook}\nthe end\n",
        "var/lib/vllm/drain/chat": json.dumps({"since": "2026-03-01T04:05:06Z", "reason": f"rotate {key}"}),
        "etc/systemd/system/vllm@.service": f"[Service]\nEnvironment=X={variable}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(bundle, "COMMANDS", {"host/df.txt": ("df", "-h")})
    return tmp_path


def gathered(root: Path, bounds: bundle.Bounds = TIMES) -> bundle.Bundle:
    return bundle.cleaned(asyncio.run(bundle.Gatherer(bounds, str(root)).gather()), bounds)


def test_no_secret_is_in_the_archive(node: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    bundle.pack(gathered(node), str(path), "top", {"host": "gpu1"})
    content = gzip.decompress(path.read_bytes())
    assert not [secret for secret in SECRETS if secret.encode() in content]
    assert b"the end" in content
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        names = archive.getnames()
        manifest = json.load(archive.extractfile("top/manifest.json"))
    assert "top/logs/chat.log" in names
    assert manifest["host"] == "gpu1"
    assert len(manifest["files"]) == len(names) - 1
    # Nothing answers, and this is told.
    assert {"agent/status.json", "instances/chat/metrics.txt", "instances/broken/log.txt"} <= set(manifest["missing"])


def test_a_hung_program_is_left_out(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\ntrap '' TERM\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(bundle, "COMMANDS", {"host/df.txt": (str(program),)})
    began = time.monotonic()
    found = gathered(node, bundle.Bounds(part_seconds=2, seconds=4))
    assert time.monotonic() - began < 60
    assert "not done within 2 s" in found.missing["host/df.txt"]
    assert "gpu/nvidia-smi.txt" in found.missing
    assert "logs/chat.log" in found.texts


def test_a_bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "COMMANDS", {"host/df.txt": ("df", "-h"), "units/list.txt": ("no-such-program",)})
    found = gathered(tmp_path)
    assert found.missing["units/list.txt"] == "no-such-program: No such file or directory"
    assert "host/df.txt" in found.texts


def test_large_logs_are_cut_and_the_largest_left_out(node: Path) -> None:
    log = node / "var/log/vllm/chat.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    found = gathered(node, bundle.Bounds(part_bytes=10_000, part_seconds=5, seconds=10))
    assert found.texts["logs/chat.log"].endswith("line 99999\n")
    assert len(found.texts["logs/chat.log"]) < 10_100
    assert found.texts["logs/chat.log"].startswith("[its first ")
    found = gathered(node, bundle.Bounds(total_bytes=20_000, part_seconds=5, seconds=10))
    assert found.missing["logs/chat.log"] == "the bundle is full"


def test_what_others_have_planted_is_not_followed(node: Path) -> None:
    (node / "run/vllm/link.json").symlink_to("/etc/shadow")
    os.mkfifo(node / "run/vllm/pipe")
    found = gathered(node)
    assert found.missing[f"instances{node}/run/vllm/link.json"] == "Too many levels of symbolic links"
    assert found.missing[f"instances{node}/run/vllm/pipe"] == "it is no file"


def test_module(call: Any, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bundle.Gatherer
    monkeypatch.setattr(bundle, "Gatherer", lambda bounds: real(bounds, str(node)))
    result = call(support_bundle, directory=str(tmp_path), reason="hangs", timeout_seconds=10)
    assert result["changed"]
    assert os.path.getsize(result["path"]) == result["bytes"]
    assert "logs/chat.log" in result["files"]


def test_check_mode(call: Any, tmp_path: Path) -> None:
    result = call(support_bundle, check=True, directory=str(tmp_path))
    assert (result["changed"], result["bytes"], list(tmp_path.iterdir())) == (True, 0, [])


def test_no_directory(call: Any) -> None:
    result = call(support_bundle, directory="/no/such")
    assert result["msg"] == "directory is /no/such, and this host has none there: name another one"


def test_wrong_number(call: Any) -> None:
    assert call(support_bundle, log_lines=0)["msg"] == "log_lines is 0: write 1 or more"
