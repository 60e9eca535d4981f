"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket, gone with the session.

Its user has a password with odd characters in it, which no output may ever hold, and its letters
are sorted as a dictionary sorts them, unlike SQLite's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

USER = "keeper"
PASSWORD = "hunter2:/@%"
BINARIES = Path("/usr/lib/postgresql")
NOBODY = 65534

IN_HASTE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
}
"""Settings of a server whose data nobody will miss."""


def newest_binaries() -> Path | None:
    """The folder of the newest server's programs from version 15 on; None where there is none."""
    versions = [folder for folder in BINARIES.glob("*") if folder.name.isdigit()]
    found = [folder for folder in versions if (folder / "bin" / "initdb").exists()]
    newest = max(found, key=lambda folder: int(folder.name), default=None)
    return newest / "bin" if newest is not None and int(newest.name) >= 15 else None


class Server:
    """A running server. `stop` ends it and deletes its folder."""

    def __init__(self, binaries: Path, settings: Mapping[str, str] = IN_HASTE) -> None:
        # Not pytest's own folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="evalkit-pg-"))
        # A server refuses to run as root.
        self._identity: dict[str, object] = {}
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
            self._identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._databases = 0
        self._binaries = binaries
        self._settings = {
            **settings,
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
        }
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
        except BaseException:
            self.stop()
            raise

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb", "--pgdata", self.folder / "data", "--username", USER, "--no-sync",
            "--auth", "scram-sha-256", "--pwfile", secret, "--encoding", "UTF8",
            "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US",
        )  # fmt: skip

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        made = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, check=False,
            **self._identity,  # type: ignore[arg-type]
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        named = self._settings.items()
        options = [part for name, value in named for part in ("-c", f"{name}={value}")]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), *options],
            stdout=log, stderr=log, cwd=self.folder,
            **self._identity,  # type: ignore[call-overload]
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.execute("SELECT 1")
            except sa.exc.OperationalError:
                told = (self.folder / "log").read_text(errors="replace")
                assert self._process.poll() is None, told
                assert time.monotonic() < deadline, told
                time.sleep(0.05)

    def halt(self) -> None:
        """Ends the server at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)
            self._process = None

    def stop(self) -> None:
        """Ends the server and deletes all of it."""
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """A database's URL as a user writes it, the password in it."""
        secret = quote(password, safe="")
        return f"postgresql+psycopg://{user}:{secret}@/{database}?host={self.folder}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements as the server's keeper, each by itself."""
        engine = sa.create_engine(self.url(database), poolclass=sa.NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def new_database(self) -> str:
        """Makes an empty database of a name that no other has, and returns the name."""
        self._databases += 1
        name = f"runs_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def empty(self, database: str, tables: Iterable[str]) -> None:
        """Deletes every row of these tables: quicker than a new database."""
        listed = ", ".join(tables)
        self.execute(f"TRUNCATE {listed} RESTART IDENTITY CASCADE", database=database)
