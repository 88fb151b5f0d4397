# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of a node that has none: fake NVML and CUDA libraries, nvidia-smi, journalctl, modinfo, what they are told.

    folder = fake.build(tmp_path / "fake")
    scenario = fake.scenario("healthy_8", tmp_path)
    environment = {**os.environ, **fake.environment(folder, scenario, fake.kernel_log("xid_79", tmp_path))}
    subprocess.run([...], env=environment)
    fake.edit(scenario, "gpu3", handle="error 15")

The loader reads LD_LIBRARY_PATH when a process starts: what looks at GPUs has to be a process of its own.

A node without the driver's libraries, where pynvml raises NVMLError_LibraryNotFound and nvidia-smi exits with 12: leave
LD_LIBRARY_PATH out of the environment. A node without nvidia-smi: leave PATH out.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = ("nvidia-smi", "journalctl", "modinfo")
DRIVER = "580.159.04"
"""Of a scenario that names none."""
REAL_XML = HERE / "nvidia_smi_h100x2.xml"
"""What `nvidia-smi -q -x` printed on a machine with two H100, with other identifiers."""


class Scenario(configparser.ConfigParser):
    """The INI file, read as the library reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__(interpolation=None, inline_comment_prefixes=(";",))
        self.path = path
        self.read(path)

    def optionxform(self, optionstr: str) -> str:
        return optionstr

    def save(self) -> None:
        """Write it in one step, for programs read it meanwhile."""
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as new:
            self.write(new)
        shutil.copymode(self.path, new.name)
        os.replace(new.name, self.path)

    @property
    def gpus(self) -> list[str]:
        """Return the sections of the GPUs."""
        return [section for section in self.sections() if section.startswith("gpu") and section != "gpu"]


def build(folder: Path, python: str = sys.executable) -> Path:
    """Put the libraries into lib/ and the programs into bin/ of the folder, unless they are there and up to date."""
    sources = [HERE / name for name in ("fake_nvml.c", "fake_cuda.c", "gpu.xml", *PROGRAMS)]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources) + python.encode()).hexdigest()
    stamp = folder / "digest"
    if stamp.exists() and stamp.read_text() == digest:
        return folder
    for name in ("lib", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _compile("fake_nvml.c", folder / "lib" / "libnvidia-ml.so.1")
    _compile("fake_cuda.c", folder / "lib" / "libcuda.so.1", f"-L{folder / 'lib'}", "-l:libnvidia-ml.so.1")
    shutil.copy(HERE / "gpu.xml", folder / "bin")
    for name in PROGRAMS:
        text = (HERE / name).read_text()
        program = folder / "bin" / name
        program.write_text(text.replace("#!/usr/bin/env python\n", f"#!{python}\n", 1))
        program.chmod(0o755)
    stamp.write_text(digest)
    return folder


def _compile(source: str, library: Path, *linked: str) -> None:
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, HERE / source, *linked], check=True)


def scenario(name: str, folder: Path) -> Path:
    """Return a copy of a scenario, to be edited while a program runs."""
    return Path(shutil.copy(HERE / "scenarios" / f"{name}.ini", folder))


def kernel_log(name: str, folder: Path) -> Path:
    """Return a copy of a kernel log, to be added to while a program runs."""
    return Path(shutil.copy(HERE / "kernel_logs" / f"{name}.log", folder))


def environment(folder: Path, scenario: Path, kernel_log: Path | None = None) -> dict[str, str]:
    """Return the variables that make a process see the GPUs of a scenario."""
    told = {
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "FAKE_NVML": str(scenario),
    }
    return {**told, "FAKE_KERNEL_LOG": str(kernel_log)} if kernel_log else told


def edit(scenario: Path, section: str, **values: object) -> None:
    """Change what a GPU, all GPUs ("gpu") or the system tell from now on; None takes a key out."""
    told = Scenario(scenario)
    if not told.has_section(section):
        told.add_section(section)
    for key, value in values.items():
        if value is None:
            told.remove_option(section, key)
        else:
            told.set(section, key, str(value))
    told.save()


def root(folder: Path, scenario: Path) -> Path:
    """Write what the files of a node tell of its driver and its PCI devices, below a folder in place of /."""
    told = Scenario(scenario)
    driver = told.get("system", "driver", fallback=DRIVER)
    library = told.get("system", "library", fallback=driver or DRIVER)
    files = {}
    if driver:
        files["sys/module/nvidia/version"] = f"{driver}\n"
        files["proc/driver/nvidia/version"] = (
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build  (builder@host)  \n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) \n"
        )
    buses = (told.get(gpu, "bus_id", fallback=f"00000000:0{number}:00.0") for number, gpu in enumerate(told.gpus))
    addresses = {bus[4:].lower(): "0x030200" for bus in buses}
    switches = told.getint("system", "nvswitches", fallback=0)
    addresses.update({f"0001:{number:02x}:00.0": "0x068000" for number in range(switches)})
    for address, kind in addresses.items():
        files[f"sys/bus/pci/devices/{address}/vendor"] = "0x10de\n"
        files[f"sys/bus/pci/devices/{address}/class"] = f"{kind}\n"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True, exist_ok=True)
    (libraries / f"libnvidia-ml.so.{library}").touch()
    link = libraries / "libnvidia-ml.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(f"libnvidia-ml.so.{library}")
    return folder
