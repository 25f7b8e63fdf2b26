"""`mqworker ui`: the address of the operator's page, with a ticket that logs it in once."""

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, Verb, uses_service
from mqworker.exits import Exit


@click.command(cls=Verb)
@click.option("--read", is_flag=True, help="For a read-only login.")
@click.option("--revoke", is_flag=True, help="End all logins of the page instead; each browser has to log in again.")
@uses_service(stage=False)
def ui(service: ServiceClient, read: bool, revoke: bool) -> None:
    """Print the address of the operator's page.

    Where control.token is set the address holds a ticket, which logs one browser in within five minutes; the login
    lasts twelve hours, and longer while it is used. Behind a proxy, put what follows the last / behind your own
    address of the page.

    Examples:
      mqworker ui
      mqworker ui --read
      mqworker ui --revoke
    """
    if revoke:
        answer = service.client.call("DELETE", "/sessions")
        if service.as_json:
            output.data(answer)
        else:
            output.note("all logins of the page have ended")
        return
    made = service.client.call("POST", "/session/tickets", {"role": "read" if read else "control"})
    if read and not made["login"]:
        what = "without control.token everybody may change everything, so no login is read-only"
        raise Failed(Exit.USAGE, f"{what}: set control.token, and restart the service")
    called = service.client.address
    base = made["url"] if called.socket else f"{called}/"  # with --url the address that reaches it from here
    address = base + (made["path"] if made["login"] else "ui/")
    if service.as_json:
        output.data(made | {"address": address})
    else:
        click.echo(address)
