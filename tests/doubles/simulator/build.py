# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the simulator as a wheel named vllm, and the hash-locked requirements file to install it with.

The same arguments give the same bytes, whatever the machine, the day and the Python.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import runpy
import sys
import zipfile
from pathlib import Path

SOURCE = Path(__file__).with_name("vllm_simulator.py")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP file can say

WHEEL = """\
Wheel-Version: 1.0
Generator: inferops
Root-Is-Purelib: true
Tag: py3-none-any
"""

METADATA = """\
Metadata-Version: 2.1
Name: vllm
Version: {version}
Summary: Simulator of the vLLM server, for tests
License: GPL-3.0-or-later
Requires-Python: >=3.9
"""

ENTRY_POINTS = """\
[console_scripts]
vllm = vllm.entrypoints.openai.api_server:cli
"""

PACKAGE = '''\
"""Simulator of the vLLM server, for tests; see vllm.entrypoints.openai.api_server."""

__version__ = {version!r}
SIMULATOR_DEFAULTS = {defaults!r}
'''


def wheel_files(version: str, defaults: dict[str, str]) -> dict[str, bytes]:
    """Return the content of the wheel, without its RECORD."""
    info = f"vllm-{version}.dist-info"
    texts = {
        "vllm/__init__.py": PACKAGE.format(version=version, defaults=dict(sorted(defaults.items()))),
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/openai/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": SOURCE.read_text(encoding="utf-8"),
        f"{info}/METADATA": METADATA.format(version=version),
        f"{info}/WHEEL": WHEEL,
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    return {name: text.encode() for name, text in texts.items()}


def record(files: dict[str, bytes], name: str) -> bytes:
    """Return the RECORD of the files, itself among them."""
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{name},,\n"]).encode()


def build(destination: Path, version: str, defaults: dict[str, str]) -> Path:
    """Write the wheel and requirements.txt; return the wheel."""
    files = wheel_files(version, defaults)
    name = f"vllm-{version}.dist-info/RECORD"
    files[name] = record(files, name)
    destination.mkdir(parents=True, exist_ok=True)
    wheel = destination / f"vllm-{version}-py3-none-any.whl"
    # Stored, not deflated: libraries of zlib differ in what they make of the same bytes.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (destination / "requirements.txt").write_text(f"vllm=={version} --hash=sha256:{digest}\n", encoding="utf-8")
    return wheel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("destination", type=Path, help="directory for the wheel and requirements.txt")
    parser.add_argument("--version", default="0.33.0", help="version to pose as (default: %(default)s)")
    parser.add_argument(
        "--default",
        action="append",
        default=[],
        metavar="SIM_NAME=VALUE",
        help="what a SIM_* variable is when the environment does not set it; may be given more than once",
    )
    arguments = parser.parse_args()
    defaults = dict(item.partition("=")[::2] for item in arguments.default)
    simulator = runpy.run_path(str(SOURCE))
    try:
        simulator["read_script"](defaults)
    except simulator["UsageError"] as error:
        parser.error(str(error))
    print(build(arguments.destination, arguments.version, defaults))
    return 0


if __name__ == "__main__":
    sys.exit(main())
