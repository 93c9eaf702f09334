"""A labels database of each kind, empty, for every test that asks for `database_url` or `database`.

PostgreSQL is the server in the environment variable BLOOMERY_TEST_POSTGRES (a URL whose user may create databases), else a private one,
started in a temporary folder by the binaries of this machine; as root by the user "postgres", because it refuses to run as root. Without
either its tests are skipped with the reason, and fail instead where BLOOMERY_REQUIRE_POSTGRES is set.
"""

import contextlib
import glob
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

import sqlalchemy as sa

from bloomery.web.labels.campaigns import (
    CampaignSettings,
    MadeAnswer,
    ModelName,
    add_answers,
    create_campaign,
    find_campaign,
    missing_answers,
)
from bloomery.web.labels.database import open_database

MODELS = [ModelName("run/sft", "f" * 64), ModelName("run/dpo", "e" * 64)]


def _missing(reason):
    if os.environ.get("BLOOMERY_REQUIRE_POSTGRES"):
        pytest.fail(f"BLOOMERY_REQUIRE_POSTGRES is set, but {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def _private_server():
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin")) + ([str(Path(found).parent)] if (found := shutil.which("initdb")) else [])
    found = [folder for folder in folders if Path(folder, "initdb").is_file() and Path(folder, "pg_ctl").is_file()]
    if not found:
        _missing("PostgreSQL's initdb and pg_ctl are not here, and BLOOMERY_TEST_POSTGRES names no server")
    as_user = []
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            _missing("root cannot run PostgreSQL, and there is no user postgres to run it")
        as_user = ["runuser", "-u", "postgres", "--"]
    folder = Path(tempfile.mkdtemp(prefix="bloomery-postgres-"))
    if as_user:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data, binaries = folder / "data", Path(found[-1])

    def call(name, *arguments):
        command = [*as_user, str(binaries / name), "-D", str(data), *arguments]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    try:
        call("initdb", "--username=bloomery", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        # A socket in the folder and no port: nothing else can reach it. Not synced: it lives as long as the tests.
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=100"
        call("pg_ctl", "start", "-w", "-o", options, "-l", str(folder / "log"))
        try:
            yield f"postgresql+psycopg://bloomery@/postgres?host={folder}"
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a database on a PostgreSQL server where others may be made."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        _missing("psycopg is not installed: pip install 'bloomery[postgres]'")
    if url := os.environ.get("BLOOMERY_TEST_POSTGRES"):
        yield sa.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    else:
        with _private_server() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/labels.sqlite"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"bloomery_test_{secrets.token_hex(6)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"))
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


@pytest.fixture
def database(database_url):
    """An open database, migrated and empty."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def make_campaign(database):
    """Makes a campaign with all its answers: model i's answer to prompt p is `answer(i, p, sample)`."""

    def make(*, prompts=3, models=MODELS, answer=lambda model, prompt, sample: f"answer {model}.{sample} to {prompt}", **settings):
        asked = [[{"role": "user", "content": f"prompt {i}"}] for i in range(prompts)]
        campaign = create_campaign(database, CampaignSettings(**{"name": "first", **settings}), models=models, prompts=asked)
        for i, model in enumerate(models):
            missing = missing_answers(database, campaign, model, at_most=10_000)
            said = [MadeAnswer(one, answer(i, one.messages[-1]["content"], one.sample), "end") for one in missing]
            add_answers(database, campaign, said)
        return find_campaign(database, campaign.key)

    return make
