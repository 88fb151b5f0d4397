#!/usr/bin/env python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no other linter looks at: files that must say the same, and files that must be there, or must not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROLE_FILES = ("README.md", "defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml")


def load(path: Path) -> Any:
    """The YAML document of a file; an empty one, or none, is an empty mapping."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}


def missing_files(repo: Path, role: Path) -> Iterator[str]:
    """A role has its files, and a Molecule scenario of its name."""
    for name in ROLE_FILES:
        if not (role / name).exists():
            yield f"{role.relative_to(repo)}: {name} is missing"
    if not (repo / "molecule" / role.name / "molecule.yml").exists():
        yield f"{role.relative_to(repo)}: there is no scenario molecule/{role.name}"


def defaults_against_specs(repo: Path, role: Path) -> Iterator[str]:
    """A variable of a role has a default and an argument spec, unless it must be given: then the spec alone."""
    defaults = load(role / "defaults/main.yml")
    specs = load(role / "meta/argument_specs.yml").get("argument_specs", {})
    options = specs.get("main", {}).get("options", {})
    where = role.relative_to(repo)
    for name in sorted(defaults.keys() - options.keys()):
        yield f"{where}: {name} has a default, and no argument spec"
    for name, option in sorted(options.items()):
        if option.get("required"):
            if name in defaults:
                yield f"{where}: {name} is required by its argument spec, and has a default"
        elif name not in defaults:
            yield f"{where}: {name} has an argument spec, and no default"
        elif "default" in option and not agree(option["default"], defaults[name]):
            yield f"{where}: {name} is {defaults[name]!r} by default, and its argument spec says {option['default']!r}"


def agree(documented: Any, default: Any) -> bool:
    """A default that is a template is documented by what it comes to, which is not for us to compute."""
    return documented == default or (isinstance(default, str) and "{{" in default)


def requirements_against_galaxy(repo: Path) -> Iterator[str]:
    """What the project installs to work on itself is what the collection tells Galaxy to install with it."""
    wanted = load(repo / "galaxy.yml").get("dependencies", {})
    listed = {
        entry["name"]: entry.get("version", "*") for entry in load(repo / "requirements.yml").get("collections", [])
    }
    for name in sorted(wanted.keys() | listed.keys()):
        if wanted.get(name) != listed.get(name):
            yield f"{name}: galaxy.yml says {wanted.get(name)!r}, requirements.yml {listed.get(name)!r}"


def silenced(repo: Path) -> Iterator[str]:
    """A finding of ansible-lint or ansible-test is mended, not silenced."""
    for name in [".ansible-lint-ignore", *(f"tests/sanity/{path.name}" for path in repo.glob("tests/sanity/ignore*"))]:
        if (repo / name).exists():
            yield f"{name}: is a list of findings to ignore"
    for folder in ("inventory", "molecule", "playbooks", "roles"):
        for path in sorted(repo.joinpath(folder).rglob("*.yml")):
            if "# noqa" in path.read_text(encoding="utf-8"):
                yield f"{path.relative_to(repo)}: silences a finding"


def findings(repo: Path) -> Iterator[str]:
    """All that is wrong, a sentence each."""
    yield from requirements_against_galaxy(repo)
    yield from silenced(repo)
    for role in sorted(path for path in (repo / "roles").glob("*") if path.is_dir()):
        yield from missing_files(repo, role)
        yield from defaults_against_specs(repo, role)


def main() -> int:
    found = list(findings(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
    print("\n".join(found) or "nothing found")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
