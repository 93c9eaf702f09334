"""Coroutines in tests that share a process with a browser."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run(task: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run in a thread of its own: Playwright keeps a loop running in the main one once a browser test has been there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, task).result()
