"""Answers and arrays that are kept while they are asked for, within a budget of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar  # Any: whatever is kept

T = TypeVar("T")

MAX_BYTES = 96 << 20


class Memory:
    """Values by key; those asked for longest ago leave when all together are too large. What one thread makes others wait for."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value kept under `key`, or what `make` makes now; `size` is how many bytes that takes."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key][1]
                return found
            turn = self._making.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._kept:
                    found = self._kept[key][1]
                    return found
            try:
                value = make()
                self._keep(key, size(value), value)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        with self._lock:
            return sum(size for size, _ in self._kept.values())

    def _keep(self, key: Hashable, size: int, value: Any) -> None:
        with self._lock:
            self._kept[key] = (size, value)
            total = sum(size for size, _ in self._kept.values())
            while total > self.max_bytes and len(self._kept) > 1:
                _, (size, _) = self._kept.popitem(last=False)
                total -= size
