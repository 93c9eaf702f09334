"""The list of system calls: its numbers are the kernel's, and its filter decides as it says on both machines."""

import errno
import re
import struct
from pathlib import Path

import pytest

from bloomery.generate.sandbox_walls import CALLS, FCNTL, IOCTL, MACHINES, PRLIMIT64, seccomp_filter

HEADERS = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.ENOSYS, 0x80000000


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_of_calls_are_those_of_the_kernels_headers(column: int) -> None:
    if not HEADERS[column].is_file():
        pytest.skip(f"no {HEADERS[column]} here (Debian: linux-libc-dev)")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", HEADERS[column].read_text())
    numbers = {name: int(number) for name, number in reversed(defined)}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    expected = {**CALLS, "fcntl": FCNTL, "ioctl": IOCTL, "prlimit64": PRLIMIT64}
    assert {name: numbers.get(name) for name in expected} == {name: pair[column] for name, pair in expected.items()}


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a filter answers to one call: the few instructions of classic BPF that it uses, by hand."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = [struct.unpack("<HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        elif code == 0x05:
            at += value
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_is_allowed_only_if_it_is_listed_with_harmless_arguments(machine: str) -> None:
    program, (architecture, column) = seccomp_filter(machine), MACHINES[machine]
    assert len(program) // 8 < 4096
    listed = {pair[column] for pair in CALLS.values()} - {None}
    with_arguments = {FCNTL[column], IOCTL[column], PRLIMIT64[column]}
    for number in range(600):
        answer = decide(program, architecture, number, 7, 99, 7)
        assert answer == (ALLOW if number in listed else REFUSE), number
    assert listed.isdisjoint(with_arguments)
    assert decide(program, architecture, IOCTL[column], 1, 0x5401) == ALLOW
    assert decide(program, architecture, IOCTL[column], 1, 0x5412) == REFUSE  # TIOCSTI
    assert decide(program, architecture, FCNTL[column], 1, 3) == ALLOW
    assert decide(program, architecture, FCNTL[column], 1, 8, 77) == REFUSE  # F_SETOWN
    assert decide(program, architecture, PRLIMIT64[column], 0, 7, 0) == ALLOW
    assert decide(program, architecture, PRLIMIT64[column], 1, 7, 0) == REFUSE  # another process
    assert decide(program, architecture, PRLIMIT64[column], 0, 7, 0x1000) == REFUSE  # a new limit
    assert decide(program, architecture, PRLIMIT64[column], 0, 7, 1 << 40) == REFUSE  # whose low half is zero


def test_calls_of_other_tables_are_refused_or_end_the_process() -> None:
    for machine, (_, column) in MACHINES.items():
        other = next(audit for audit, _ in MACHINES.values() if audit != MACHINES[machine].audit)
        assert decide(seccomp_filter(machine), other, CALLS["read"][column] or 0) == KILL
        assert decide(seccomp_filter(machine), 0x40000003, 3) == KILL  # AUDIT_ARCH_I386
    x32 = 0x40000000
    assert decide(seccomp_filter("x86_64"), MACHINES["x86_64"].audit, x32 + 0) == REFUSE
