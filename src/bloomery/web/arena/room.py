"""What the arena keeps while a server lives: the open labels database, and the one thread that makes answers."""

import importlib
import logging
import threading
from pathlib import Path
from typing import Any  # Any: a module whose import would bring torch

from bloomery.core.errors import BloomeryError
from bloomery.web.arena.models import find_folder
from bloomery.web.directory import Directory
from bloomery.web.labels.campaigns import find_campaign
from bloomery.web.labels.database import Database, open_database

log = logging.getLogger(__name__)


class ArenaRoom:
    """The database is opened by the first request that needs it, so that a server without votes makes no file for them."""

    def __init__(self, directory: Directory, url: str) -> None:
        self.directory, self.url = directory, url
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._states: dict[str, str] = {}
        self._waiting: list[str] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def database(self) -> Database:
        """The open database. Raises ConfigError or DataError if it cannot be opened."""
        with self._lock:
            if self._database is None:
                self._database = open_database(self.url)
            return self._database

    def exists(self) -> bool:
        """Whether somebody opened the database, or it is a server or a file that is there."""
        return self._database is not None or not self.url.startswith("sqlite:///") or Path(self.url.removeprefix("sqlite:///")).is_file()

    def answer(self, campaign_key: str) -> None:
        """Has the missing answers of a campaign made, one campaign after the other."""
        with self._lock:
            if self._states.get(campaign_key) in ("waiting", "running"):
                return
            self._states[campaign_key] = "waiting"
            self._waiting.append(campaign_key)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="bloomery-arena", daemon=True)
                self._thread.start()

    def state(self, campaign_key: str) -> str:
        """ "waiting", "running", "failed: ..." or "" of the making of its answers here."""
        with self._lock:
            return self._states.get(campaign_key, "")

    def close(self) -> None:
        """Ends the thread after its batch, and closes the database."""
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is not None:
            thread.join(timeout=60)
        if self._database is not None:
            self._database.close()

    def _work(self) -> None:
        answering: Any = importlib.import_module("bloomery.web.arena.answering")
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    self._thread = None
                    return
                key = self._waiting.pop(0)
                self._states[key] = "running"
            try:
                database = self.database()
                campaign = find_campaign(database, key)
                answering.make_answers(
                    database, campaign, folder_of=lambda model: find_folder(self.directory, model), stopped=lambda: self._closed
                )
                ended = ""
            except (BloomeryError, RuntimeError, OSError) as error:  # RuntimeError: torch's, out of memory among them
                log.exception("the answers of a campaign could not be made")
                ended = f"failed: {error}"
            with self._lock:
                self._states[key] = ended
