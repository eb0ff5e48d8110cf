"""`postroom explain`: the plan for a mail, and what is left out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option
from postroom.cli.pretend import chosen_stages, pretend_envelope, pretend_options
from postroom.plan import Plan, describe_call, lookup_keys, make_plan

COLUMNS = (
    "stage",
    "handler",
    "type",
    "address",
    "priority",
    "context",
    "mode",
    "on error",
    "time limit",
    "recipients",
    "why",
)


@click.command()
@pretend_options
@json_option
@click.pass_obj
def explain(environment: Environment, /, stages: tuple[str, ...], **facts: Any) -> None:
    """Show what would act on a mail, in which order, and why. Nothing is run.

    \b
    Examples:
      postroom explain --sender a@example.org --recipient b@example.net --client 192.0.2.1
      postroom explain -f a@example.org -r b@example.net --stage before-data --json

    Exit status 1 when nothing would act.
    """
    envelope = pretend_envelope(environment.config, **facts)
    registry = environment.open_registry()
    keys = lookup_keys(envelope, environment.config.host.recipient_delimiter)
    wanted = chosen_stages(stages)
    selection = registry.matching(keys, wanted, include_disabled=True)
    plans = [make_plan(stage, envelope, selection, environment.handlers(), environment.config) for stage in wanted]
    shown = [row for plan in plans for row in _rows(plan)]
    if not environment.as_json:
        click.echo(
            f"registry generation {selection.generation}, mail of class {envelope.traffic}; "
            "calls are made from top to bottom"
        )
    environment.show(COLUMNS, shown)
    if not any(plan.calls for plan in plans):
        environment.fail("nothing acts on this mail")


def _rows(plan: Plan) -> Iterator[tuple[Any, ...]]:
    for call in plan.calls:
        row = describe_call(call, plan.stage)
        yield tuple(row[column] for column in COLUMNS)
    for left_out in plan.left_out:
        registration = left_out.registration
        yield (
            str(plan.stage),
            registration.handler,
            str(registration.type),
            registration.address or "all",
            registration.priority,
            registration.context,
            "off",
            "",
            "",
            "",
            f"does not act: {left_out.reason}",
        )
