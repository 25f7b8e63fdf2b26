"""`mqworker ui` and `mqworker audit`, against a service that is asked over its socket."""

import pytest

from mqworker.cli import main
from mqworker.exits import Exit
from tests.http.operator import LittleService

TOKEN = "full-canary-token"


@pytest.fixture
def service(tmp_path):
    little = LittleService(tmp_path)
    yield little
    little.close()


@pytest.fixture
def guarded(tmp_path):
    little = LittleService(tmp_path, TOKEN, read_token="read-canary-token")
    yield little
    little.close()


def run(service, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run a verb, and return its code and what it prints."""
    code = main([*arguments, "--socket", str(service.loaded.socket)])
    printed = capsys.readouterr()
    return code, printed.out.strip(), printed.err.strip()


@pytest.mark.parametrize(("options", "role"), [((), "control"), (("--read",), "read")])
def test_the_printed_address_logs_a_browser_in(guarded, capsys, options, role):
    """What `mqworker ui` prints is where the page is, and holds a ticket for one login with the wanted role."""
    code, address, _ = run(guarded, capsys, "ui", *options)
    base, _, ticket = address.partition("#t=")
    assert (code, base) == (0, f"http://127.0.0.1:{guarded.port}/ui/")
    answer = guarded.ask("POST", "/api/v1/session", {"ticket": ticket, "path": "/"})
    assert (answer.status, answer.json["role"]) == (200, role)
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0], "X_Mqworker": "page"}
    assert guarded.ask("GET", "/api/v1/session", **cookie).status == 200
    assert run(guarded, capsys, "ui", "--revoke")[0] == 0
    assert guarded.ask("GET", "/api/v1/session", **cookie).status == 401


def test_without_a_token_the_address_is_all(service, capsys):
    """Where no token is configured the address has no ticket, and a read-only login is refused, with the fix."""
    assert run(service, capsys, "ui")[:2] == (0, f"http://127.0.0.1:{service.port}/ui/")
    code, out, err = run(service, capsys, "ui", "--read")
    assert (code, out) == (Exit.USAGE, "")
    assert "set control.token" in err


def test_with_an_address_the_page_is_there(service, capsys):
    """Whoever calls a service by --url gets the page's address below that, not the one of the service's machine."""
    assert main(["ui", "--url", f"http://localhost:{service.port}"]) == 0
    assert capsys.readouterr().out.strip() == f"http://localhost:{service.port}/ui/"


def test_the_audit_is_a_line_for_each_command(service, capsys):
    """`mqworker audit` tells who, what, the answer, and from what to what; of one stage with --stage."""
    assert run(service, capsys, "audit")[1:] == ("", "nothing has been asked for yet")
    service.ask("PUT", "/api/v1/stages/alpha/listening", {"enabled": False})
    service.ask("PUT", "/api/v1/stages/beta/consumers", {"count": -1}, User_Agent="\x9b31m")
    _, out, _ = run(service, capsys, "audit")
    first, second = out.splitlines()
    assert first[21:] == "anybody: PUT /api/v1/stages/alpha/listening: 202 applied; alpha.listening: true -> false"
    assert second[21:].startswith("anybody: PUT /api/v1/stages/beta/consumers: 422 count: Expected")
    assert run(service, capsys, "audit", "--stage", "alpha")[1] == first
    assert run(service, capsys, "audit", "-n", "1")[1] == second
