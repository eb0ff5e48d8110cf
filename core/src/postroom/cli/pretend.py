"""A mail that somebody made up on the command line: the options that `explain` and `try` share."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

import click

from postroom.config import Config
from postroom.fronts.traffic import traffic_class
from postroom.mail import Address, Envelope, Session
from postroom.registration import InvalidRegistration, Stage, Type, check_address

F = TypeVar("F", bound=Callable[..., Any])

MILTER_STAGES = (Stage.BEFORE_DATA, Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE)


def pretend_options(command: F) -> F:
    for option in reversed(
        (
            click.option(
                "--sender", "-f", default="", metavar="ADDRESS", help="Envelope sender; none: the null sender."
            ),
            click.option(
                "--recipient", "-r", "recipients", multiple=True, required=True, metavar="ADDRESS", help="Repeatable."
            ),
            click.option("--client", metavar="IP", help="The SMTP client; none: the mail comes from this host."),
            click.option("--client-name", default="", metavar="NAME", help="Its verified reverse name."),
            click.option("--helo", default="", metavar="NAME", help="What it said at HELO."),
            click.option("--auth-user", default="", metavar="NAME", help="The login it used, if any."),
            click.option("--queue-id", default="", metavar="ID", help="The queue id that the log shall show."),
            click.option(
                "--stage",
                "stages",
                type=click.Choice([str(stage) for stage in Stage]),
                multiple=True,
                help="Only there.",
            ),
        )
    ):
        command = option(command)
    return command


def pretend_envelope(
    config: Config,
    sender: str,
    recipients: tuple[str, ...],
    client: str | None,
    client_name: str,
    helo: str,
    auth_user: str,
    queue_id: str,
) -> Envelope:
    """The envelope as a front would make it; InvalidRegistration when an address is none."""
    for address in (sender, *recipients):
        if address and ("@" not in address or address.startswith("@") or address.endswith("@")):
            raise InvalidRegistration(f"{address!r} is no address: write user@domain")
        if address:
            check_address(Type.SENDER, address)
    try:
        client_address = ip_address(client) if client else None
    except ValueError:
        raise InvalidRegistration(f"--client {client!r} is no IP address") from None
    session = Session(
        client_address=client_address,
        client_name=client_name,
        helo=helo or client_name,
        auth_user=auth_user,
        submitted_locally=client_address is None,
    )
    return Envelope(
        session=session,
        sender=Address(sender),
        recipients=tuple(Address(each) for each in recipients),
        queue_id=queue_id,
        traffic=traffic_class(session, config.host.networks),
    )


def chosen_stages(config_stages: tuple[str, ...]) -> tuple[Stage, ...]:
    """Those named, or all four in the order of a mail's way."""
    return tuple(stage for stage in Stage if not config_stages or str(stage) in config_stages)
