# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: sha512_crypt
short_description: Hash a password as crypt(3) does with SHA-512
version_added: "0.1.0"
author: The inferops authors
description:
  - Gives the same string for the same password and salt on every controller.
  - P(ansible.builtin.password_hash#filter) does not. ansible-core 2.19 and 2.20 need the library passlib for it on many
    a controller, and 2.21 makes another string of the same salt.
positional: _input, salt
options:
  _input:
    description: The password.
    type: str
    required: true
  salt:
    description: The salt, of letters, digits, V(.) and V(/). What is beyond 16 characters does not count.
    type: str
    required: true
notes:
  - The rounds are 5000, the default of crypt(3).
  - The algorithm is that of U(https://www.akkadia.org/drepper/SHA-crypt.txt).
seealso:
  - plugin: ansible.builtin.password_hash
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show a line of HAProxy's userlist
  ansible.builtin.debug:
    msg: "user admin password {{ 'Hello world!' | inferops.vllm.sha512_crypt('saltstring') }}"
"""

RETURN = r"""
_value:
  description: The hash, with its salt and the number of its method in front.
  type: str
  sample: >-
    $6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1
"""

import re
from collections.abc import Callable, Iterator
from hashlib import sha512
from typing import Any

from ansible.errors import AnsibleFilterError

ROUNDS = 5000
SALT = re.compile(r"[A-Za-z0-9./]{1,16}")
DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def repeated(block: bytes, length: int) -> bytes:
    """A block again and again, up to a length."""
    return (block * (length // len(block) + 1))[:length]


def first_digest(password: bytes, salt: bytes) -> bytes:
    """Digest A of the algorithm: each bit of the password's length chooses what goes in."""
    other = sha512(password + salt + password).digest()
    digest = sha512(password + salt + repeated(other, len(password)))
    length = len(password)
    while length:
        digest.update(other if length & 1 else password)
        length >>= 1
    return digest.digest()


def last_digest(password: bytes, salt: bytes) -> bytes:
    """Digest C of the algorithm, after all rounds."""
    digest = first_digest(password, salt)
    password_bytes = repeated(sha512(password * len(password)).digest(), len(password))
    salt_bytes = repeated(sha512(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(ROUNDS):
        odd = number % 2
        middle = (salt_bytes if number % 3 else b"") + (password_bytes if number % 7 else b"")
        digest = sha512((password_bytes if odd else digest) + middle + (digest if odd else password_bytes)).digest()
    return digest


def encoded(digest: bytes) -> Iterator[str]:
    """The 86 characters of a digest, in the order that crypt(3) takes its bytes."""
    order = [(number * 22 % 63, (number * 22 + 21) % 63, (number * 22 + 42) % 63) for number in range(21)]
    for high, middle, low in order:
        yield from digits(digest[high] << 16 | digest[middle] << 8 | digest[low], 4)
    yield from digits(digest[63], 2)


def digits(value: int, count: int) -> Iterator[str]:
    """Base 64 as crypt(3) writes it, the lowest digit first."""
    for position in range(count):
        yield DIGITS[value >> 6 * position & 63]


def sha512_crypt(password: str, salt: str) -> str:
    """Hash a password as crypt(3) does with SHA-512 and its default of rounds."""
    used = str(salt)[:16]
    if not SALT.fullmatch(used):
        raise AnsibleFilterError(f"sha512_crypt: the salt is {salt!r}; use letters, digits, '.' and '/'.")
    return f"$6${used}${''.join(encoded(last_digest(str(password).encode(), used.encode())))}"


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"sha512_crypt": sha512_crypt}
