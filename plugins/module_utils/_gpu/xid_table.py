# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the XIDs mean on data-centre GPUs, and what each calls for."""

# Weighed against each other, the wording ours: NVIDIA's XID catalog (docs.nvidia.com/deploy/xid-errors, also in
# NVIDIA/NVSentinel, July 2026), nverror.h of NVIDIA/open-gpu-kernel-modules 595.45.04 for what the catalog lacks, and
# how leptonai/gpud 4a8de33, NVIDIA/DCGM 72fa3fe, NVIDIA/k8s-device-plugin 1b826ac, facebookresearch/gcm 1b7bde9 and
# awslabs/awsome-distributed-training 0edaf15 treat them. They differ most on 63, 69, 94, 109, 121 and 160.

from __future__ import annotations

from typing import NamedTuple

INFO = "info"
WARNING = "warning"
"""The GPU can be used."""
ERROR = "error"
"""The work is lost, the GPU can be used."""
CRITICAL = "critical"
"""The GPU cannot be used until it is reset."""
FATAL = "fatal"
"""The node must be rebooted, or its hardware seen to."""
SEVERITIES = (INFO, WARNING, ERROR, CRITICAL, FATAL)

NONE = "none"
MONITOR = "monitor"
CHECK_APP = "check_app"
RESTART_APP = "restart_app"
RESET_WHEN_IDLE = "reset_when_idle"
RESET_GPU = "reset_gpu"
REBOOT = "reboot"
INSPECT = "inspect"
DECODE = "decode"
"""The message says whether it is fatal."""
FOLLOW_TEXT = "follow_text"
"""The message names the action."""
FOLLOW_RECOVERY_ACTION = "follow_recovery_action"
"""What the driver itself asks for decides."""
FOLLOW_48 = "follow_48"
"""A detail of XID 48."""
ACTIONS = (
    NONE,
    MONITOR,
    CHECK_APP,
    RESTART_APP,
    RESET_WHEN_IDLE,
    RESET_GPU,
    REBOOT,
    INSPECT,
    DECODE,
    FOLLOW_TEXT,
    FOLLOW_RECOVERY_ACTION,
    FOLLOW_48,
)

DOUBLE_BIT_ERROR = 48
DOUBLE_BIT_ERRORS = (DOUBLE_BIT_ERROR, 171, 172)
"""With those that tell DRAM from SRAM."""
MEMORY_REMAPPED = 63
FELL_OFF_THE_BUS = 79
NVLINK_RLW = 145
NVLINK_NETIR = 149
RECOVERY_ACTION_CHANGED = 154


class Xid(NamedTuple):
    code: int
    name: str
    severity: str
    action: str
    note: str = ""


TABLE = (
    Xid(8, "GPU stopped processing (idle timeout)", ERROR, RESTART_APP, "Rare; diagnose the GPU if it returns."),
    Xid(
        13,
        "Graphics engine exception",
        ERROR,
        CHECK_APP,
        "Mostly an access out of bounds or a bad instruction. Known good code that repeats it points at the GPU.",
    ),
    Xid(
        31,
        "GPU MMU page fault",
        ERROR,
        CHECK_APP,
        "An illegal address. Faults that stay with the GPU from job to job point at it.",
    ),
    Xid(
        32,
        "PBDMA error or corrupt push buffer",
        ERROR,
        RESTART_APP,
        "PCIe signal quality is the usual suspect: look at the replays.",
    ),
    Xid(
        43, "Channel reset after a fault of the program", WARNING, RESTART_APP, "The process died, the GPU is healthy."
    ),
    Xid(44, "Graphics fault during a context switch", WARNING, MONITOR),
    Xid(
        45,
        "Preemptive channel removal",
        INFO,
        NONE,
        "Follows a killed process, a reset or another XID, in dozens. Alone on an NVSwitch system: the fabric manager.",
    ),
    Xid(46, "GPU timeout, stopped processing", CRITICAL, RESET_GPU),
    Xid(
        DOUBLE_BIT_ERROR,
        "Uncorrectable (double-bit) ECC error",
        CRITICAL,
        RESET_GPU,
        "With 63 or 64 the row is remapped at the reset: drain first. SRAM over its threshold means replacement.",
    ),
    Xid(54, "Auxiliary power not connected", FATAL, INSPECT, "Check seating and power cables."),
    Xid(61, "PMU breakpoint", WARNING, INSPECT, "Not used on A100 and later."),
    Xid(62, "PMU micro-controller halt", CRITICAL, RESET_GPU),
    Xid(
        MEMORY_REMAPPED,
        "Row remap or page retirement recorded",
        WARNING,
        RESET_WHEN_IDLE,
        "A success. It takes effect at the next reset; running and new work may go on until then.",
    ),
    Xid(
        64,
        "Row remap or page retirement failed",
        CRITICAL,
        RESET_GPU,
        "Where the failure flag is set after the reset, the card qualifies for replacement.",
    ),
    Xid(68, "NVDEC0 exception", ERROR, RESTART_APP, "Video engine, used by multimodal models."),
    Xid(69, "Graphics engine class error", ERROR, RESTART_APP),
    Xid(
        74,
        "NVLink error (NVLink 4 and older)",
        CRITICAL,
        RESET_GPU,
        "A100 and H100. The peer may be the guilty side.",
    ),
    Xid(78, "vGPU start error", WARNING, INSPECT, "Drivers of guest and host do not match."),
    Xid(
        FELL_OFF_THE_BUS,
        "GPU fell off the bus",
        FATAL,
        REBOOT,
        "No PCIe link, so no reset: reboot, then a cold power cycle, then the vendor. Also logged without a number.",
    ),
    Xid(80, "Push buffer CRC mismatch", ERROR, RESTART_APP, "Corrupt data on the way to the GPU."),
    Xid(92, "High rate of single-bit ECC errors", WARNING, MONITOR),
    Xid(93, "InfoROM wear limit violation", INFO, NONE, "A100 only."),
    Xid(
        94,
        "Contained memory error",
        ERROR,
        RESTART_APP,
        "Only the process that hit it must restart; reset when convenient. With MIG it names the GPU instance.",
    ),
    Xid(95, "Uncontained memory error", CRITICAL, RESET_GPU, "Every process on the GPU is suspect."),
    Xid(
        109,
        "Context switch timeout",
        CRITICAL,
        RESET_GPU,
        "Some take it for an error of the program: trust the recovery action, which R570 and later tell.",
    ),
    Xid(110, "Security fault", CRITICAL, RESET_GPU, "If it stays: undo hardware changes, cold boot."),
    Xid(
        119,
        "GSP RPC timeout",
        CRITICAL,
        RESET_GPU,
        "nvidia-smi often hangs as well, and so may the reset: give it a deadline, then reboot.",
    ),
    Xid(120, "GSP error", CRITICAL, RESET_GPU, "As 119."),
    Xid(121, "C2C link corrected error", INFO, RESET_WHEN_IDLE, "Grace systems; no effect on operation."),
    Xid(122, "SPI PMU RPC read failure", WARNING, INSPECT, "Not used on A100 and later."),
    Xid(123, "SPI PMU RPC write failure", WARNING, INSPECT, "Not used on A100 and later."),
    Xid(124, "SPI PMU RPC erase failure", WARNING, INSPECT, "Not used on A100 and later."),
    Xid(125, "InfoROM file system error", WARNING, INSPECT, "Not used on A100 and later."),
    Xid(136, "NVLink training failed", CRITICAL, RESET_GPU, "H100."),
    Xid(137, "NVLink privilege error (remote MMU)", ERROR, CHECK_APP, "A bad peer access: suspect the program first."),
    Xid(140, "Unrecovered ECC error", CRITICAL, RESET_GPU, "The page could not be retired; if it returns, the vendor."),
    Xid(141, "CUDA fast-path error", WARNING, MONITOR),
    Xid(143, "GPU initialization error", CRITICAL, RESET_GPU, "Seen when the driver is loaded or a GPU reset."),
    Xid(144, "NVLink 5 SAW error", WARNING, DECODE, "B100 and later."),
    Xid(
        NVLINK_RLW,
        "NVLink 5 RLW error",
        WARNING,
        DECODE,
        "B100 and later. REMAP and SRC_TRACK: as XID 154 says, else restart the program.",
    ),
    Xid(146, "NVLink 5 TLW error", WARNING, DECODE, "B100 and later."),
    Xid(147, "NVLink 5 TREX error", INFO, MONITOR, "B100 and later; not expected in production."),
    Xid(148, "NVLink 5 NVLPW_CTRL error", INFO, MONITOR, "B100 and later; only known as not fatal."),
    Xid(
        NVLINK_NETIR,
        "NVLink 5 NETIR error",
        CRITICAL,
        DECODE,
        "B100 and later. Without harm where not fatal, or where the link went down for reason 0x26 or 0x28."
        " The peer is often the cause.",
    ),
    Xid(150, "NVLink 5 MSE watchdog", CRITICAL, RESET_GPU, "B100 and later."),
    Xid(151, "Key rotation error", CRITICAL, REBOOT, "Confidential computing: restart the VM that owns the GPU."),
    Xid(
        RECOVERY_ACTION_CHANGED,
        "GPU recovery action changed",
        INFO,
        FOLLOW_TEXT,
        "What the driver itself asks for, as NVML's field 230 has it.",
    ),
    Xid(155, "NVLink taken down by software", CRITICAL, RESET_GPU, "Logged on purpose as well."),
    Xid(156, "Resource retirement event", CRITICAL, RESET_GPU),
    Xid(157, "Resource retirement failure", WARNING, INSPECT, "No spare is left: work runs, and will meet it again."),
    Xid(158, "GPU fatal timeout", CRITICAL, RESET_GPU),
    Xid(
        159,
        "CHI non-data error (C2C)",
        CRITICAL,
        RESET_GPU,
        "Only where UVM or vGPU is in use, and CUDA programs use UVM.",
    ),
    Xid(160, "Channel retirement event", INFO, MONITOR, "Memory is marked for repair."),
    Xid(161, "Channel retirement failure", WARNING, MONITOR),
    Xid(162, "Power smoothing re-engaged", INFO, NONE),
    Xid(163, "Power smoothing disengaged", INFO, MONITOR, "Reset only where power smoothing is wanted."),
    Xid(164, "Power smoothing is near the end of its life", INFO, MONITOR, "Replace it where the site depends on it."),
    Xid(165, "Power smoothing is at the end of its life", WARNING, INSPECT),
    Xid(166, "NVLink traffic before encryption was set up", WARNING, MONITOR, "Confidential computing only."),
    Xid(167, "PCIe fatal timeout", CRITICAL, REBOOT),
    Xid(168, "Reduced GPU memory capacity (WPR errors)", CRITICAL, REBOOT, "Only with ECC off."),
    Xid(169, "SEC2 micro-controller halt", CRITICAL, RESET_GPU),
    Xid(170, "Interrupt in confidential computing mode", WARNING, MONITOR, "Confidential computing only."),
    Xid(171, "Uncorrectable DRAM error", INFO, FOLLOW_48),
    Xid(172, "Uncorrectable SRAM error", INFO, FOLLOW_48, "Look at the SRAM threshold flag."),
    Xid(173, "C2C fatal link failure", CRITICAL, REBOOT),
    Xid(174, "Silent process kill on channel reset", INFO, NONE),
    Xid(175, "Memory subsystem error", WARNING, FOLLOW_RECOVERY_ACTION),
    Xid(176, "PCIe correctable error fault", WARNING, MONITOR),
)
_BY_CODE = {row.code: row for row in TABLE}


def lookup(code: int) -> Xid:
    """The row of a code. New codes appear with new drivers; one that is not known is watched."""
    return _BY_CODE.get(code) or Xid(code, "unknown XID", WARNING, MONITOR)
