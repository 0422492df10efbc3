"""The embedded PostgreSQL: real servers in directories of their own."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

import embedded_postgres
from embedded_postgres import EmbeddedPostgresError, connection_parameters, release

PROJECT = Path(__file__).resolve().parents[2]
# A program that uses a server, says so, and ends when its standard input does.
PROGRAM = """
import sys
from pathlib import Path
import embedded_postgres
print(embedded_postgres.connection_parameters(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a cluster and no server; copied, it spares a test the initialisation."""
    directory = tmp_path_factory.mktemp("initialised") / "postgres"
    connection_parameters(directory)
    release(directory)
    return directory


@pytest.fixture
def place(initialised: Path) -> Iterator[Callable[[Path], Path]]:
    """Put a cluster at a path; its server is given up after the test."""
    placed: list[Path] = []

    def copy(path: Path) -> Path:
        subprocess.run(["cp", "-Rp", str(initialised), str(path)], check=True)
        placed.append(path)
        return path

    yield copy
    for path in placed:
        release(path)


@pytest.fixture
def directory(place: Callable[[Path], Path], tmp_path: Path) -> Path:
    return place(tmp_path / "postgres")


def answer(parameters: dict[str, str | int], question: str) -> object:
    connection = psycopg2.connect(**parameters)
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def wait_until_stopped(directory: Path) -> None:
    """Return when no server runs: the kernel hands over the lock that its processes held."""
    with (directory / "server.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def runs(directory: Path) -> bool:
    with (directory / "server.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def program(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server of a directory, once it has said that it does."""
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("{'host'")
            yield process
        finally:
            process.kill()


def test_a_new_directory_becomes_a_server_that_only_its_maker_reaches(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "on demand"
    parameters = connection_parameters(directory)
    assert parameters["dbname"] == "trading"
    assert answer(parameters, "SHOW listen_addresses") == ""
    assert answer(parameters, "SHOW TimeZone") == "UTC"
    assert answer(parameters, "SHOW fsync") == "on"
    with pytest.raises(psycopg2.OperationalError, match="Peer authentication failed"):
        answer(parameters | {"user": "somebody_else"}, "SELECT 1")
    release(directory)
    assert not runs(directory)


def test_what_was_written_is_there_after_a_stop(directory: Path) -> None:
    connection = psycopg2.connect(**connection_parameters(directory))
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS number")
    connection.close()
    release(directory)
    assert not runs(directory)
    assert answer(connection_parameters(directory), "SELECT number FROM kept") == 42


def test_a_second_call_finds_the_running_server(directory: Path) -> None:
    first = answer(connection_parameters(directory), "SELECT pg_postmaster_start_time()::text")
    assert answer(connection_parameters(directory), "SELECT pg_postmaster_start_time()::text") == first


def test_simultaneous_first_starts_make_one_server(tmp_path: Path) -> None:
    directory = tmp_path / "postgres"

    def start(_: int) -> str:
        with program(directory) as process:
            started = answer(connection_parameters(directory), "SELECT pg_postmaster_start_time()::text")
            process.communicate()
            return str(started)

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(start, range(3)))) == 1
    release(directory)
    assert not runs(directory)


def test_the_server_stays_while_another_process_uses_it(directory: Path) -> None:
    parameters = connection_parameters(directory)
    with program(directory) as process:
        release(directory)
        assert answer(parameters, "SELECT 1") == 1
        process.communicate()
    assert not runs(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_stops_when_its_last_user_is_killed(directory: Path, number: signal.Signals) -> None:
    with program(directory) as process:
        process.send_signal(number)
        process.wait()
        wait_until_stopped(directory)
    assert answer(connection_parameters(directory), "SELECT 1") == 1


@pytest.mark.parametrize("name", ["it's a place, with ümlauts", "long" * 40])
def test_paths_that_no_socket_can_have_work(
    place: Callable[[Path], Path], tmp_path: Path, name: str
) -> None:
    directory = place(tmp_path / name)
    parameters = connection_parameters(directory)
    assert answer(parameters, "SELECT 1") == 1
    release(directory)
    assert not Path(str(parameters["host"])).exists()


def test_a_crash_whose_process_id_was_taken_since_does_not_prevent_the_start(directory: Path) -> None:
    stale = f"{os.getppid()}\n{directory / 'data'}\n1700000000\n5432\n{directory / 'data'}\n\n  1  1\nready\n"
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (directory / "data" / name).write_text(stale)
    assert answer(connection_parameters(directory), "SELECT 1") == 1


def test_the_settings_of_another_postgresql_change_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    assert answer(connection_parameters(directory), "SHOW port") == "5432"


def test_an_interrupted_initialisation_is_done_again(tmp_path: Path) -> None:
    directory = tmp_path / "postgres"
    (directory / "data.new" / "base").mkdir(parents=True)
    (directory / "data.new" / "PG_VERSION").write_text("16\n")
    assert answer(connection_parameters(directory), "SELECT 1") == 1
    release(directory)


def test_a_cluster_of_another_version_is_one_clear_line(directory: Path) -> None:
    (directory / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedPostgresError, match=r"incompatible.*see .*server\.log, or delete") as raised:
        connection_parameters(directory)
    assert "\n" not in str(raised.value)


def test_a_path_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("")
    with pytest.raises(EmbeddedPostgresError, match=r"cannot use .*File exists"):
        connection_parameters(tmp_path / "postgres")


def test_a_path_that_a_shell_would_misread_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"quotes, \$ or backslashes: .*; move it"):
        connection_parameters(tmp_path / "$(date)")


def test_a_directory_of_another_user_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(EmbeddedPostgresError, match="run as its owner, or delete the directory"):
        connection_parameters(directory)


def test_a_user_without_a_name_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987_654_321)
    with pytest.raises(EmbeddedPostgresError, match="needs a user with a name"):
        embedded_postgres.os_user()


def test_a_program_that_the_wheel_lacks_is_named() -> None:
    with pytest.raises(EmbeddedPostgresError, match="pg_nothing"):
        embedded_postgres.binary("pg_nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")
@pytest.mark.parametrize("setpriv", [True, False])
def test_the_server_of_root_runs_under_an_unprivileged_account(
    place: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setpriv: bool
) -> None:
    if not setpriv:
        if not all(step.stat().st_mode & 0o001 for step in embedded_postgres.binary("postgres").parents):
            pytest.skip("the account may not walk to the wheel, and without setpriv it cannot be let")
        for parent in (tmp_path, *tmp_path.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o001)
        monkeypatch.setattr(shutil, "which", lambda _: None)
    directory = place(tmp_path / "postgres")
    assert answer(connection_parameters(directory), "SELECT 1") == 1
    assert (directory / "data" / "postmaster.pid").owner() == "nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may walk where others may not")
def test_no_directory_of_roots_is_opened_to_others(place: Callable[[Path], Path], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert answer(connection_parameters(place(closed / "postgres")), "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


def test_psql_opens_the_database_of_test_mode(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, embedded_postgres; from pathlib import Path\n"
        "embedded_postgres.connection_parameters.__defaults__ = (Path(sys.argv[1]),)\n"
        "sys.exit(embedded_postgres._psql(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, str(directory), "-XAtc", "SELECT current_database()"]
    assert subprocess.check_output(command, cwd=PROJECT, text=True) == "trading\n"


def test_psql_refuses_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embedded_postgres._psql([str(tmp_path / "nothere")]) == 2
    assert "There is no folder" in capsys.readouterr().err
