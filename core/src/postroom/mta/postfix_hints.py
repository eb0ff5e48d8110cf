"""What in a Postfix lets mail go past us, or twice through us: said to the administrator, not changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from postroom.mta.postfix_tool import Postfix
from postroom.mta.postfix_wishes import MILTER_LISTS


@dataclass(frozen=True, slots=True)
class Hint:
    subject: str
    text: str
    remedy: str


def find_hints(postfix: Postfix) -> Iterator[Hint]:
    """Best asked before main.cf is edited: Postfix' tools read a file that has just changed for more than a second."""
    for name in MILTER_LISTS:
        for service, value in postfix.overrides(name).items():
            shown = value or "empty"
            remedy = f"fine for re-injected mail; else postconf -PX {service}/{name}"
            yield Hint(f"{service}: -o {name}", f"{shown}: its mail passes those milters instead", remedy)
    for service, value in postfix.overrides("receive_override_options").items():
        if "no_milters" in value:
            remedy = "fine for mail that comes back from a filter; else take no_milters out"
            yield Hint(f"{service}: no_milters", "its mail passes no milter", remedy)
    names = ("content_filter", "receive_override_options", "multi_instance_directories", "virtual_mailbox_domains")
    values = postfix.effective(*names)
    if "no_milters" in values.get("receive_override_options", ""):
        yield Hint("receive_override_options", "no_milters: no mail passes any milter", "take no_milters out of it")
    if values.get("content_filter"):
        text = f"{values['content_filter']}: mail that comes back from it passes the milters again"
        yield Hint("content_filter", text, "give its way back -o receive_override_options=no_milters in master.cf")
    if values.get("multi_instance_directories"):
        text = f"further instances: {values['multi_instance_directories']}"
        yield Hint("multi_instance_directories", text, "install in each: --postfix-config DIR")
    if not postfix.expanded("virtual_mailbox_domains").get("virtual_mailbox_domains"):
        text = "empty: no mail takes virtual_transport, so none comes to before-local"
        yield Hint("virtual_mailbox_domains", text, "name your domains there, or install with --maps")
