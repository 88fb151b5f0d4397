# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drain flag: its existence counts, whatever is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import drain


def test_flag(tmp_path: Path) -> None:
    folder = str(tmp_path / "drain")
    assert not drain.is_drained("tiny", folder)
    assert drain.read("tiny", folder) == {}
    drain.set_flag("tiny", "kernel upgrade", folder)
    assert drain.is_drained("tiny", folder)
    assert not drain.is_drained("other", folder)
    assert drain.read("tiny", folder)["reason"] == "kernel upgrade"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", drain.read("tiny", folder)["since"])
    assert [entry.name for entry in Path(folder).iterdir()] == ["tiny"], "nothing is left beside it"
    for _attempt in range(2):
        drain.clear("tiny", folder)
        assert not drain.is_drained("tiny", folder)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"7"])
def test_damaged_flag_still_counts(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "tiny").write_bytes(damage)
    assert drain.is_drained("tiny", str(tmp_path))
    assert drain.read("tiny", str(tmp_path)) == {}
