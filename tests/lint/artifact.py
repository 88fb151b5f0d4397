#!/usr/bin/env python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A built collection holds what its users need, and nothing of the workshop it was made in: artifact.py TARBALL."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator

GENERATED = {"FILES.json", "MANIFEST.json"}
NEEDED = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "changelogs",
    "docs",
    "examples",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
ALLOWED = GENERATED | NEEDED
# Ten times what text of ours comes to: a model, a wheel or a virtual environment has slipped in.
MEMBER_LIMIT = 2 * 1024 * 1024


def findings(members: list[tarfile.TarInfo]) -> Iterator[str]:
    """All that is wrong, a sentence each."""
    top = {member.name.split("/")[0] for member in members}
    for name in sorted(top - ALLOWED):
        yield f"{name}: does not belong into the collection; add it to build_ignore in galaxy.yml"
    for name in sorted((GENERATED | NEEDED) - top):
        yield f"{name}: is missing from the collection"
    for member in members:
        if "__pycache__" in member.name or member.name.endswith(".pyc"):
            yield f"{member.name}: is bytecode"
        if member.size > MEMBER_LIMIT:
            yield f"{member.name}: has {member.size} bytes, over the limit of {MEMBER_LIMIT}"


def main() -> int:
    with tarfile.open(sys.argv[1]) as archive:
        members = archive.getmembers()
    found = list(findings(members))
    print("\n".join(found) or f"{len(members)} members, nothing found")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
