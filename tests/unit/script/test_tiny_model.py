# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny model: the same bytes each time, and what its configuration says. That vLLM serves it, the demo shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import safetensors
from tokenizers import Tokenizer

SCRIPT = Path(__file__).resolve().parents[3] / "script" / "tiny-model"


def write(folder: Path) -> dict[str, bytes]:
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "first") == write(tmp_path / "second")


def test_contents_agree(tmp_path: Path) -> None:
    files = write(tmp_path / "model")
    config = json.loads(files["config.json"])
    tensors = dict(safetensors.deserialize(files["model.safetensors"]))
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert tensors["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert len(tensors) == 3 + 11 * config["num_hidden_layers"]

    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("Grüße, 世界!").ids) == "Grüße, 世界!"
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]
