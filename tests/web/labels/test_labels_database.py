"""The form of the labels database: migrations on both kinds, durability of SQLite's, errors that say what to do."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bloomery.core.errors import ConfigError, DataError
from bloomery.web.labels import tables as t
from bloomery.web.labels.database import Database, _make_engine, migrate, open_database

SRC = Path(__file__).resolve().parents[3] / "src"


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database):
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), t.metadata) == []


def test_an_old_database_is_migrated_and_its_votes_are_kept_as_blind(database_url):
    old = Database(_make_engine(database_url))
    assert migrate(old, to="0001") == ["0001"]
    rows = {
        "annotator": "(1, 'k', 'ann', NULL, '2026')",
        "campaign": "(1, 'c', 'first', 'pair', '', 1, 2, 1, 0, 'uniform', 0, '{}', {true}, '2026')",
        "prompt": "(1, 1, 0, '[]', 'h')",
        "item": "(1, 1, 1, '1,2', '1,2', {false})",
        "comparison": "(1, 'x', 1, 1, 5, '0,1', '2026')",
        "vote": "(1, 1, 0, 'click', 'a', '1,2', 900, '2026')",
    }
    booleans = {"true": "1", "false": "0"} if old.is_sqlite else {"true": "TRUE", "false": "FALSE"}
    with old.write() as connection:
        for table, values in rows.items():
            for name, value in booleans.items():
                values = values.replace("{" + name + "}", value)
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES {values}")
    old.close()
    database = open_database(database_url)
    with database.read() as connection:
        vote = connection.execute(sa.select(t.vote)).mappings().one()
        assert vote["client_id"] == "click" and vote["is_blind"] is True
        assert connection.execute(sa.select(t.comparison.c.revealed_at)).scalar_one() is None
    assert migrate(database) == []
    database.close()


def test_servers_that_start_at_once_migrate_once(database_url):
    def start(_):
        opened = open_database(database_url)
        opened.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    database = open_database(database_url)
    with database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0002"
    database.close()


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(database_url, database):
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"newer bloomery \(revision 9999; this one knows up to 0002\)"):
        open_database(database_url)
    with database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "9999"


def test_a_migration_that_fails_leaves_nothing_of_itself(database_url, monkeypatch):
    from alembic.operations import Operations

    def fail(*_, **__):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(Operations, "create_index", fail)
    with pytest.raises(RuntimeError):
        open_database(database_url)
    monkeypatch.undo()
    half = Database(_make_engine(database_url))
    with half.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    half.close()


def test_sqlite_keeps_a_log_syncs_every_commit_and_holds_foreign_keys(tmp_path):
    database = open_database(str(tmp_path / "deep" / "labels.sqlite"))
    with database.read() as connection:
        said = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert said == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}  # 2 is FULL
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.insert(t.undo).values(vote_id=77, client_id="x", created_at="2026"))
    database.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me@host/votes", "of mysql"),
        ("sqlite://", "not kept in memory"),
        ("not a url ://", "no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_what_would_do(url, message):
    with pytest.raises(ConfigError, match=message):
        open_database(url)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(DataError, match="did not answer") as caught:
        open_database(f"postgres://me:secret@/votes?host={tmp_path}")
    assert "secret" not in str(caught.value) and "votes" in str(caught.value)


VOTER = """
import sys
from bloomery.web.labels.database import open_database
from bloomery.web.labels.voting import cast_vote, join_annotator, next_turn

database = open_database(sys.argv[1])
ann = join_annotator(database, "ann")
while (turn := next_turn(database, "first", ann.key)).shown is not None:
    cast_vote(database, comparison=turn.shown.key, annotator=ann.key, client_id=turn.shown.key, choice="tie", milliseconds=1)
    print(turn.shown.key, flush=True)
"""


def test_every_vote_that_was_acknowledged_before_a_kill_is_there_once(database_url, database, make_campaign):
    make_campaign(prompts=400)
    for kill_after in (3, 11, 20):
        with subprocess.Popen(
            [sys.executable, "-c", VOTER, database_url], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SRC)}
        ) as process:
            acknowledged = [process.stdout.readline().strip() for _ in range(kill_after)]
            process.send_signal(signal.SIGKILL)
            acknowledged += process.stdout.read().split()
        with database.read() as connection:
            kept = list(connection.execute(sa.select(t.vote.c.client_id)).scalars())
        assert set(acknowledged) <= set(kept) and len(kept) == len(set(kept))
    if database.is_sqlite:
        with database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
