"""The code sandbox: right programs pass, wrong ones fail, hostile ones fail and reach nothing outside."""

import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError
from bloomery.generate.sandbox import Judgement, Program, SandboxLimits, judge, judge_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's: elsewhere it refuses to run")

LIMITS = SandboxLimits(cpu_seconds=1, wall_seconds=5)
TESTS = "assert answer() == 42\n"
PYTHONPATH = os.pathsep.join([str(Path(__file__).resolve().parents[2] / "src"), os.environ.get("PYTHONPATH", "")])


def run(source: str, tests: str = TESTS, *, limits: SandboxLimits = LIMITS, **more: object) -> Judgement:
    return judge(Program(source=textwrap.dedent(source), tests=textwrap.dedent(tests), **more), limits)


def test_a_right_program_passes_and_a_wrong_one_names_the_test_that_it_fails() -> None:
    assert run("def answer(): return 42").passed
    wrong = run("def answer(): return 41")
    assert wrong.reason == "wrong" and "line 1 of the tests: assert answer() == 42" in wrong.detail
    broken = run("def answer(): return 1 / 0")
    assert broken.reason == "error" and "ZeroDivisionError: division by zero" in broken.detail
    unparsable = run("def answer(:")
    assert unparsable.reason == "error" and "SyntaxError" in unparsable.detail
    assert run("", "assert answer() == 42").detail.startswith("NameError: name 'answer' is not defined")


def test_values_of_every_plain_kind_arrive_as_they_are() -> None:
    source = "def same(x, *, times=1): return x\ndef kinds(): return [None, True, 1, 1.5]"
    tests = """
        import math
        for value in (None, True, 0, 3, -(2**80), 2**20000, 0.1, math.inf, "é\\ud800\\n", b"\\x00\\xff", bytearray(b"a"), 2 + 3j,
                      (), (1, (2,)), [], [[1], (2,)], {}, {"a": [1], (1, 2): {3}}, {1, 2}, frozenset({"x"})):
            found = same(value, times=2)
            assert type(found) is type(value) and found == value, (value, found)
        assert math.isnan(same(math.nan)) and [type(x) for x in kinds()] == [type(None), bool, int, float]
    """
    assert run(source, tests) == Judgement("passed", "", "")


def test_objects_of_the_program_are_used_by_the_tests_though_they_stay_apart() -> None:
    source = """
        from collections import Counter, namedtuple
        class Node:
            def __init__(self, value): self.value, self.left = value, None
        def depth(node): return 0 if node is None else 1 + depth(node.left)
        def countdown(n):
            while n: yield n; n -= 1
        def sort_it(values): values.sort()
        def count(text): return Counter(text)
        def fail(): raise KeyError("gone")
    """
    tests = """
        root = Node(1)
        root.left = Node(2)
        assert depth(root) == 2 and root.left.value == 2 and root.left == root.left != root
        assert list(countdown(3)) == [3, 2, 1]
        values = [3, 1, 2]
        sort_it(values)
        assert values == [1, 2, 3]
        assert count("aab") == {"a": 2, "b": 1}
        try:
            fail()
        except KeyError:
            pass
        else:
            raise AssertionError
    """
    assert run(source, tests) == Judgement("passed", "", "")


def test_the_same_program_gets_the_same_judgement_each_time_and_in_any_company() -> None:
    source = "import random\nprint(random.random(), hash('text'), list({'a', 'b', 'c'}))\ndef answer(): return random.random()"
    tests = "import random\nassert answer() == 0.7579544029403025, random.random()"
    alone = run(source, tests)
    assert alone.passed and judge_programs([Program(source=source, tests=tests)] * 4, LIMITS, workers=3) == [alone] * 4


FORGERIES = {
    "exit before the tests": "def answer(): raise SystemExit(0)",
    "exit at once": "import os; os._exit(0)",
    "exit in the middle": "def answer():\n    import os\n    os._exit(0)",
    "an object that equals everything": "class Any:\n    __eq__ = lambda *_: True\ndef answer(): return Any()",
    "a number that equals everything": "class Any(int):\n    __eq__ = lambda *_: True\ndef answer(): return Any(1)",
    "no assertions": "import builtins, sys\nbuiltins.AssertionError = sys.exit\nsys.settrace(print)\ndef answer(): return 1",
    "the verdict written to every descriptor": """
        import os, struct
        body = b'{"reason": "passed", "detail": ""}'
        for descriptor in range(64):
            try: os.write(descriptor, struct.pack("<I", len(body)) + body)
            except OSError: pass
        def answer(): return 1
    """,
    "a word of the judge's": """
        import os, struct
        for body in (b'{"unsafe": "give up"}', b'{"walls": true}', b'[]', b'{"value": {"passed": 1}}'):
            for descriptor in range(3, 64):
                try: os.write(descriptor, struct.pack("<I", len(body)) + body)
                except OSError: pass
    """,
    "the frames and objects of the harness": """
        import gc, sys
        for thing in gc.get_objects():
            if isinstance(thing, dict) and "verdict" in thing: thing["verdict"] = 1
        frame = sys._getframe()
        while frame:
            for name, value in list(frame.f_locals.items()):
                if name == "request": value.update(tests="", program="")
            frame = frame.f_back
        sys.modules["bloomery.generate.sandbox_child"]._judge = lambda *_: {"reason": "passed", "detail": ""}
        sys.modules["bloomery.generate.sandbox_child"].pack = lambda *_: 42
        def answer(): return 41
        sys.modules["bloomery.generate.sandbox_child"].pack = lambda *_: True
    """,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged_by(name: str) -> None:
    assert run(FORGERIES[name]).reason in ("wrong", "error", "ended")


def test_the_tests_are_not_in_the_programs_memory() -> None:
    source = """
        import gc
        found = [text for text in gc.get_objects() if isinstance(text, (bytes, str)) and "quibble" + "some" in str(text)]
        texts = [v for d in gc.get_objects() if isinstance(d, dict) for v in list(d.values()) if isinstance(v, str)]
        print(len(found), sum("quibble" + "some" in text for text in texts))
        def answer(): return 42
    """
    judgement = run(source, TESTS + "# quibblesome")
    assert judgement.passed and judgement.output == "0 0\n"


ESCAPES = {
    "a file of the parent's": "open({secret!r}).read()",
    "a folder of the parent's": "import os; os.listdir({folder!r})",
    "the root folder": "import os; os.listdir('/')",
    "the users": "open('/etc/passwd').read()",
    "the parent's environment": "open('/proc/{parent}/environ', 'rb').read()",
    "its own maps": "open('/proc/self/maps').read()",
    "the parent's memory": "open('/proc/{parent}/mem', 'rb').read(1)",
    "a symbolic link out": "import os; os.symlink({secret!r}, 'link'); open('link').read()",
    "a hard link out": "import os; os.link({secret!r}, 'link'); open('link').read()",
    "a file renamed out": "import os; open('mine', 'w').close(); os.rename('mine', {folder!r} + '/mine')",
    "writing outside": "open({folder!r} + '/new', 'w').write('x')",
    "writing to a file of the parent's": "open({secret!r}, 'a').write('x')",
    "truncating a file of the parent's": "import os; os.truncate({secret!r}, 0)",
    "removing a file of the parent's": "import os; os.unlink({secret!r})",
    "the rights of a file": "import os; os.chmod({secret!r}, 0)",
    "a folder to climb from": "import os; os.chdir({folder!r}); open('secret').read()",
    "another program": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo out'])",
    "a subprocess": "import subprocess; subprocess.run(['/bin/echo', 'out'])",
    "the C library's system()": "import ctypes; assert ctypes.CDLL(None).system(b'echo out') == 0",
    "a process": "import os; os.fork()",
    "a process by ctypes": "import ctypes; assert ctypes.CDLL(None, use_errno=True).fork() >= 0",
    "multiprocessing": "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    "a thread": "import threading; threading.Thread(target=print).start()",
    "a TCP socket": "import socket; socket.create_connection(('127.0.0.1', 80))",
    "a UDP socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a name look-up": "import socket; socket.getaddrinfo('example.org', 80)",
    "a signal to the parent": "import os, signal; os.kill({parent}, signal.SIGTERM)",
    "a signal to its parent": "import os, signal; os.kill(os.getppid() or 1, signal.SIGKILL)",
    "a signal to everybody": "import os, signal; os.kill(-1, signal.SIGKILL)",
    "a signal to its group": "import os, signal; os.killpg(0, signal.SIGKILL)",
    "a signal through a pipe": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, 8, {parent})",
    "leaving the session": "import os; os.setsid()",
    "more memory than allowed": "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "limits of the parent": "import resource as r; r.prlimit({parent}, r.RLIMIT_NOFILE, (1, 1))",
    "typing into a terminal": "import fcntl; fcntl.ioctl(1, 0x5412, b'x')",
    "tracing the parent": "import ctypes; assert ctypes.CDLL(None, use_errno=True).ptrace(16, {parent}, 0, 0) == 0",
    "io_uring": "import ctypes; assert ctypes.CDLL(None, use_errno=True).syscall(425, 8, bytes(120)) >= 0",
    "a namespace of its own": "import ctypes; assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0",
    "another user": "import os; os.setuid(12345)",
    "memory that is a file": "import os; os.memfd_create('x')",
    "a folder": "import os; os.mkdir('folder')",
    "a named pipe": "import os; os.mkfifo('pipe')",
    "our own package": "import bloomery.core.config",
    "what is installed": "import torch",
    "what is installed, by its path": "import sys; sys.path.append({packages!r}); import pydantic",
    "a loader of modules": "from importlib.machinery import SourceFileLoader as L; L('x', {secret!r}).load_module()",
    "a loaded library": "import ctypes; ctypes.CDLL({secret!r})",
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_no_program_reaches(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the parent's own")
    facts = {"secret": str(secret), "folder": str(tmp_path), "parent": os.getpid(), "packages": str(Path(pytest.__file__).parents[1])}
    source = f"def answer(): return 42\n{ESCAPES[name].format(**facts)}\nprint('ESCAPED')"
    judgement = run(source)
    assert judgement.reason in ("error", "wrong", "ended"), judgement
    assert "ESCAPED" not in judgement.output and "out\n" not in judgement.output and "the parent's own" not in str(judgement)
    assert secret.read_text() == "the parent's own" and list(tmp_path.iterdir()) == [secret]


HOGS = {
    "processes without end": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time"),
    "time without end": ("while True: pass", "time"),
    "time without end, deaf to signals": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "time"),
    "sleep without end": ("import time\ntime.sleep(1000)", "time"),
    "memory": ("x = bytearray(1 << 40)", "memory"),
    "memory, bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
    "output without end": ("while True: print('x' * 1000)", "output"),
    "20,000 files": ("for i in range(20_000): open(str(i), 'w').close()", "files"),
    "a file without end": ("with open('big', 'wb') as f:\n    while True: f.write(bytes(1 << 20))", "error"),
    "many files": ("for i in range(50): open(str(i), 'wb').write(bytes(1 << 20))\nimport time; time.sleep(1)", "files"),
    "many open files": ("x = [open('f', 'w') for _ in range(1000)]", "error"),
    "a deep value": ("def answer():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", "error"),
    "a large value": ("def answer(): return 'x' * (40 << 20)", "ended"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "ended"),
}


@pytest.mark.parametrize("name", HOGS)
def test_no_program_takes_more_than_it_may_of(name: str) -> None:
    source, reason = HOGS[name]
    began = time.monotonic()
    judgement = run(source, limits=SandboxLimits(cpu_seconds=1 if reason == "time" else 10, wall_seconds=2 if "sleep" in name else 20))
    assert judgement.reason == reason, judgement
    assert time.monotonic() - began < 30 and len(judgement.output) <= 65_536


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its 32-bit system calls are those of x86")
def test_a_system_call_of_the_32_bit_table_ends_the_program() -> None:
    source = """
        import ctypes, mmap
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
    """
    judgement = run(source)
    assert judgement.reason == "ended" and f"signal {signal.SIGSYS}" in judgement.detail and judgement.output == ""


def test_a_program_sees_nothing_of_the_parents_environment_and_writes_only_in_its_scratch_folder(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("API_KEY", "secret-of-the-parent")
    source = """
        import os, sys
        print(sorted(os.environ), sys.argv, os.listdir("."))
        open("note", "w").write("x"); open("note", "a").write("y"); os.rename("note", "renamed")
        print(open("renamed").read(), input if sys.stdin.read() else "no input")
        def answer(): return 42
    """
    judgement = run(source)
    # LC_CTYPE is Python's own doing (PEP 538).
    assert judgement.passed and judgement.output.replace("'LC_CTYPE', ", "") == "['PYTHONHASHSEED'] ['-c'] []\nxy no input\n"


def test_nothing_is_left_of_a_program_nor_of_one_whose_parent_was_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\n"
        "from bloomery.generate.sandbox import Program, SandboxLimits, judge\n"
        "real = subprocess.Popen\n"
        "def spy(*args, **kwargs):\n"
        "    process = real(*args, **kwargs)\n"
        "    print(process.pid, flush=True)\n"
        "    return process\n"
        "subprocess.Popen = spy\n"
        "judge(Program(source='', tests=''), SandboxLimits())\n"
        "judge(Program(source='import time\\ntime.sleep(100)', tests=''), SandboxLimits(wall_seconds=100))\n"
    )
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        finished, sleeping = int(parent.stdout.readline()), int(parent.stdout.readline())
        time.sleep(0.3)  # until the program sleeps
        parent.kill()
    assert ends(finished) and ends(sleeping)


def ends(group: int) -> bool:
    """Whether no process of a group is left, soon: orphans are init's to bury."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("call", "message"), [(444, "has no Landlock"), (317, "seccomp")])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_where_the_kernel_lacks_a_wall_nothing_is_run(call: int, message: str) -> None:
    # A filter of seccomp's makes this kernel one without the call, for this process and its children.
    script = f"""
        import ctypes, struct
        code = struct.pack("HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, {call}, 6, 0, 0, 0x50000 + 38, 6, 0, 0, 0x7fff0000)
        class P(ctypes.Structure): _fields_ = [("n", ctypes.c_ushort), ("p", ctypes.c_char_p)]
        libc, zero = ctypes.CDLL(None), ctypes.c_ulong(0)
        assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
        assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(P(4, code)), zero, zero) == 0
        from bloomery.core.errors import ConfigError
        from bloomery.generate.sandbox import Program, SandboxLimits, check_sandbox, judge
        for attempt in (check_sandbox, lambda: judge(Program(source="print('RAN')", tests=""), SandboxLimits())):
            try: print("ran bare", attempt())
            except ConfigError as error: print(error)
    """
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("programs of a model cannot be run safely here") and message in line for line in lines)


def test_an_interpreter_that_does_not_start_is_no_failed_program(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="the bare interpreter /bin/false did not start: exit status 1"):
        run("def answer(): return 42")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="this is darwin"):
        run("def answer(): return 42")
