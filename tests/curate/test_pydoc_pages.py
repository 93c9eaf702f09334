"""The rendering of modules: what is listed, what is scrubbed, and every way in which a stranger's module can misbehave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bloomery.core.errors import DataError
from bloomery.curate import pydoc_renderer
from bloomery.curate.pydoc_pages import Page, SkippedModule, environment_facts, list_modules, make_scrubber, render_pages
from bloomery.curate.pydoc_renderer import Scrubber


def render_own(folder: Path, sources: dict[str, str], *, seconds: float) -> dict[str, dict[str, str]]:
    """Renders modules of our own making, by the renderer as it is started in earnest."""
    for name, source in sources.items():
        path = folder / (name.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    request = {"modules": list(sources), "seconds": seconds, "folders": [[str(folder), "/home/user"]], "path": [*sys.path, str(folder)]}
    command = [sys.executable, "-P", "-W", "ignore", str(Path(pydoc_renderer.__file__))]
    environment = {"BROWSER": "browser-is-off", "PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, cwd=folder, env=environment, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["module"] for row in rows] == list(sources)
    return {row["module"]: row for row in rows}


def test_every_misbehaving_module_is_skipped_with_its_reason_and_the_next_one_is_still_rendered(tmp_path):
    rows = render_own(
        tmp_path,
        {
            "prints_to_stdout": "print('hello')",
            "prints_below_python": "import os; os.write(2, b'hello')",
            "raises": "raise ValueError('a reason of its own')",
            "exits": "import sys; sys.exit(3)",
            "exits_hard": "import os; os._exit(3)",
            "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "opens_browser": "import webbrowser; webbrowser.open('https://example.com')",
            "swallows": "import webbrowser\ntry:\n    webbrowser.open('https://example.com')\nexcept BaseException:\n    pass",
            "connects": "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
            "loops": "while True: pass",
            "reads": "input()",
            "good": '"""A module that does nothing wrong."""\ndef area(width, height):\n    "How much it covers."\n',
        },
        seconds=1.0,
    )
    reasons = {name: row.get("reason") for name, row in rows.items()}
    assert reasons == {
        "prints_to_stdout": "prints",
        "prints_below_python": "prints",
        "raises": "fails",
        "exits": "fails",
        "exits_hard": "crashed",
        "crashes": "crashed",
        "opens_browser": "opens a window",
        "swallows": "opens a window",
        "connects": "connects to the network",
        "loops": "takes too long",
        "reads": "fails",
        "good": None,
    }
    assert "a reason of its own" in rows["raises"]["detail"]
    assert "How&nbsp;much&nbsp;it&nbsp;covers" in rows["good"]["html"]


def test_a_package_is_imported_once_and_its_broken_submodule_does_not_spoil_the_others(tmp_path):
    sources = {
        "parcel.__init__": "",
        "parcel.broken": "1 / 0",
        "parcel.whole": "X = 3",
        "parcel": "",
        "bad.__init__": "1 / 0",
        "bad.inner": "",
    }
    for name in ("parcel.__init__", "bad.__init__"):
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir()
        path.write_text(sources.pop(name))
    sources.pop("parcel")
    rows = render_own(tmp_path, sources, seconds=5.0)
    assert rows["parcel.broken"]["reason"] == "fails"
    assert "html" in rows["parcel.whole"]
    assert rows["bad.inner"]["reason"] == "fails" and "ZeroDivisionError" in rows["bad.inner"]["detail"]


def test_addresses_times_and_folders_are_scrubbed_even_where_pydoc_shortens_a_value(tmp_path):
    times = "import os, time\nSTARTED = int(time.time())\nNOW = time.time()\n"
    source = times + "class A: pass\nWHERE = 'x' * 60 + os.getcwd() + 'y' * 40\nBOTH = [A(), A()]\ndef f(a=A()): pass\n"
    html = render_own(tmp_path, {"leaky": source}, seconds=5.0)["leaky"]["html"]
    html = Scrubber(((str(tmp_path), "/home/user"),))(html)
    assert "<strong>STARTED</strong> = 0<" in html and "<strong>NOW</strong> = 0<" in html
    assert "0x7" not in html and "0x5" not in html and tmp_path.name not in html


def test_the_scrubber_leaves_ordinary_numbers_alone():
    scrub = Scrubber((("/opt/env/lib", "/usr/lib"), ("/opt/env", "/usr")))
    assert scrub("mask 0xFFFFFFFF and 1234567") == "mask 0xFFFFFFFF and 1234567"
    assert scrub("<A object at 0x10f3c2d40>") == "<A object at 0x...>"
    assert scrub("handle 7f36a9e2b2e0, at&nbsp;0x7f36a9e2b2e0") == "handle 0x..., at&nbsp;0x..."
    assert scrub("{'acos': 140043728648368, 'n': 1400437286}") == "{'acos': 0x..., 'n': 1400437286}"
    assert scrub("/opt/env/lib/a.py /opt/env/bin") == "/usr/lib/a.py /usr/bin"


def test_the_same_modules_give_the_same_pages_twice_and_name_no_folder_of_this_machine(tmp_path):
    modules = ["antigravity", "bisect", "keyword", "os", "this"]
    first = list(render_pages(modules, seconds_per_module=20))
    assert first == list(render_pages(modules, seconds_per_module=20))
    assert [item.module for item in first] == modules
    pages = {item.module: item.html for item in first if isinstance(item, Page)}
    assert {item.module: item.reason for item in first if isinstance(item, SkippedModule)} == {
        "antigravity": "opens a window",
        "this": "prints",
    }
    assert "bisect_left" in pages["bisect"]
    assert not any(str(Path.home()) in html or sys.prefix in html for html in pages.values())


def test_the_standard_library_is_listed_without_tests_and_without_installed_packages():
    modules = list_modules(scope="stdlib")
    assert modules == sorted(set(modules))
    assert {"shutil", "json.decoder", "sys", "os.path"} & set(modules) == {"shutil", "json.decoder", "sys"}
    assert not any("test" in name.split(".") or "tests" in name.split(".") for name in modules)
    assert "pytest" not in modules and "numpy" not in modules


def test_included_and_excluded_packages_are_respected():
    everything = list_modules(scope="stdlib")
    modules = list_modules(scope="stdlib", include=["pyarrow"], exclude=["json", "email.mime"])
    assert "pyarrow.parquet" in modules and "json.decoder" not in modules and "json" not in modules
    assert "email.message" in modules and "email.mime.text" not in modules
    assert set(modules) - set(everything) == {name for name in modules if name.partition(".")[0] == "pyarrow"}


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(DataError, match="no_such_package"):
        list_modules(scope="stdlib", include=["no_such_package"])


def test_facts_name_the_interpreter_and_only_the_distributions_in_scope():
    facts = environment_facts(scope="stdlib", include=["pyarrow"])
    assert facts["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert facts["distributions"].startswith("pyarrow==") and " " not in facts["distributions"]
    assert "pyarrow==" in environment_facts(scope="environment")["distributions"]
    assert environment_facts(scope="stdlib")["distributions"] == ""


def test_the_longest_folder_is_scrubbed_first(tmp_path):
    folders = [folder for folder, _ in make_scrubber(home=tmp_path).folders]
    assert folders == sorted(folders, key=len, reverse=True)
