"""The documentation of the running Python environment as web pages: the crawl that needs no network.

Modules are listed from the file system, never imported here; `curate/pydoc_renderer.py`, a process of its own, renders
them. What a page says about this machine (addresses in memory, folders, dates) is scrubbed, so that one environment
gives one set of bytes.
"""

import importlib.machinery
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bloomery.core.errors import DataError
from bloomery.curate.pydoc_renderer import Scrubber

URL = "https://pydoc.local/{module}.html"

SKIPPED_PARTS = frozenset({"test", "tests", "testing", "idle_test", "__main__", "conftest", "_vendor", "site-packages"})
"""A module with one of these in its name is a package's own tests or somebody else's code, not its documentation."""


class Page(NamedTuple):
    """A rendered module, scrubbed."""

    module: str
    html: str


class SkippedModule(NamedTuple):
    """A module without a page: a short `reason` to count by, and a detail."""

    module: str
    reason: str
    detail: str


def list_modules(*, scope: Literal["environment", "stdlib"], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Names of the modules that can be imported here, sorted, found without importing any.

    "stdlib" is the standard library, and of the installed packages only those in `include`; "environment" is all.
    A name in `exclude` leaves out that package or module and everything below it.
    """
    names = set()
    for name in sys.stdlib_module_names:
        names |= {name, *_submodules(name, _stdlib_folders())}
    installed = _installed_packages()
    for package in installed if scope == "environment" else sorted(set(include) & set(installed)):
        names |= {package, *_submodules(package, _site_folders())}
    missing = set(include) - names
    if missing:
        raise DataError(f"include: {', '.join(sorted(missing))} is not installed in {sys.prefix}")
    excluded = tuple(exclude)
    wanted = (name for name in names if SKIPPED_PARTS.isdisjoint(name.split(".")))
    return sorted(n for n in wanted if not any(n == e or n.startswith(f"{e}.") for e in excluded))


def environment_facts(*, scope: Literal["environment", "stdlib"], include: Sequence[str] = ()) -> dict[str, str]:
    """What the pages depend on: the interpreter, and `name==version` of every distribution that the scope covers."""
    facts = {"python": f"{platform.python_implementation()} {platform.python_version()}", "system": f"{sys.platform}-{platform.machine()}"}
    providers = importlib.metadata.packages_distributions()
    wanted = {d for package in include for d in providers.get(package, [])}
    versions = {d.name: d.version for d in importlib.metadata.distributions() if scope == "environment" or d.name in wanted}
    facts["distributions"] = " ".join(f"{name}=={versions[name]}" for name in sorted(versions))
    return facts


def render_pages(modules: Sequence[str], *, seconds_per_module: float) -> Iterator[Page | SkippedModule]:
    """The page of each module, or why it has none, in order."""
    with tempfile.TemporaryDirectory(prefix="bloomery-pydoc-") as home:
        scrub = make_scrubber(home=Path(home))
        for row in _run_renderer(modules, seconds=seconds_per_module, scrub=scrub, home=Path(home)):
            if "html" in row:
                yield Page(row["module"], scrub(row["html"]))
            else:
                yield SkippedModule(row["module"], row["reason"], scrub(row["detail"]))


def make_scrubber(*, home: Path) -> Scrubber:
    """A scrubber for this environment; `home` is the folder that the renderer ran in."""
    paths = sysconfig.get_paths()
    named = {
        str(home.resolve()): "/home/user",
        str(home): "/home/user",
        paths["purelib"]: "/usr/lib/python3/site-packages",
        paths["platlib"]: "/usr/lib/python3/site-packages",
        paths["stdlib"]: "/usr/lib/python3",
        paths["platstdlib"]: "/usr/lib/python3",
        sys.prefix: "/usr",
        sys.exec_prefix: "/usr",
        sys.base_prefix: "/usr",
        sys.base_exec_prefix: "/usr",
        str(Path.home()): "/home/user",
        str(Path(__file__).parent): "/usr/lib/python3",  # the renderer itself, on the page of `sys`
    }
    # Longest first: a folder must be replaced before the one that holds it. "/" and "/usr" themselves say nothing.
    return Scrubber(tuple(sorted(((f, n) for f, n in named.items() if len(f) > 4), key=lambda item: -len(item[0]))))


def _run_renderer(modules: Sequence[str], *, seconds: float, scrub: Scrubber, home: Path) -> Iterator[dict[str, str]]:
    script = Path(__file__).with_name("pydoc_renderer.py")
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-W", "ignore", str(script)],  # -P: the script's folder must not shadow modules
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=home,
        env=_environment(home),
        text=True,
        encoding="utf-8",
    )
    assert process.stdin and process.stdout
    try:
        request = {"modules": list(modules), "seconds": seconds, "folders": scrub.folders, "path": _import_path()}
        json.dump(request, process.stdin)
        process.stdin.close()
        count = 0
        for count, line in enumerate(process.stdout, start=1):  # noqa: B007  (the last count is used below)
            yield json.loads(line)
        if count != len(modules):
            raise DataError(f"the pydoc renderer ended after {count} of {len(modules)} modules (last: {modules[max(count - 1, 0)]})")
    finally:
        process.kill()
        process.wait()


def _environment(home: Path) -> dict[str, str]:
    # Nothing of the person's own environment, which pydoc would print on the page of `os`. No DISPLAY: no windows.
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONHASHSEED": "0",  # the order of printed sets
        "PYTHONDONTWRITEBYTECODE": "1",
        "SETUPTOOLS_USE_DISTUTILS": "stdlib",
        "SOURCE_DATE_EPOCH": "946684800",  # the time, for modules that can be told it (reproducible-builds.org)
        "BROWSER": "browser-is-off",  # a name that webbrowser registers, so that its audit event fires
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
    return environment | {name: os.environ[name] for name in kept if name in os.environ}


def _import_path() -> list[str]:
    # Where `list_modules` looks, and no editable checkout or folder of the person's own.
    folders = _stdlib_folders()
    return [str(f) for f in (*folders, *(f / "lib-dynload" for f in folders), *_site_folders())]


def _stdlib_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return sorted({Path(paths["stdlib"]), Path(paths["platstdlib"])})


def _site_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return sorted({Path(paths["purelib"]), Path(paths["platlib"])})


def _installed_packages() -> list[str]:
    found: set[str] = set()
    for folder in _site_folders():
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = _module_name(entry)
            if name and not name.startswith("_"):
                found.add(name)
    return sorted(found)


def _submodules(package: str, folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        top = folder / package
        if _module_name(top) is None:
            continue
        for root, children, files in os.walk(top):
            here = Path(root)
            children[:] = sorted(c for c in children if _module_name(here / c) and c not in SKIPPED_PARTS)
            prefix = ".".join(here.relative_to(folder).parts)
            for name in [*children, *files]:
                module = _module_name(here / name)
                if module and module != "__init__":
                    yield f"{prefix}.{module}"


def _module_name(path: Path) -> str | None:
    # The name under which a file or folder can be imported, or None.
    if path.is_dir():
        return path.name if (path / "__init__.py").is_file() and path.name.isidentifier() else None
    for suffix in _suffixes():
        if path.name.endswith(suffix):
            name = path.name.removesuffix(suffix)
            return name if name.isidentifier() else None
    return None


def _suffixes() -> Sequence[str]:
    return [*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.SOURCE_SUFFIXES]


def describe_scope(modules: Sequence[str]) -> Mapping[str, int]:
    """How many modules each top-level package has."""
    counts: dict[str, int] = {}
    for module in modules:
        top = module.partition(".")[0]
        counts[top] = counts.get(top, 0) + 1
    return counts
