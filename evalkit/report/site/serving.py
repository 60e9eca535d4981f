"""Serves a folder of pages to a browser on this machine, and to nobody else.

A page of any website can make a browser ask 127.0.0.1 for things, and a name that anyone owns can
lead there (DNS rebinding). So a request must name the address that is served, in its Host header.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from evalkit.errors import UsageError

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # The pages have policies of their own; this one holds for what has none, an SVG say.
    "Content-Security-Policy": "frame-ancestors 'none'; object-src 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")
_SECONDS: Final = 30.0


class PageServer(ThreadingHTTPServer):
    """Serves one folder at one address."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.folder = folder
        self.host = host
        super().__init__((host, port), _Handler)
        self.port = int(self.server_address[1])

    def server_bind(self) -> None:
        """Binds without asking a name server what this machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        shown = "127.0.0.1" if self.host in _ANY_ADDRESS else self.host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/"

    def accepts(self, host: str | None) -> bool:
        """Whether a request's Host header names what is served here."""
        if self.host in _ANY_ADDRESS:
            # Served to others on purpose; under which name they know this machine, it cannot tell.
            return host is not None
        names = {
            "127.0.0.1",
            "localhost",
            "[::1]",
            f"[{self.host}]" if ":" in self.host else self.host,
        }
        ports = {f":{self.port}", *(("",) if self.port == 80 else ())}
        return host is not None and host.lower() in {n + port for n in names for port in ports}


def open_server(folder: Path, host: str, port: int) -> PageServer:
    """A server that listens already: what comes before `serve_forever` waits.

    Args:
        folder: what is served; it may be made later.
        host: an address of this machine.
        port: 0 for any that is free.

    Raises:
        UsageError: the port is taken, or this machine has no such address.
    """
    try:
        return PageServer(folder, host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--host {host} --port {port}: cannot be listened on ({reason}). Another port: "
            "--port N; any that is free: --port 0"
        ) from error


def found_file(folder: Path, target: str) -> Path | None:
    """The file that a request means; None for all that is not a plain file inside the folder.

    Dot files are not served, links that lead out of the folder are not followed, and a folder means
    its `index.html`.

    Args:
        folder: what is served.
        target: the request's target: '/suite/index.html?x'.
    """
    try:
        path = unquote_to_bytes(urlsplit(target).path).decode("utf-8")
    except (UnicodeDecodeError, ValueError):
        return None
    parts = [part for part in path.split("/") if part]
    if any(part.startswith(".") or set(part) & {"\\", "\0", ":"} for part in parts):
        return None
    root = folder.resolve()
    try:
        place = root.joinpath(*parts).resolve()
        if place.is_dir():
            place = (place / "index.html").resolve()
        inside = place.is_relative_to(root) and place.is_file()
    except (OSError, RuntimeError, ValueError):
        return None
    if not inside or any(part.startswith(".") for part in place.relative_to(root).parts):
        return None
    return place


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "evalkit"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Sends a file."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Sends a file's headers."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if not self.server.accepts(self.headers.get("Host")):
            self.send_error(HTTPStatus.FORBIDDEN, "This address is not served here")
            return
        place = found_file(self.server.folder, self.path)
        path = urlsplit(self.path).path
        if (
            place is not None
            and place.name == "index.html"
            and not path.endswith(("/", "index.html"))
        ):
            # Without the slash, links of the page would start one folder too high.
            self._redirect(path)
            return
        try:
            content = None if place is None else place.read_bytes()
        except OSError:
            content = None
        if place is None or content is None:
            self.send_error(HTTPStatus.NOT_FOUND, "No such page")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(place.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _redirect(self, path: str) -> None:
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        # One slash at the start: two would name another host.
        self.send_header("Location", "/" + path.strip("/") + "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def end_headers(self) -> None:
        """Adds what every answer has, errors too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: the terminal is for the address."""

    def handle(self) -> None:
        """Serves a connection; one that the browser breaks off is no error."""
        with suppress(ConnectionError, TimeoutError):
            super().handle()
