"""Requests on the wire: what is served, to whom, and everything else that is not."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from evalkit.errors import UsageError
from evalkit.report.site.serving import found_file, open_server


@pytest.fixture
def folder(tmp_path):
    """A site beside a secret, with what must not be served in it."""
    (tmp_path / "secret.html").write_text("secret")
    site = tmp_path / "site"
    (site / "suite" / "run").mkdir(parents=True)
    (site / "empty").mkdir()
    (site / ".git").mkdir()
    (site / "index.html").write_text("first")
    (site / "suite" / "index.html").write_text("suite")
    (site / "suite" / "run" / "index.html").write_text("run é", encoding="utf-8")
    (site / ".site.json").write_text("{}")
    (site / ".git" / "config").write_text("secret")
    (site / "link.html").symlink_to(tmp_path / "secret.html")
    (site / "up").symlink_to(tmp_path)
    (site / "dotted.html").symlink_to(site / ".site.json")
    return site


@pytest.fixture
def server(folder):
    with open_server(folder, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", b"first"),
        ("/index.html?x=1", b"first"),
        ("/suite/", b"suite"),
        ("/suite/run/index.html", "run é".encode()),
        ("/suite/%72un/", "run é".encode()),
    ],
)
def test_pages_are_served(server, path, wanted):
    answer, body = ask(server, path)
    assert (answer.status, body) == (200, wanted)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "Python" not in answer.headers["Server"]


def test_a_head_request_has_headers_alone(server):
    answer, body = ask(server, "/", "HEAD")
    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "5")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html", "/suite/../../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html",
        "/%2e%2e%2fsecret.html", "/..\\secret.html", "/%5c..%5csecret.html", "//etc/passwd",
        "/etc/passwd", "/link.html", "/up/secret.html", "/.site.json", "/%2esite.json",
        "/dotted.html", "/.git/config", "/suite/../.site.json", "/empty/", "/missing.html",
        "/index.html%00.txt", "/%ff", "/C:/x", "/index.html/x",
    ],
)  # fmt: skip
def test_nothing_else_is_served(server, path):
    answer, body = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in body


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"]
)
def test_other_methods_are_refused(server, method):
    assert ask(server, "/", method)[0].status in {405, 501}


def test_only_the_address_itself_is_answered(server):
    for host in (
        f"127.0.0.1:{server.port}",
        f"localhost:{server.port}",
        f"LOCALHOST:{server.port}",
    ):
        assert ask(server, "/", Host=host)[0].status == 200
    others = ["evil.example", f"evil.example:{server.port}", "127.0.0.1", "127.0.0.1:1", "", None]
    for host in (*others, f"127.0.0.1.evil.example:{server.port}"):
        answer, body = ask(server, "/", Host=host)
        assert answer.status == 403
        assert b"first" not in body
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_folder_without_a_slash_is_sent_on_to_the_one_with_it(server):
    answer, _ = ask(server, "/suite")
    assert (answer.status, answer.headers["Location"]) == (301, "/suite/")
    # Two slashes at the start would be the name of another host.
    answer, _ = ask(server, "//suite")
    assert answer.headers["Location"] == "/suite/"


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.port}/"


def test_a_port_that_is_taken_is_one_clear_error(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: cannot be listened on .*--port 0"):
            open_server(folder, "127.0.0.1", port)


def test_an_address_of_another_machine_is_an_error(folder):
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        open_server(folder, "192.0.2.1", 0)


def test_the_folder_may_be_made_later(tmp_path):
    assert found_file(tmp_path / "later", "/") is None
