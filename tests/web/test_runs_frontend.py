"""The plain functions of the runs page, by Node's own test runner."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FRONTEND = Path(__file__).resolve().parents[2] / "frontend"


def test_smoothing_grouping_and_appending_are_as_their_own_tests_say():
    node = shutil.which("node")
    if node is None:
        reason = "no Node.js here; users need none, this test does"
        if os.environ.get("BLOOMERY_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([node, "--test", "test/"], cwd=FRONTEND, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"pass [1-9]", done.stdout), done.stdout[-1000:]
