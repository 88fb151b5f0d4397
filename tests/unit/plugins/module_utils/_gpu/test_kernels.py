# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs for a GPU: how they are made, and the arithmetic of their lines, which is done here."""

from __future__ import annotations

import re

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import kernels, smoke

LINE = re.compile(r"\s*([\w.]+) (%\w+), ([^;]+);")
WORD = 1 << 32
START = 0x7F0000000000
WORDS_OF_A_LARGE_GPU = (512 << 30) // 4


def run(lines: str, registers: dict[str, int]) -> dict[str, int]:
    """Execute lines that compute."""
    known = dict(registers)
    for line in lines.strip().splitlines():
        found = LINE.fullmatch(line)
        assert found, line
        instruction, target, rest = found.groups()
        values = [known[name] if name.startswith("%") else int(name) for name in rest.split(", ")]
        known[target] = compute(instruction, values)
    return known


def compute(instruction: str, values: list[int]) -> int:
    first, second = (*values, 0)[:2]
    if instruction.startswith(("mov.", "cvt.")):
        result = first
    elif instruction.startswith("mul."):
        result = first * second
    elif instruction.startswith("add."):
        result = first + second
    elif instruction.startswith("xor."):
        result = first ^ second
    elif instruction.startswith("shl."):
        result = first << second
    else:
        assert instruction.startswith("shr.")
        result = first >> second
    kind = "64" if ".wide." in instruction else re.search(r"\.[ub](\d+)", instruction)[1]
    return result % (1 << int(kind))


def pattern(index: int, seed: int = smoke.SEEDS[0]) -> tuple[int, int]:
    """What a word holds, and where it is."""
    after = run(kernels._PATTERN, {"%rd3": index, "%r1": seed, "%rd1": START})
    return after["%r6"], after["%rd6"]


def body(name: str) -> str:
    return kernels.source().partition(f".visible .entry {name}(")[2].partition("\n}")[0]


def test_entries() -> None:
    assert re.findall(r"\.entry (\w+)\(([^)]*)\)", kernels.source()) == [
        ("fill", ".param .u64 start, .param .u64 words, .param .u32 seed"),
        ("check", ".param .u64 start, .param .u64 words, .param .u32 seed, .param .u64 errors"),
        ("multiply", ".param .u32 loops, .param .u64 errors"),
    ]


def test_target() -> None:
    major, minor = kernels.CAPABILITY
    assert kernels.source().strip().splitlines()[:3] == [
        ".version 7.0",
        f".target sm_{major}{minor}",
        ".address_size 64",
    ]
    assert kernels.source().isascii()


@pytest.mark.parametrize("name", ["fill", "check", "multiply"])
def test_registers_are_declared(name: str) -> None:
    text = body(name)
    declared = set()
    for register, count in re.findall(r"\.reg \.\w+ (%\w+)(?:<(\d+)>)?;", text):
        declared |= {f"{register}{number}" for number in range(int(count))} if count else {register}
    special = {"%ctaid", "%ntid", "%tid", "%nctaid"}
    assert set(re.findall(r"%[a-z]+\d*", re.sub(r"\.reg [^;]*;", "", text))) - special <= declared


def test_products() -> None:
    lines = re.findall(r"mma\.sync\S+ \{([^}]*)\}, \{%a, %a, %a, %a\}, \{%a, %a\}, \{([^}]*)\};", body("multiply"))
    assert len(lines) == kernels.ACCUMULATORS
    assert all(sums == before for sums, before in lines), "products are added up"
    used = [sums for line, _before in lines for sums in line.split(", ")]
    assert len(set(used)) == len(used) == 4 * kernels.ACCUMULATORS
    assert body("multiply").count("red.global.add.u32") == len(used), "each sum is looked at"


def test_sums_are_exact() -> None:
    assert 0 < smoke.LOOPS <= kernels.LARGEST_LOOPS


def test_fill_and_check_agree() -> None:
    assert kernels._PATTERN in body("fill")
    assert kernels._PATTERN in body("check")


def test_threads_share_all_words() -> None:
    blocks, threads = 3, 4
    starts, steps = [], set()
    for block in range(blocks):
        for thread in range(threads):
            special = {"%ctaid.x": block, "%ntid.x": threads, "%tid.x": thread, "%nctaid.x": blocks}
            after = run(kernels._INDEX, special)
            starts.append(after["%rd3"])
            steps.add(after["%rd5"])
    assert starts == list(range(blocks * threads))
    assert steps == {blocks * threads}


@pytest.mark.parametrize("index", [0, 1, 77, WORD - 1, WORD, 5 * WORD + 3, WORDS_OF_A_LARGE_GPU - 1])
def test_pattern(index: int) -> None:
    first, second = (pattern(index, seed) for seed in smoke.SEEDS)
    assert first[1] == second[1] == START + 4 * index
    assert first[0] ^ second[0] == WORD - 1, "every bit is once 0 and once 1"


def test_words_that_a_wrong_address_line_would_mix_up_differ() -> None:
    lines = [1 << bit for bit in range(WORDS_OF_A_LARGE_GPU.bit_length() - 1)]
    for index in (0, 12345, WORD - 1, 3 * WORD):
        assert all(pattern(index)[0] != pattern(index ^ line)[0] for line in lines)


def test_words_within_2_to_the_32_differ() -> None:
    assert len({pattern(index)[0] for index in range(1 << 12)}) == 1 << 12
    assert len({pattern(index)[0] for index in range(7, WORD, WORD >> 12)}) == 1 << 12


def test_words_2_to_the_32_apart_differ() -> None:
    assert len({pattern(7 + number * WORD)[0] for number in range(WORDS_OF_A_LARGE_GPU // WORD)}) == 32
