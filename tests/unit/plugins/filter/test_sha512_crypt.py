# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashes as crypt(3) makes them: known ones, each confirmed by libxcrypt, and the library itself where it is there."""

from __future__ import annotations

import ctypes
import ctypes.util
import string

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.filter.sha512_crypt import FilterModule, sha512_crypt

KNOWN = [
    (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "",
        "$6$x$QSmr1Bx2g4O6BzKvdkgOcyU6H91X6I/XBv5pSalMhSPkwdH6Beo3F455xZJg0v//bxVK5F4OE5k1.0xuR26MK0",
    ),
    (
        "pässwörd €",
        "$6$a./Z09$OZtQqAud/6GqhEeF3rP2mxOS3hYAiOAcN/EVxQUoUff18FB4ajmntALuwO1xiek3Ilua2aCDIm728iDiflO9P0",
    ),
    (
        "x" * 130,
        "$6$0123456789abcdef$aMqNf.eV1.F/kHG/PEL81Pb27I7rzRTDeKdTlYCjj3airFUvYUi1V5OMp2naCZ9mb51oc5cCLILVi/.dIJETu1",
    ),
]


@pytest.mark.parametrize(("password", "known"), KNOWN)
def test_known(password: str, known: str) -> None:
    assert sha512_crypt(password, known.split("$")[2]) == known


def test_a_salt_counts_up_to_16_characters() -> None:
    assert sha512_crypt("x", "0123456789abcdef" + "more") == sha512_crypt("x", "0123456789abcdef")


@pytest.mark.parametrize("salt", ["", "a$b", "ä"])
def test_what_is_no_salt(salt: str) -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"^sha512_crypt: the salt is .*; use letters, digits, '\.' and '/'\.$"
    ):
        sha512_crypt("x", salt)


LIBRARY = ctypes.util.find_library("crypt")


@pytest.mark.skipif(not LIBRARY, reason="no libcrypt here")
@settings(max_examples=20, deadline=None)
@given(
    password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200),
    salt=st.text(string.ascii_letters + string.digits + "./", min_size=1, max_size=16),
)
def test_same_as_libcrypt(password: str, salt: str) -> None:
    crypt = ctypes.CDLL(LIBRARY).crypt
    crypt.restype = ctypes.c_char_p
    assert sha512_crypt(password, salt) == crypt(password.encode(), f"$6${salt}$".encode()).decode()


def test_entrance() -> None:
    assert FilterModule().filters() == {"sha512_crypt": sha512_crypt}
