"""Dagster's history on PostgreSQL, configured by the file that a deployment uses."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import dagster as dg
import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
pytestmark = pytest.mark.slow

PASSWORD = "p@ss/word: 1"


def _programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    pytest.skip("there is no PostgreSQL server on this machine (looked for initdb)")


def _as_other_than_root(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    if not shutil.which("runuser") or subprocess.run(["id", "postgres"], capture_output=True).returncode:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    return ["runuser", "-u", "postgres", "--", *command]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A server on a free port of the loopback; what the environment says of it."""
    programs, folder = _programs(), tmp_path_factory.mktemp("postgres")
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    if os.geteuid() == 0:
        # Every folder of pytest's own: there is one more of them where tests run in several processes.
        temporary = Path(tempfile.gettempdir())
        for path in (folder, *(p for p in folder.parents if temporary in p.parents)):
            path.chmod(0o755)
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")
    made = subprocess.run(
        _as_other_than_root(
            [str(programs / "initdb"), "-D", str(data), "-U", "dagster", "--auth=scram-sha-256", f"--pwfile={password}"]
        ),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    control = _as_other_than_root([str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "120"])
    options = " ".join(f"-c {k}={v}" for k, v in settings.items())
    started = subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], stdout=subprocess.DEVNULL)
    assert started.returncode == 0, (folder / "log").read_text()
    yield {
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": port,
        "DAGSTER_PG_USERNAME": "dagster",
        "DAGSTER_PG_PASSWORD": PASSWORD,
        "DAGSTER_PG_DB": "postgres",
        "DAGSTER_FILES": str(folder.with_name("dagster-files")),
    }
    subprocess.run([*control, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL, check=True)


@pytest.fixture
def home(server, tmp_path, monkeypatch) -> Path:
    """A Dagster home with the instance of a deployment."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    Path(server["DAGSTER_FILES"]).mkdir(exist_ok=True)
    shutil.copyfile(REPOSITORY / "deploy" / "dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def test_a_materialisation_is_read_back(home):
    parts = dg.DynamicPartitionsDefinition(name="video_batches")

    @dg.asset(partitions_def=parts, pool="gpu")
    def clips() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"rows": 3}, data_version=dg.DataVersion("v7"))

    with dg.DagsterInstance.get() as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        instance.add_dynamic_partitions("video_batches", ["b1"])
        result = dg.materialize([clips], partition_key="b1", instance=instance)
        assert result.success
    # Another connection, as the web server's is.
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None and run.status is dg.DagsterRunStatus.SUCCESS
        event = instance.get_latest_materialization_event(dg.AssetKey("clips"))
        assert event is not None and event.asset_materialization is not None
        assert event.asset_materialization.partition == "b1"
        assert event.asset_materialization.metadata["rows"].value == 3
        assert event.asset_materialization.tags["dagster/data_version"] == "v7"
        assert instance.get_dynamic_partitions("video_batches") == ["b1"]
        logs = instance.all_logs(result.run_id)
        assert instance.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
        assert "STEP_SUCCESS" in [r.dagster_event.event_type_value for r in logs if r.dagster_event]


def test_the_command_line_works_on_it(home, server, tmp_path):
    lake, source = tmp_path / "lake", tmp_path / "source"
    source.mkdir()
    (source / "text.mp4").write_text("no video")
    command = [sys.executable, "-m", "dagster_project.cli", "ingest", str(source), "--batch", "b2"]
    environment = {**os.environ, "ITRYON_LAKE": str(lake), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert "0 of 1 files are usable" in done.stdout, done.stdout + done.stderr
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs(filters=dg.RunsFilter(tags={"dagster/partition": "b2"}))
        # Its one file is no video, which the blocking check says.
        assert run.status is dg.DagsterRunStatus.FAILURE
        assert instance.get_latest_materialization_event(dg.AssetKey("videos")) is not None
    # A database that refuses is when libraries print what they asked for.
    refused = subprocess.run(
        command, cwd=REPOSITORY, env=environment | {"DAGSTER_PG_PORT": "1"}, capture_output=True, text=True
    )
    assert refused.returncode != 0 and "refused" in refused.stdout + refused.stderr
    texts = [done.stdout, done.stderr, refused.stdout, refused.stderr, *everything_stored(server)]
    assert any("0 of 1" in t or "text.mp4" in t for t in texts) and len(texts) > 20, "the history is searched"
    folders = (tmp_path, Path(server["DAGSTER_FILES"]))
    files = [p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 20
    for written in (PASSWORD, quote(PASSWORD, safe=""), quote_plus(PASSWORD)):
        assert not any(written in t for t in texts)
        assert not any(written.encode() in data for data in files)


def everything_stored(server: dict[str, str]) -> list[str]:
    """Every row of every table of the database, as text."""
    import psycopg2

    names = {"host": "HOST", "port": "PORT", "user": "USERNAME", "password": "PASSWORD", "dbname": "DB"}
    connection = psycopg2.connect(**{k: server[f"DAGSTER_PG_{v}"] for k, v in names.items()})
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        rows = []
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT t::text FROM "{table}" AS t')
            rows += [text for (text,) in cursor.fetchall()]
    connection.close()
    return rows
