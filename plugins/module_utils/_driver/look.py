# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What files and package managers of a host tell of its driver, kernels and GPUs. Looks, and changes nothing."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._gpu import driver, pci

STATE = "var/lib/inferops/nvidia_driver.json"
"""What the role has set up: its source, branch and flavour."""
MARKER = "run/inferops/nvidia-driver-reboot"
"""Why the host waits for a reboot; /run is empty after one."""
DPKG = "var/lib/dpkg/status"
NAMES = re.compile(r"nvidia|^libcuda|^libnvcuvid|^libnvoptix|^cuda-drivers|^linux-headers-|^kernel-(devel|headers)")
MODULES = ("nvidia", "nvidia-current", "nvidia-current-open")
MODULE = re.compile(rf"({'|'.join(MODULES)})\.ko")
EFI_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NOUVEAU_BLACKLIST = "etc/modprobe.d/inferops-nouveau.conf"
TRANSACTION = re.compile(r"^(Inst|Remv) (\S+)(?: \[[^\]]*\])?(?: \((\S+))?")

Run = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a program: its exit status, and what it wrote on both its outputs."""


def files(root: str = "/") -> dict[str, Any]:
    """What needs no program; enough to judge a host by."""
    versions = driver.versions(root)
    return {
        "loaded": versions.loaded,
        "library": versions.library,
        "libcuda": versions.libcuda,
        "kernels": kernels(root),
        "packages": dpkg(root),
        "managed": _managed(root),
        "reboot_pending": _read(root, MARKER).strip(),
    }


def everything(run: Run, kernel: str, architecture: str, root: str = "/") -> dict[str, Any]:
    """What the plan needs to know besides."""
    found = files(root)
    if not os.path.exists(os.path.join(root, DPKG)):
        found["packages"] = rpm(run)
    return {
        **found,
        "kernel": kernel,
        "architecture": architecture,
        "gpus": gpus(root),
        "nvswitches": driver.devices(root)[1],
        "secure_boot": secure_boot(root),
        "nouveau": os.path.isdir(os.path.join(root, "sys/module/nouveau")),
        "initramfs_stale": initramfs_stale(root),
        "runfile": os.path.exists(os.path.join(root, "usr/bin/nvidia-uninstall")),
        "containers": containers(run, root),
        "docker": docker(root),
        "persistenced": persistenced(root),
        "modules": {found["release"]: module_version(run, found["module"]) for found in found["kernels"]},
    }


def _managed(root: str) -> str:
    try:
        return str(json.loads(_read(root, STATE)).get("source", ""))
    except (AttributeError, ValueError):
        return ""


def kernels(root: str = "/") -> list[dict[str, str]]:
    """Installed kernels, the newest last, each with the file of its module, empty for none."""
    found = []
    for image in glob.glob(os.path.join(root, "boot/vmlinuz-*")):
        release = os.path.basename(image)[len("vmlinuz-") :]
        folder = os.path.join(root, "lib/modules", release)
        if os.path.isdir(folder) and "rescue" not in release:
            found.append({"release": release, "module": _module(folder)})
    return sorted(found, key=lambda kernel: _sort_key(kernel["release"]))


def _module(folder: str) -> str:
    found = [
        os.path.join(place, name) for place, _folders, names in os.walk(folder) for name in names if MODULE.match(name)
    ]
    return min(found, default="", key=lambda path: MODULES.index(os.path.basename(path).partition(".")[0]))


def _sort_key(release: str) -> list[tuple[int, str]]:
    """Numbers by their value, and the rest by the alphabet."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", release)]


def module_version(run: Run, path: str) -> str:
    """Of a module's file; unknown where nothing here can tell."""
    if not path:
        return ""
    status, text = run(["modinfo", "--field", "version", path])
    found = driver.VERSION.search(text)
    return found.group() if status == 0 and found else "unknown"


def dpkg(root: str = "/") -> dict[str, dict[str, Any]]:
    """Installed packages that have to do with the driver, their versions, and whether they are held."""
    found = {}
    for paragraph in _read(root, DPKG).split("\n\n"):
        name = re.search(r"^Package: (.*)$", paragraph, re.MULTILINE)
        if not name or not NAMES.search(name[1]):
            continue
        status = re.search(r"^Status: (\S+) \S+ (\S+)$", paragraph, re.MULTILINE)
        version = re.search(r"^Version: (.*)$", paragraph, re.MULTILINE)
        if status and version and status[2] != "config-files" and status[2] != "not-installed":
            found[name[1]] = {"version": version[1], "held": status[1] == "hold", "complete": status[2] == "installed"}
    return found


def rpm(run: Run) -> dict[str, dict[str, Any]]:
    status, text = run(["rpm", "--query", "--all", "--queryformat", "%{NAME} %{EVR}\\n"])
    lines = (line.partition(" ") for line in text.splitlines() if status == 0)
    return {
        name: {"version": version, "held": False, "complete": True}
        for name, _separator, version in lines
        if NAMES.search(name)
    }


def gpus(root: str = "/") -> list[dict[str, str]]:
    """Addresses, and what each says that it is."""
    folder = "sys/bus/pci/devices"
    present = driver.devices(root)[0]
    entries = sorted(os.listdir(os.path.join(root, folder))) if present else []
    functions = {pci.normalize(entry): entry for entry in reversed(entries)}
    return [
        {"address": address, "device": _read(root, f"{folder}/{functions[address]}/device").strip() or "0xffff"}
        for address in present
    ]


def secure_boot(root: str = "/") -> bool:
    """The variable of EFI is four bytes of attributes and one that tells."""
    try:
        with open(os.path.join(root, EFI_SECURE_BOOT), "rb") as stream:
            return stream.read()[-1:] == b"\1"
    except OSError:
        return False


def initramfs_stale(root: str = "/") -> bool:
    """Whether an initial file system is older than what keeps nouveau out of it."""
    try:
        since = os.stat(os.path.join(root, NOUVEAU_BLACKLIST)).st_mtime
    except OSError:
        return False
    images = (
        path for name in ("initrd.img-*", "initramfs-*.img") for path in glob.glob(os.path.join(root, "boot", name))
    )
    return any(os.stat(image).st_mtime < since for image in images if "rescue" not in image)


def containers(run: Run, root: str = "/") -> int | None:
    """How many containers Docker runs; None where there is no Docker, or it does not answer."""
    if not os.path.exists(os.path.join(root, "run/docker.sock")):
        return None
    status, text = run(["docker", "ps", "--quiet"])
    return len(text.split()) if status == 0 else None


def docker(root: str = "/") -> dict[str, Any] | None:
    """Its configuration, which need not be there."""
    if not os.path.isdir(os.path.join(root, "etc/docker")):
        return None
    try:
        found = json.loads(_read(root, "etc/docker/daemon.json").strip() or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def persistenced(root: str = "/") -> str:
    """What its unit should start, where the unit as packaged leaves persistence off."""
    for folder in ("lib/systemd/system", "usr/lib/systemd/system"):
        for line in _read(root, f"{folder}/nvidia-persistenced.service").splitlines():
            if line.startswith("ExecStart=") and "--no-persistence-mode" in line:
                return line.partition("=")[2].replace("--no-persistence-mode", "--persistence-mode")
    return ""


def transaction(run: Run, packages: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """What apt would do to install packages, and to upgrade others where it can: nothing is done."""
    candidates = _candidates(run, [*packages, *others])
    unknown = [name for name in packages if not candidates.get(name)]
    if unknown:
        offered = {name: _offered(run, name) for name in unknown}
        return {"install": {}, "remove": [], "unknown": unknown, "offered": offered, "error": ""}
    names = [*packages, *(name for name in others if candidates.get(name))]
    options = ("--simulate", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages", "--yes")
    status, text = run(["apt-get", *options, "install", *names])
    steps = [found.groups() for found in map(TRANSACTION.match, text.splitlines()) if found]
    return {
        "install": {name: version for verb, name, version in steps if verb == "Inst"},
        "remove": sorted(name for verb, name, _version in steps if verb == "Remv"),
        "unknown": [],
        "offered": {},
        "error": "" if status == 0 else _last_words(text.splitlines()),
    }


def _candidates(run: Run, packages: Sequence[str]) -> dict[str, str]:
    """The versions that apt would install, empty for none."""
    _status, text = run(["apt-cache", "policy", *packages])
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", text, re.MULTILINE)
    return {name: "" if version == "(none)" else version for name, version in found}


def _offered(run: Run, package: str) -> list[str]:
    _status, text = run(["apt-cache", "madison", package])
    return [line.split("|")[1].strip() for line in text.splitlines() if line.count("|") == 2]


def _last_words(lines: Iterable[str]) -> str:
    """What apt complains of, on one line."""
    return " ".join(line.partition("E: ")[2] or line.strip() for line in lines if line.startswith(("E: ", " ")))[:500]


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
