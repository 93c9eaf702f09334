"""Opening the labels database: SQLite in a file, or PostgreSQL by URL; migrated before anybody reads it.

A vote is acknowledged after its transaction is committed and on the disk: SQLite runs with WAL and synchronous = FULL, PostgreSQL with
its own synchronous_commit. SQLite's WAL needs a disk of this machine, not a network's; several machines share a PostgreSQL.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # Any: a DBAPI connection has no type of its own

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DBAPIError

from bloomery.core.errors import ConfigError, DataError

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30
LOCK = 0x626C6F6F6D  # "bloom": PostgreSQL's advisory lock while a database is migrated
ASSIGNING = 0x626C6F6F6E  # and, with a campaign's number, while an item is given to somebody


class Unreachable(DataError):
    """The database did not answer: nothing was acknowledged, and what was asked may be asked again."""


class Database:
    """An open, migrated database. `read` and `write` are its transactions; `close` gives its connections back."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._turn = threading.Lock() if self.is_sqlite else contextlib.nullcontext()

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self.engine.dialect.name == "sqlite"

    @property
    def name(self) -> str:
        """Its URL without the password, for messages."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: it sees one state, and waits for nobody."""
        with self._explained(), self.engine.connect().execution_options(only_reads=True) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when the block has ended, or never was. SQLite has one writer at a time, in turn.

        Raises Unreachable if it does not answer or commit.
        """
        with self._explained(), self._turn, self.engine.begin() as connection:
            yield connection

    def lock_assignments(self, connection: sa.Connection, campaign_id: int) -> None:
        """Until the transaction ends nobody else gives out items of this campaign. SQLite's writers are alone already."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(ASSIGNING * 2**20 + campaign_id, sa.BigInteger))))

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (DBAPIError, sa.exc.TimeoutError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]  # a TimeoutError has no driver's error in it
            raise Unreachable(f"the labels database {self.name} did not answer: {reason}. Nothing was acknowledged; try again") from error


def open_database(url: str) -> Database:
    """The database at `url` ("sqlite:///FILE", "postgresql://USER@HOST/NAME", or a file's path), brought to today's form.

    Raises ConfigError for a URL that cannot be used or a database of a newer bloomery, DataError if it cannot be reached.
    """
    database = Database(_make_engine(url))
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def migrate(database: Database, *, to: str = "") -> list[str]:
    """Runs the revisions that this database lacks, up to `to` (all), and returns their names. One process does, others wait.

    All of them are one transaction: a kill in between leaves the database as it was.
    """
    scripts = ScriptDirectory(MIGRATIONS)
    head = to or scripts.get_current_head()
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        context = MigrationContext.configure(connection)
        current = context.get_current_revision()
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            raise ConfigError(
                f"{database.name}: was written by a newer bloomery (revision {current}; this one knows up to {head}). "
                "Install that version, or name another database"
            )
        missing = [script for script in scripts.iterate_revisions(head, current or "base") if script.revision != current]
        with Operations.context(context):
            for script in reversed(missing):
                script.module.upgrade()
                context.stamp(scripts, script.revision)
    if missing and current is not None:
        log.info("%s: brought from revision %s to %s", database.name, current, head)
    return [script.revision for script in reversed(missing)]


def _make_engine(url: str) -> sa.Engine:
    if "://" not in url:
        url = f"sqlite:///{url}"
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise ConfigError("--labels: expected sqlite:///FILE or postgresql://USER@HOST/NAME; what was given is no URL") from error
    backend = {"postgres": "postgresql"}.get(parsed.get_backend_name(), parsed.get_backend_name())
    if backend == "sqlite":
        return _make_sqlite(parsed)
    if backend != "postgresql":
        raise ConfigError(f"--labels: found a database of {backend}; expected sqlite:///FILE or postgresql://USER@HOST/NAME")
    try:
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=10, max_overflow=20)
    except ModuleNotFoundError as error:
        raise ConfigError(f"a PostgreSQL database needs psycopg ({error}): pip install 'bloomery[postgres]'") from error


def _make_sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError("--labels: votes are not kept in memory; name a file: sqlite:///labels.sqlite")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, pool_size=10, max_overflow=30)
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: Any) -> None:
    # The driver would begin and commit at moments of its own, and never before a DDL statement; here the engine says BEGIN.
    connection.isolation_level = None
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE: who writes waits for its turn now. A transaction that reads first and writes then could only fail.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("only_reads") else "BEGIN IMMEDIATE")
