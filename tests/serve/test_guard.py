"""Who may speak to the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

if TYPE_CHECKING:
    from tests.serve.conftest import Server


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "[::1", "localhost#evil", "evil@localhost"],
)
def test_another_name_for_this_machine_is_refused(server: Server, host: str) -> None:
    answer = server("GET", "/about", Host=host)
    assert answer.status == 421 and "does not answer to the name" in answer.json["error"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://[", "https://127.0.0.1"]
)
def test_pages_of_other_sites_are_refused(server: Server, origin: str) -> None:
    assert server("POST", "/jobs?name=a.wav", b"x", Origin=origin).status == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{server.port}/stream", origin=origin)  # type: ignore[arg-type]


def test_our_own_page_and_programs_are_served(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert server("GET", "/about", Origin=f"http://{own}", Host=own).status == 200
    assert server("GET", "/about", Host=f"localhost:{server.port}").status == 200
    assert server("GET", "/about").status == 200
    with connect(f"ws://{own}/stream", origin=f"http://{own}") as stream:  # type: ignore[arg-type]
        stream.recv()


def test_with_a_token_only_who_has_it(serving: Callable[..., Server]) -> None:
    server = serving(token="secret-ä/ключ", hosts=None)
    for path in ("/", "/script.js", "/about", "/?token=wrong", "/about?token=secret-%C3%A4/%D0%BA%D0%BB%D1%8E%D1%87"):
        assert server("GET", path).status == 401
    assert server("PUT", "/enhance/a.wav", b"x", Authorization="Bearer wrong").status == 401
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{server.port}/stream")
    entered = server("GET", "/?token=secret-%C3%A4/%D0%BA%D0%BB%D1%8E%D1%87")
    assert entered.status == 303 and entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    for headers in ({"Cookie": cookie.partition(";")[0]}, {"Cookie": "other=1; " + cookie.partition(";")[0]}):
        assert server("GET", "/", **headers).status == 200


def test_programs_send_the_token_in_a_header(serving: Callable[..., Server]) -> None:
    server = serving(token="secret", hosts=None)
    assert server("GET", "/about", Authorization="Bearer secret", Host="any.example").status == 200
    with connect(
        f"ws://127.0.0.1:{server.port}/stream", additional_headers={"Authorization": "bearer secret"}
    ) as stream:
        stream.recv()


def test_every_answer_keeps_browsers_in_bounds(server: Server) -> None:
    for path in ("/", "/script.js", "/about", "/nothing", "/jobs/x"):
        headers = server("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
