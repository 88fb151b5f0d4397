# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of NVIDIA's driver a host is to have: repositories, pins, packages and services, by distribution and branch.

Names are those of NVIDIA's Driver Installation Guide, https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._inventory.wording import listed, problem, sentence
from . import names
from .faults import is_loose, mixed, upstream

ENTERPRISE_LINUX = ("almalinux", "centos", "ol", "rhel", "rocky")
DISTRIBUTIONS = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
SUPPORTED = "use Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9"
SOURCES = ("auto", "nvidia", "distro", "adopt", "none")
FLAVOURS = ("auto", "open", "proprietary")
SECURE_BOOT_POLICIES = ("fail", "enrolled")

FLOORS = {"cuda": 580, "cpu": 0}
"""Oldest branch by vLLM's build: the wheel on PyPI is built for CUDA 13, whose drivers begin at 580."""
LAST_PROPRIETARY = 615
"""Branches after it have no proprietary modules."""

URL = "https://developer.download.nvidia.com/compute/cuda/repos"
TOOLKIT_URL = "https://nvidia.github.io/libnvidia-container"
KEYS = {
    "3bf863cc.pub": "EB693B3035CD5710E231E123A4B469963BF863CC",
    # debian13 alone: apt there refuses the other one, whose own signature is by SHA-1.
    "8793F200.pub": "02182E60104FCDC26EAE1B8597A5D4CB8793F200",
    "D42D0685.pub": "610C7B14E068A878070DA4E99CD0A493D42D0685",
    "gpgkey": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
}

UPGRADES = ("cuda-", "libcuda", "libnvidia-", "linux-headers", "linux-image", "linux-modules-nvidia-", "nvidia-")
"""What unattended upgrades leave alone."""

TURING, BLACKWELL = 0x1E00, 0x2900
GRACE_HOPPER = (0x2342, 0x2345, 0x2348)
GA_KERNELS = {"22.04": "5.15.", "24.04": "6.8."}


@dataclass(frozen=True)
class Settings:
    """What the inventory says."""

    source: str = "auto"
    branch: str = "580"
    version: str = ""
    """Exact, as 580.159.04; empty for the newest of the branch."""
    flavour: str = "auto"
    variant: str = "cuda"
    secure_boot: str = "fail"
    fabricmanager: str = "auto"
    container_toolkit: bool = False
    container_toolkit_version: str = ""
    packages: Sequence[str] = ()
    """Instead of those that the plan would have."""
    extra_packages: Sequence[str] = ()
    headers: bool = True
    repository_url: str = ""
    toolkit_url: str = ""
    key_fingerprint: str = ""
    toolkit_key_fingerprint: str = ""
    upgrade: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do; lists are empty where there is nothing to do."""

    source: str
    """nvidia, distro, adopt or none."""
    reason: str
    """Why this source, in a few words."""
    branch: str = ""
    flavour: str = ""
    repositories: list[dict[str, Any]] = field(default_factory=list)
    preferences: str = ""
    """Of apt."""
    unattended_upgrades: str = ""
    """Configuration of apt that keeps them off the driver."""
    module_stream: str = ""
    """Of dnf."""
    versionlock: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)


def family(distribution: Mapping[str, str]) -> str:
    """debian, redhat, or empty where the distribution is not supported."""
    name, version = distribution["id"], distribution["version"]
    if (name, version) in DISTRIBUTIONS:
        return "debian"
    return "redhat" if name in ENTERPRISE_LINUX and version.partition(".")[0] == "9" else ""


def choose_source(settings: Settings, facts: Mapping[str, Any]) -> tuple[str, str]:
    """The source, and why it is this one."""
    if settings.source != "auto":
        return settings.source, "nvidia_driver_source says so"
    if facts["managed"]:
        return facts["managed"], "this role has set the host up before"
    if facts["loaded"] or facts["library"] or any(map(names.is_part, facts["packages"])):
        return "adopt", "the host came with a driver"
    if not facts["gpus"]:
        return "none", "the host has no NVIDIA GPU"
    if facts["secure_boot"] and facts["distribution"]["id"] == "ubuntu":
        return "distro", "Secure Boot is on, and Ubuntu's modules are signed"
    return "nvidia", "the host has NVIDIA GPUs and no driver"


def choose_flavour(settings: Settings, facts: Mapping[str, Any]) -> str:
    if settings.flavour != "auto":
        return settings.flavour
    return "proprietary" if any(_device(gpu) < TURING for gpu in facts["gpus"]) else "open"


def _device(gpu: Mapping[str, str]) -> int:
    return int(gpu["device"], 16)


def make(settings: Settings, facts: Mapping[str, Any]) -> Plan:
    """The plan for a host that has no problems."""
    source, reason = choose_source(settings, facts)
    if source in ("adopt", "none"):
        return Plan(source=source, reason=reason)
    flavour = choose_flavour(settings, facts)
    kind = family(facts["distribution"])
    fabric = settings.fabricmanager == "true" or (settings.fabricmanager == "auto" and facts["nvswitches"] > 0)
    services = ["nvidia-persistenced", *(["nvidia-fabricmanager"] if fabric else ())]
    if settings.container_toolkit:
        services.append("nvidia-cdi-refresh.path")
    debian = kind == "debian"
    return Plan(
        source=source,
        reason=reason,
        branch=settings.branch,
        flavour=flavour,
        repositories=[*_repositories(settings, facts, source, kind)],
        preferences=_preferences(settings, source, facts["distribution"]["id"]) if debian else "",
        unattended_upgrades=_unattended_upgrades() if debian else "",
        module_stream="" if debian else f"{settings.branch}-{'open' if flavour == 'open' else 'dkms'}",
        versionlock=[] if debian else [f"*nvidia*{settings.version or settings.branch + '.'}*"],
        headers=[*_headers(facts, kind)] if settings.headers and not _is_prebuilt(source, facts) else [],
        packages=[*_packages(settings, facts, source, flavour, fabric)],
        services=services,
    )


def _is_prebuilt(source: str, facts: Mapping[str, Any]) -> bool:
    """Ubuntu's archive has modules that are built and signed for each of its kernels."""
    return source == "distro" and facts["distribution"]["id"] == "ubuntu"


def folder(distribution: Mapping[str, str]) -> str:
    """Of NVIDIA's repository."""
    if distribution["id"] in ENTERPRISE_LINUX:
        return "rhel9"
    return distribution["id"] + distribution["version"].replace(".", "")


def _repositories(settings: Settings, facts: Mapping[str, Any], source: str, kind: str) -> Iterator[dict[str, Any]]:
    if source == "nvidia":
        where = folder(facts["distribution"])
        arch = "sbsa" if facts["architecture"] == "aarch64" else "x86_64"
        url = settings.repository_url or f"{URL}/{where}/{arch}"
        key = "D42D0685.pub" if kind == "redhat" else "8793F200.pub" if where == "debian13" else "3bf863cc.pub"
        yield _repository("inferops-nvidia", url, key, settings.key_fingerprint, kind)
    if settings.container_toolkit:
        deb = f"stable/deb/{'arm64' if facts['architecture'] == 'aarch64' else 'amd64'}"
        url = (
            settings.toolkit_url
            or f"{TOOLKIT_URL}/{deb if kind == 'debian' else 'stable/rpm/' + facts['architecture']}"
        )
        repository = _repository("inferops-nvidia-toolkit", url, "gpgkey", settings.toolkit_key_fingerprint, kind)
        if not settings.toolkit_url:
            repository["key_url"] = f"{TOOLKIT_URL}/gpgkey"
        yield repository


def _repository(name: str, url: str, key: str, fingerprint: str, kind: str) -> dict[str, Any]:
    url = url.rstrip("/")
    keyring = "/etc/apt/keyrings" if kind == "debian" else "/etc/pki/rpm-gpg"
    return {
        "name": name,
        "url": url,
        "key_url": f"{url}/{key}",
        "key_path": f"{keyring}/{name}.asc",
        "fingerprint": fingerprint.replace(" ", "").upper() or KEYS[key],
    }


def _headers(facts: Mapping[str, Any], kind: str) -> Iterator[str]:
    """For the running kernel, and the package that brings those of each later one."""
    if kind == "redhat":
        yield f"kernel-devel-matched-{facts['kernel']}"
        yield "kernel-devel-matched"
        yield "kernel-headers"
        return
    yield f"linux-headers-{facts['kernel']}"
    if facts["distribution"]["id"] == "ubuntu":
        yield f"linux-headers-{_ubuntu_flavour(facts)}"
        return
    arch = "arm64" if facts["architecture"] == "aarch64" else "amd64"
    kind_of_kernel = next((name for name in ("cloud-", "rt-") if facts["kernel"].endswith(name + arch)), "")
    yield f"linux-headers-{kind_of_kernel}{arch}"


def _ubuntu_flavour(facts: Mapping[str, Any]) -> str:
    """generic, aws, generic-hwe-24.04 and the like, as the names of meta packages have it."""
    release, version = facts["distribution"]["version"], facts["kernel"]
    flavour = re.sub(r"^[\d.]+-\d+-", "", version)
    if flavour == "generic" and not version.startswith(GA_KERNELS[release]):
        return f"generic-hwe-{release}"
    return flavour


def _packages(settings: Settings, facts: Mapping[str, Any], source: str, flavour: str, fabric: bool) -> Iterator[str]:
    """Nothing of what a display needs."""
    name, kind, branch = facts["distribution"]["id"], family(facts["distribution"]), settings.branch
    if settings.packages:
        yield from settings.packages
    elif source == "distro":
        yield from _of_ubuntu(branch, flavour, facts) if name == "ubuntu" else _of_debian(flavour)
    elif kind == "redhat":
        yield from ("nvidia-driver-cuda", f"kmod-nvidia-{'open' if flavour == 'open' else 'latest'}-dkms")
    elif name == "debian":
        yield from ("nvidia-driver-cuda", f"nvidia-kernel-{'open-' if flavour == 'open' else ''}dkms")
    elif int(branch) >= names.UNSUFFIXED:
        yield from ("libnvidia-compute", f"nvidia-dkms{'-open' if flavour == 'open' else ''}", "nvidia-persistenced")
    else:
        yield from (f"libnvidia-compute-{branch}", f"nvidia-compute-utils-{branch}", f"nvidia-utils-{branch}")
        yield f"nvidia-dkms-{branch}{'-open' if flavour == 'open' else ''}"
    if fabric:
        suffixed = name == "ubuntu" and int(branch) < names.UNSUFFIXED
        yield f"nvidia-fabricmanager-{branch}" if suffixed else "nvidia-fabricmanager"
    if settings.container_toolkit:
        yield from names.TOOLKIT
    yield from settings.extra_packages


def _of_ubuntu(branch: str, flavour: str, facts: Mapping[str, Any]) -> Iterator[str]:
    suffix = "-open" if flavour == "open" else ""
    yield f"linux-modules-nvidia-{branch}-server{suffix}-{_ubuntu_flavour(facts)}"
    for part in ("libnvidia-compute", "nvidia-compute-utils", "nvidia-utils"):
        yield f"{part}-{branch}-server"


def _of_debian(flavour: str) -> Iterator[str]:
    yield "nvidia-open-kernel-dkms" if flavour == "open" else "nvidia-kernel-dkms"
    yield from ("firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "libnvidia-ptxjitcompiler1")
    yield from ("nvidia-persistenced", "nvidia-smi")


def _preferences(settings: Settings, source: str, distribution: str) -> str:
    """Of all records that match a version of a package, the first decides."""
    known = " ".join(names.parts(settings.branch, ubuntu=distribution == "ubuntu"))
    # Folded, as a field may be; apt takes names by any white space.
    parts = "\n ".join(textwrap.wrap(known, 110, break_on_hyphens=False))
    records = []
    if settings.container_toolkit_version:
        version = f"version {settings.container_toolkit_version}-*"
        records.append(_record("one version of the container toolkit", " ".join(names.TOOLKIT), version, 1001))
    if source == "distro":
        records.append(_record("nothing of NVIDIA's repository", parts, "release l=NVIDIA CUDA", -1))
        return "\n".join(records)
    version = re.escape(settings.version + "-" if settings.version else settings.branch + ".")
    records += [
        _record("nothing of the distribution's own", parts, f"release o={distribution.capitalize()}", -1),
        _record(f"branch {settings.branch}, downgrades included", parts, f"version /^([0-9]+:)?{version}/", 1001),
        _record("no other branch, whoever offers it", parts, "version *", -1),
    ]
    return "\n".join(records)


def _record(why: str, packages: str, pin: str, priority: int) -> str:
    return f"Explanation: {why}\nPackage: {packages}\nPin: {pin}\nPin-Priority: {priority}\n"


def _unattended_upgrades() -> str:
    lines = "".join(f'  "^{name}";\n' for name in UPGRADES)
    return f"Unattended-Upgrade::Package-Blacklist {{\n{lines}}};\n"


def check(settings: Settings, facts: Mapping[str, Any]) -> list[str]:
    """What stands in the way before anything has changed, a sentence each."""
    words = [*_check_words(settings)]
    if words:
        return words
    source, _reason = choose_source(settings, facts)
    if source == "none":
        return []
    if source == "adopt":
        return [*_check_adopted(settings, facts)]
    return [
        *_check_distribution(facts),
        *_check_branch(settings, facts, source),
        *_check_flavour(settings, facts),
        *_check_secure_boot(settings, facts, source),
        *_check_found(settings, facts, source),
    ]


def _check_words(settings: Settings) -> Iterator[str]:
    for name, known in (("source", SOURCES), ("flavour", FLAVOURS), ("secure_boot", SECURE_BOOT_POLICIES)):
        value = getattr(settings, name)
        if value not in known:
            remedy = f"use {listed(known, 'or')}"
            yield problem(f"nvidia_driver_{name}", value, "which there is not", remedy)
    if settings.variant not in FLOORS:
        yield problem("nvidia_driver_variant", settings.variant, "which there is not", "use cuda or cpu")
    if not re.fullmatch(r"[1-9]\d{2}", settings.branch):
        remedy = 'give a branch of three digits, such as "580"'
        yield problem("nvidia_driver_branch", settings.branch, "which is no branch of NVIDIA's driver", remedy)
    elif settings.version and not re.fullmatch(rf"{settings.branch}(\.\d+){{1,2}}", settings.version):
        trouble = f"which is no version of branch {settings.branch}"
        yield problem(
            "nvidia_driver_version", settings.version, trouble, "give one such as 580.159.04, or leave it empty"
        )
    for name in ("key_fingerprint", "toolkit_key_fingerprint"):
        value = getattr(settings, name)
        if value and not re.fullmatch(r"[0-9A-Fa-f]{40}", value.replace(" ", "")):
            trouble = "which is no fingerprint of an OpenPGP key"
            yield problem(f"nvidia_driver_{name}", value, trouble, "give all 40 hexadecimal digits")


def _check_adopted(settings: Settings, facts: Mapping[str, Any]) -> Iterator[str]:
    version, floor = facts["loaded"] or facts["library"], FLOORS[settings.variant]
    if not version and facts["reboot_pending"]:
        return
    if not version:
        trouble = "but the host has no NVIDIA driver"
        yield problem("nvidia_driver_source", "adopt", trouble, "set it to nvidia, or install a driver first")
    elif int(version.partition(".")[0]) < floor:
        trouble = f"but the driver found is {version}, and vLLM's build {settings.variant} needs {floor} or newer"
        yield problem(
            "nvidia_driver_source", settings.source, trouble, "use an image with a newer one, or set it to nvidia"
        )


def _check_distribution(facts: Mapping[str, Any]) -> Iterator[str]:
    found = facts["distribution"]
    if not family(found):
        name = found["name"] or found["id"] or "unknown"
        yield sentence(f"the distribution is {name}, which is not supported", SUPPORTED)
    elif facts["architecture"] not in ("x86_64", "aarch64"):
        yield sentence(f"the architecture is {facts['architecture']}, which is not supported", "use x86_64 or aarch64")


def _check_branch(settings: Settings, facts: Mapping[str, Any], source: str) -> Iterator[str]:
    floor = FLOORS[settings.variant]
    if int(settings.branch) < floor:
        trouble = f"but vLLM's build {settings.variant} needs {floor} or newer"
        yield problem("nvidia_driver_branch", settings.branch, trouble, f'set it to "{floor}"')
    if source != "distro":
        return
    if facts["distribution"]["id"] == "debian":
        archive = {"12": "535", "13": "550"}.get(facts["distribution"]["version"], "")
        if archive and archive != settings.branch:
            trouble = f"but the archive of this Debian has branch {archive}, not {settings.branch}"
            yield problem("nvidia_driver_source", "distro", trouble, "set nvidia_driver_source to nvidia")
    elif facts["distribution"]["id"] in ENTERPRISE_LINUX:
        yield problem(
            "nvidia_driver_source", "distro", "but Enterprise Linux has no driver of its own", "set it to nvidia"
        )


def _check_flavour(settings: Settings, facts: Mapping[str, Any]) -> Iterator[str]:
    flavour = choose_flavour(settings, facts)
    devices = [_device(gpu) for gpu in facts["gpus"]]
    if flavour == "proprietary" and any(device >= BLACKWELL or device in GRACE_HOPPER for device in devices):
        trouble = "but Grace Hopper, Blackwell and later GPUs have open modules alone"
        yield problem("nvidia_driver_flavour", settings.flavour, trouble, "set it to open or auto")
    elif flavour == "open" and any(device < TURING for device in devices):
        trouble = "but GPUs before Turing have proprietary modules alone"
        yield problem(
            "nvidia_driver_flavour",
            settings.flavour,
            trouble,
            "set it to proprietary or auto; vLLM does not run on them",
        )
    elif flavour == "proprietary" and int(settings.branch) > LAST_PROPRIETARY:
        trouble = f"but from branch {LAST_PROPRIETARY + 1} on there are open modules alone"
        yield problem(
            "nvidia_driver_branch", settings.branch, trouble, "set nvidia_driver_flavour to open, or an older branch"
        )


def _check_secure_boot(settings: Settings, facts: Mapping[str, Any], source: str) -> Iterator[str]:
    if not facts["secure_boot"] or settings.secure_boot == "enrolled" or _is_prebuilt(source, facts):
        return
    ubuntu = facts["distribution"]["id"] == "ubuntu"
    remedy = (
        "switch it off in the firmware, or enroll DKMS's key at the console and set nvidia_driver_secure_boot: enrolled"
    )
    if ubuntu:
        remedy = "set nvidia_driver_source to distro, whose modules are signed, or " + remedy
    yield sentence("Secure Boot is on, and the kernel would refuse modules that are built on the host", remedy)


def _check_found(settings: Settings, facts: Mapping[str, Any], source: str) -> Iterator[str]:
    """What of a driver is there already."""
    version = settings.version or settings.branch + "."
    parts = {name: found for name, found in facts["packages"].items() if names.is_part(name)}
    other = {
        name: found for name, found in parts.items() if not (fits(found["version"], version) or is_loose(name, source))
    }
    held = sorted(name for name, found in other.items() if found["held"])
    if other and not settings.upgrade:
        name = min(other)
        trouble = (
            f"the host has {name} {other[name]['version']}{f' and {len(other) - 1} more' if len(other) > 1 else ''},"
            f" where nvidia_driver_branch is {settings.branch}"
        )
        if held:
            trouble += f", and {listed(held[:3])} {'are' if len(held) > 1 else 'is'} held"
        remedy = "run the playbook inferops.vllm.driver_upgrade, which drains the host first"
        yield sentence(trouble, remedy)
    if facts["runfile"]:
        remedy = "remove it by nvidia-uninstall, or set nvidia_driver_source to adopt"
        yield sentence("the host has a driver that NVIDIA's installer put there, past the packages", remedy)
    elif source == "nvidia" and not parts and facts["loaded"]:
        remedy = "set nvidia_driver_source to adopt, or remove that driver first"
        yield sentence(f"the host runs driver {facts['loaded']}, which none of its packages has brought", remedy)


def fits(version: str, wanted: str) -> bool:
    """Whether a package's version is the exact one, or of the branch, `580.`."""
    found = upstream(version)
    return found.startswith(wanted) if wanted.endswith(".") else found == wanted


def check_transaction(settings: Settings, source: str, transaction: Mapping[str, Any]) -> list[str]:
    """What is wrong with what apt would do, a sentence each; nothing has been installed yet."""
    wanted = settings.version or settings.branch + "."
    if transaction["unknown"]:
        return [*_unavailable(settings, transaction["unknown"], transaction["offered"])]
    if transaction["error"]:
        remedy = "see apt-get install --simulate with the same packages, and apt-mark showhold"
        return [sentence(f"apt cannot install the driver ({transaction['error']})", remedy)]
    parts = {name: version for name, version in transaction["install"].items() if names.is_part(name)}
    problems = []
    strays = (
        {name: version for name, version in parts.items() if not fits(version, wanted)} if source == "nvidia" else {}
    )
    if strays:
        name = min(strays)
        problems.append(
            sentence(
                f"apt would install {name} {strays[name]}, where nvidia_driver_branch is {settings.branch}",
                "have the repository offer all of this branch, or choose a branch that it offers in full",
            )
        )
    problems += mixed(parts, source)
    kernels = sorted(name for name in transaction["install"] if name.startswith(("linux-image-", "kernel-core")))
    if kernels:
        remedy = "upgrade the kernel and reboot first, by the playbook inferops.vllm.driver_upgrade or by hand"
        problems.append(sentence(f"apt would install the kernel {kernels[0]} along with the driver", remedy))
    return problems


def _unavailable(settings: Settings, unknown: Sequence[str], offered: Mapping[str, Sequence[str]]) -> Iterator[str]:
    headers = [name for name in unknown if name.startswith("linux-headers-")]
    if headers:
        remedy = "have a mirror that keeps them, or install the newest kernel with its headers, reboot and run again"
        yield sentence(f"no repository offers {listed(headers)}, which the driver's module is built with", remedy)
    rest = [name for name in unknown if name not in headers]
    if rest:
        versions = sorted({upstream(version) for name in rest for version in offered.get(name, ())})
        has = f"it offers {listed(versions)}" if versions else "it has no such package"
        remedy = "choose a branch that it offers, or use a mirror that has it"
        version = settings.version or settings.branch
        yield problem("nvidia_driver_branch", version, f"but no repository has {listed(rest)} of it ({has})", remedy)
