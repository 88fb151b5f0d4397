#!/usr/bin/env python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for get-pip.py, for machines that reach a package index and not the host of ansible-test's own copy.

`get_pip.py --provide` puts it where ansible-test keeps what it downloaded, if nothing is there and the download fails.
ansible-test then runs it, as it would the real one: the pip that Python bundles installs what was asked for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

CACHE = Path("~/.ansible/test/cache").expanduser()


def provide() -> None:
    """For every pip version that this ansible-test asks for: its file, or a copy of this one."""
    from ansible_test._internal.constants import SUPPORTED_PYTHON_VERSIONS
    from ansible_test._internal.python_requirements import get_venv_packages
    from ansible_test._internal.util import ANSIBLE_TEST_TARGET_ROOT

    source = Path(ANSIBLE_TEST_TARGET_ROOT, "setup", "requirements.py").read_text(encoding="utf-8")
    found = re.search(r"url = '(https://\S+?)' % pip_version", source)
    if not found:
        sys.exit(f"get_pip.py: ansible-test no longer names the address of get-pip.py in {ANSIBLE_TEST_TARGET_ROOT}")
    for pip in {get_venv_packages(SimpleNamespace(version=version))["pip"] for version in SUPPORTED_PYTHON_VERSIONS}:
        target = CACHE / f"get_pip_{pip.replace('.', '_')}.py"
        if not target.exists() and not answers(found.group(1) % pip):
            CACHE.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(__file__).read_bytes())


def answers(url: str) -> bool:
    """Whether ansible-test's own download would succeed."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def install(arguments: list[str]) -> int:
    """The part of get-pip.py that ansible-test uses."""
    # As a process of its own: ensurepip switches off pip's configuration for the process that it runs in.
    subprocess.run([sys.executable, "-m", "ensurepip"], check=True)
    wanted = [argument for argument in arguments if argument not in ("--no-setuptools", "--no-wheel")]
    return subprocess.call([sys.executable, "-m", "pip", "install", *wanted])


if __name__ == "__main__":
    if sys.argv[1:] == ["--provide"]:
        provide()
    else:
        sys.exit(install(sys.argv[1:]))
