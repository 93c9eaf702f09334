"""The walls of the code sandbox, put up by a process around itself: Landlock, seccomp, resource limits, no capabilities.

    Landlock    no file is opened but the interpreter's own (to read) and the scratch folder's (to write)
    seccomp     a list of harmless system calls; every other one is refused: processes, threads, signals, sockets,
                exec, mounts, tracing, io_uring, and whatever a later kernel adds
    limits      CPU seconds, memory, size and number of open files, no core dump
    rights      no capability is left, none can come back

All through ctypes and the standard library: this module runs in a bare interpreter (see sandbox_child.py). Whoever calls
`raise_walls` goes on only if every wall stands: it raises Unsafe where the kernel lacks one, and then tries to break out.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

LANDLOCK_ABI = 3
"""The oldest that will do (Linux 6.2): before it, Landlock does not stop a file from being truncated."""


class Unsafe(Exception):
    """A wall that cannot be put up here, or does not hold."""


class Limits(NamedTuple):
    """What one process may use."""

    cpu_seconds: int
    memory_bytes: int
    file_bytes: int


class _Machine(NamedTuple):
    audit: int
    """AUDIT_ARCH_... of linux/audit.h."""
    column: int
    """Where CALLS holds its numbers."""


MACHINES = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}
CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "futex": (202, 98), "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214),
    "newfstatat": (262, 79), "fstat": (5, 80), "openat": (257, 56), "close": (3, 57), "lseek": (8, 62), "mprotect": (10, 226),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68), "stat": (4, None), "lstat": (6, None),
    "statx": (332, 291), "mremap": (25, 216), "madvise": (28, 233), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "open": (2, None), "getdents64": (217, 61), "getcwd": (79, 17), "readlink": (89, None),
    "readlinkat": (267, 78), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None),
    "unlinkat": (263, 35), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, None), "alarm": (37, None), "setitimer": (38, 103),
    "getitimer": (36, 102), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getrlimit": (97, 163), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getpid": (39, 172), "gettid": (186, 178),
    "getppid": (110, 173), "getpgrp": (111, None), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "umask": (95, 166), "getrandom": (318, 278), "membarrier": (324, 283),
    "set_robust_list": (273, 99), "rseq": (334, 293), "wait4": (61, 260), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""Allowed whatever their arguments: name, number on x86-64, number on arm64 (which lacks the older ones). Each acts on the
process itself, on what it has open, or on paths, which are Landlock's matter. Numbers of the same uapi headers."""

FCNTL, IOCTL, PRLIMIT64 = (72, 25), (16, 29), (302, 261)
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""Duplicate and flags. Not F_SETOWN and its like, which send signals to others; not F_SETPIPE_SZ, F_NOTIFY, leases, locks."""
IOCTL_REQUESTS = (0x5401, 0x5421, 0x541B, 0x5450, 0x5451)
"""TCGETS, FIONBIO, FIONREAD, FIONCLEX, FIOCLEX: what opening a file in Python asks. Not TIOCSTI, which types into a terminal."""

_SECCOMP, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (317, 277), 444, 445, 446
_NO_NEW_PRIVILEGES, _PARENT_DEATH_SIGNAL, _DUMPABLE = 38, 1, 4
_NEW_PID_NAMESPACE = 0x20000000
_CAPABILITY_VERSION = 0x20080522

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
_ALL_FILE_RIGHTS = {3: (1 << 15) - 1, 5: (1 << 16) - 1}
_ALL_NET_RIGHTS, _SCOPE_SOCKETS, _SCOPE_SIGNALS = 0b11, 0b01, 0b10
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
"""What extension modules of the standard library link to."""
NOT_THE_INTERPRETER = ("site-packages", "dist-packages", "test")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def die_with_parent(parent: int) -> None:
    """Ends this process when its parent ends. Raises Unsafe if that is no longer process `parent`."""
    _prctl(_PARENT_DEATH_SIGNAL, 9)
    if os.getppid() != parent:
        raise Unsafe("the process that asked is gone")


def separate_processes() -> None:
    """Puts the processes forked from now on into a namespace where no other can be named, if the kernel lets us: a second line."""
    _libc().unshare(_NEW_PID_NAMESPACE)


def raise_walls(limits: Limits, *, scratch: str | None) -> None:
    """Confines this process for good. `scratch` is the one folder it may write files to (in none below it). Raises Unsafe.

    A process without one is the parent of one with it: it keeps the right to the signal by which its death ends its child.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise Unsafe(f"{sys.platform} on {platform.machine()}: the sandbox needs Linux on {' or '.join(MACHINES)}")
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_DUMPABLE, 0)
    rules = [*_interpreter_rules(), ("/dev/null", _READ_FILE | _WRITE_FILE), ("/dev/urandom", _READ_FILE)]
    if scratch is not None:
        rules.append((scratch, _READ_FILE | _WRITE_FILE | _READ_DIR | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE))
    _restrict_files(rules, scopes=_SCOPE_SOCKETS if scratch is None else _SCOPE_SOCKETS | _SCOPE_SIGNALS)
    _set_limits(limits)
    _drop_capabilities()
    _restrict_calls()
    _try_to_break_out()


def seccomp_filter(machine: str) -> bytes:
    """The BPF program of the list of calls (seccomp(2)): another architecture's calls kill, unknown ones give ENOSYS."""
    audit, column = MACHINES[machine]
    refuse, allow = _return(0x00050000 | errno.ENOSYS), _return(0x7FFF0000)
    program = [_load(4), _if_equal(audit, otherwise=1), _jump(1), _return(0x80000000), _load(0)]
    if machine == "x86_64":
        program += [struct.pack("HBBI", 0x35, 0, 1, 0x40000000), refuse]  # the x32 calls have other numbers
    for numbers in CALLS.values():
        if (number := numbers[column]) is not None:
            program += [_if_equal(number, otherwise=1), allow]
    for numbers, values in ((FCNTL, FCNTL_COMMANDS), (IOCTL, IOCTL_REQUESTS)):
        block = [_load(24), *(part for value in values for part in (_if_equal(value, otherwise=1), allow)), refuse]
        program += [_if_equal(numbers[column], otherwise=len(block)), *block]
    # To read one's own limits, not to set any: process 0 and no new value.
    own = [_load(16), _if_equal(0, otherwise=5), _load(32), _if_equal(0, otherwise=3), _load(36), _if_equal(0, otherwise=1), allow, refuse]
    return b"".join([*program, _if_equal(PRLIMIT64[column], otherwise=len(own)), *own, refuse])


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _if_equal(value: int, *, otherwise: int) -> bytes:
    return struct.pack("HBBI", 0x15, 0, otherwise, value)


def _jump(count: int) -> bytes:
    return struct.pack("HBBI", 0x05, 0, 0, count)


def _return(value: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, value)


def _interpreter_rules() -> list[tuple[str, int]]:
    # In a bare interpreter sys.path is the standard library alone; what lies beside it (site-packages) is not ours to show.
    rules = [(path, _READ_FILE | _READ_DIR) for path in SYSTEM_LIBRARIES]
    for folder in sys.path:
        if _is_folder(folder):
            rules.append((folder, _READ_DIR))
            with os.scandir(folder) as entries:
                rules += [(entry.path, _READ_FILE | _READ_DIR) for entry in entries if entry.name not in NOT_THE_INTERPRETER]
        else:
            rules.append((folder, _READ_FILE))
    libraries = f"{sys.base_prefix}/lib"  # where conda has them
    if _is_folder(libraries):
        with os.scandir(libraries) as entries:
            rules += [(entry.path, _READ_FILE) for entry in entries if ".so" in entry.name and entry.is_file()]
    return rules


def _is_folder(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    os.close(descriptor)
    return True


def _restrict_files(rules: Iterable[tuple[str, int]], *, scopes: int) -> None:
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < LANDLOCK_ABI:
        found = f"is Landlock's version {version}" if version > 0 else f"has no Landlock ({os.strerror(ctypes.get_errno())})"
        raise Unsafe(f"this kernel ({platform.release()}) {found}; needed is version {LANDLOCK_ABI} (Linux 6.2), switched on")
    files = _ALL_FILE_RIGHTS[5 if version >= 5 else 3]
    ruleset = struct.pack("QQQ", files, _ALL_NET_RIGHTS if version >= 4 else 0, scopes if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = libc.syscall(_CREATE_RULESET, ctypes.c_char_p(ruleset), ctypes.c_size_t(size), ctypes.c_uint(0))
    _check(descriptor, "landlock_create_ruleset")
    for path, rights in rules:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a folder that this system does not have
        if not _is_folder(path):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = struct.pack("=Qi", rights, place)
        _check(libc.syscall(_ADD_RULE, descriptor, ctypes.c_int(1), ctypes.c_char_p(rule), ctypes.c_uint(0)), f"landlock_add_rule {path}")
        os.close(place)
    _check(libc.syscall(_RESTRICT_SELF, descriptor, ctypes.c_uint(0)), "landlock_restrict_self")
    os.close(descriptor)


def _set_limits(limits: Limits) -> None:
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,  # does not hold for root, hence is a second line
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for name, bound in bounds.items():
        hard = resource.getrlimit(name)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(name, (bound, bound))


def _drop_capabilities() -> None:
    header, nothing = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _check(_libc().capset(ctypes.c_char_p(header), ctypes.c_char_p(nothing)), "capset")


def _restrict_calls() -> None:
    machine = platform.machine()
    instructions = seccomp_filter(machine)
    program = _FilterProgram(len(instructions) // 8, instructions)
    call = _SECCOMP[MACHINES[machine].column]
    _check(_libc().syscall(call, ctypes.c_uint(1), ctypes.c_uint(0), ctypes.byref(program)), "seccomp")


def _try_to_break_out() -> None:
    try:
        os.scandir("/").close()
    except PermissionError:
        pass
    else:
        raise Unsafe("the wall around files does not hold: / can be listed")
    if _libc().socket(2, 1, 0) >= 0:
        raise Unsafe("the wall around the network does not hold: a socket can be made")
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        return
    raise Unsafe("the wall around processes does not hold: one can be forked")


def _prctl(option: int, value: int) -> None:
    unused = ctypes.c_ulong(0)
    _check(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), unused, unused, unused), f"prctl({option})")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise Unsafe(f"{what}: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
