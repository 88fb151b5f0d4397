# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the packages that NVIDIA's driver consists of."""

from __future__ import annotations

import re
from collections.abc import Iterator

PLAIN = (
    *("cuda-drivers", "firmware-nvidia-gsp", "libcuda1", "libcudadebugger1", "libnvcuvid1", "libnvidia-allocator1"),
    *(
        "libnvidia-api1",
        "libnvidia-cfg1",
        "libnvidia-common",
        "libnvidia-compute",
        "libnvidia-decode",
        "libnvidia-eglcore",
    ),
    *("libnvidia-encode", "libnvidia-encode1", "libnvidia-extra", "libnvidia-fbc1", "libnvidia-gl", "libnvidia-glcore"),
    *(
        "libnvidia-glvkspirv",
        "libnvidia-gpucomp",
        "libnvidia-ml1",
        "libnvidia-ngx1",
        "libnvidia-nscq",
        "libnvidia-nvvm4",
    ),
    *("libnvidia-opticalflow1", "libnvidia-pkcs11-openssl3", "libnvidia-ptxjitcompiler1", "libnvidia-rtcore"),
    *("libnvidia-sandboxutils", "libnvidia-vksc-core", "libnvoptix1", "libxnvctrl0", "nvidia-alternative"),
    *(
        "nvidia-compute-utils",
        "nvidia-cuda-mps",
        "nvidia-dkms",
        "nvidia-dkms-open",
        "nvidia-driver",
        "nvidia-driver-bin",
    ),
    *("nvidia-driver-cuda", "nvidia-driver-libs", "nvidia-driver-open", "nvidia-fabricmanager", "nvidia-firmware"),
    *("nvidia-headless", "nvidia-headless-open", "nvidia-imex", "nvidia-kernel-dkms", "nvidia-kernel-open-dkms"),
    *("nvidia-kernel-source", "nvidia-kernel-source-open", "nvidia-kernel-support", "nvidia-legacy-check"),
    *("nvidia-modprobe", "nvidia-open", "nvidia-opencl-icd", "nvidia-persistenced", "nvidia-settings", "nvidia-smi"),
    *("nvidia-suspend-common", "nvidia-utils", "nvidia-vdpau-driver", "nvidia-xconfig"),
)
UNSUFFIXED = 590
"""From here on packages for Ubuntu have no branch in their names."""
SUFFIXED = (
    *("cuda-drivers", "cuda-drivers-fabricmanager", "libnvidia-cfg1", "libnvidia-common", "libnvidia-compute"),
    *("libnvidia-decode", "libnvidia-encode", "libnvidia-extra", "libnvidia-fbc1", "libnvidia-gl", "libnvidia-nscq"),
    *(
        "nvidia-compute-utils",
        "nvidia-dkms",
        "nvidia-driver",
        "nvidia-fabricmanager",
        "nvidia-firmware",
        "nvidia-headless",
    ),
    *("nvidia-headless-no-dkms", "nvidia-imex", "nvidia-kernel-common", "nvidia-kernel-source", "nvidia-open"),
    "nvidia-utils",
)
"""On Ubuntu the branch is in these names."""
SUFFIXED_OPEN = ("nvidia-dkms", "nvidia-driver", "nvidia-headless", "nvidia-headless-no-dkms", "nvidia-kernel-source")
LOOSE = ("nvidia-modprobe", "nvidia-persistenced")
"""What Debian's archive has in versions of its own."""
TOOLKIT = (
    *("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools", "libnvidia-container1"),
)

PARTS = re.compile(
    r"(cuda-drivers|firmware-nvidia-|kmod-nvidia|libcuda1|libcudadebugger1|libnvcuvid1|libnvidia-|libnvoptix1"
    r"|linux-modules-nvidia-|nvidia-(alternative|compute-utils|dkms|driver|fabric-?manager|firmware-|headless-|imex|kernel-|kmod"
    r"|modprobe|open|persistenced|smi|utils)|xorg-x11-nvidia).*"
)
OTHERS = re.compile(
    r"libnvidia-container.*|libnvidia-egl-.*|linux-modules-nvidia-.*|nvidia-driver-(assistant|pinning.*)|nvidia-kernel-common"
)
"""What has a version of its own; that of Ubuntu's modules is the kernel's."""


def is_part(package: str) -> bool:
    """Whether a package must have the version of the driver."""
    return PARTS.fullmatch(package) is not None and OTHERS.fullmatch(package) is None


def parts(branch: str, *, ubuntu: bool) -> Iterator[str]:
    """All names to pin; each by itself, for apt takes seconds to compare patterns with every package that there is."""
    yield from PLAIN
    if ubuntu and int(branch) >= UNSUFFIXED:
        yield "nvidia-kernel-common"  # elsewhere it has versions of its own
    elif ubuntu:
        yield from (f"{name}-{branch}" for name in SUFFIXED)
        yield from (f"{name}-{branch}-open" for name in SUFFIXED_OPEN)
