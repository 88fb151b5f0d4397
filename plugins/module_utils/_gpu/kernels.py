# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small programs for a GPU, in the assembler that every driver compiles for its card (PTX 7.0).

`fill` writes a pattern into memory and `check` counts the words that no longer hold it. `multiply` has each warp
multiply matrices of ones, m16n8k16 in bfloat16, and counts the sums that are not what they must be.
"""

from __future__ import annotations

CAPABILITY = (8, 0)
"""The oldest that has the matrix instruction."""
ACCUMULATORS = 8
"""Products in flight at a time, enough to keep the tensor cores busy."""
LARGEST_LOOPS = (1 << 24) // 16
"""Beyond, single precision does not count by ones."""
FLOPS_PER_WARP_AND_LOOP = ACCUMULATORS * 2 * 16 * 8 * 16
WARP_THREADS = 32

_INDEX = """
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mul.wide.u32 %rd3, %r2, %r3;
    cvt.u64.u32 %rd4, %r4;
    add.u64 %rd3, %rd3, %rd4;
    mov.u32 %r5, %nctaid.x;
    mul.wide.u32 %rd5, %r5, %r3;"""
"""%rd3 is the number of the thread, %rd5 how many there are."""

_PATTERN = """
    cvt.u32.u64 %r6, %rd3;
    mul.lo.u32 %r6, %r6, 2654435761;
    shr.u64 %rd6, %rd3, 32;
    cvt.u32.u64 %r7, %rd6;
    mul.lo.u32 %r7, %r7, 2246822519;
    xor.b32 %r6, %r6, %r7;
    xor.b32 %r6, %r6, %r1;
    shl.b64 %rd6, %rd3, 2;
    add.u64 %rd6, %rd6, %rd1;"""
"""%r6 is what word %rd3 holds, %rd6 where it is. With the complement of a seed, all words are complements."""


def source() -> str:
    """The programs as text."""
    return f"""
.version 7.0
.target sm_80
.address_size 64

.visible .entry fill(.param .u64 start, .param .u64 words, .param .u32 seed)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [start];
    ld.param.u64 %rd2, [words];
    ld.param.u32 %r1, [seed];{_INDEX}
NEXT:
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 bra END;{_PATTERN}
    st.global.u32 [%rd6], %r6;
    add.u64 %rd3, %rd3, %rd5;
    bra NEXT;
END:
    ret;
}}

.visible .entry check(.param .u64 start, .param .u64 words, .param .u32 seed, .param .u64 errors)
{{
    .reg .pred %p<3>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [start];
    ld.param.u64 %rd2, [words];
    ld.param.u32 %r1, [seed];
    ld.param.u64 %rd7, [errors];{_INDEX}
NEXT:
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 bra END;{_PATTERN}
    ld.global.u32 %r8, [%rd6];
    setp.ne.u32 %p2, %r6, %r8;
    @%p2 red.global.add.u32 [%rd7], 1;
    add.u64 %rd3, %rd3, %rd5;
    bra NEXT;
END:
    ret;
}}

.visible .entry multiply(.param .u32 loops, .param .u64 errors)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b32 %a;
    .reg .f32 %f<{ACCUMULATORS * 4 + 1}>;
    .reg .b64 %rd1;
    ld.param.u32 %r1, [loops];
    ld.param.u64 %rd1, [errors];
    mov.b32 %a, 0x3F803F80;
    mul.lo.u32 %r2, %r1, 16;
    cvt.rn.f32.u32 %f{ACCUMULATORS * 4}, %r2;
{_each("    mov.f32 %f{0}, 0f00000000;")}
NEXT:
{_products()}
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra NEXT;
{_each(f"    setp.neu.f32 %p1, %f{{0}}, %f{ACCUMULATORS * 4};{chr(10)}    @%p1 red.global.add.u32 [%rd1], 1;")}
    ret;
}}
"""


def _each(line: str) -> str:
    return "\n".join(line.format(number) for number in range(ACCUMULATORS * 4))


def _products() -> str:
    lines = []
    for first in range(0, ACCUMULATORS * 4, 4):
        sums = "{" + ", ".join(f"%f{number}" for number in range(first, first + 4)) + "}"
        ones = "{%a, %a, %a, %a}, {%a, %a}"
        lines.append(f"    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {sums}, {ones}, {sums};")
    return "\n".join(lines)
