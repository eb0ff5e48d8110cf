"""What the mail server told us: client session, envelope, header fields, body; and the edits that handlers ask for.

Bytes stay bytes: header fields and body are held as they came over the wire (CRLF line ends), in order. Addresses are
`str` decoded from UTF-8 with `surrogateescape`, so that a raw 8-bit address survives a round trip.
"""

from postroom.mail.address import NULL_SENDER, Address, address_from_wire, to_a_label
from postroom.mail.body import MEMORY_LIMIT, Body, BodyCollector
from postroom.mail.envelope import Envelope, Session, TrafficClass
from postroom.mail.message import (
    CRLF,
    MAX_FOLDER,
    AddField,
    AddRecipient,
    AuthenticationResult,
    Edit,
    Field,
    FileInto,
    InsertField,
    Message,
    RemoveField,
    RemoveRecipient,
    ReplaceBody,
    ReplaceField,
    ReplaceMessage,
    ReplaceSender,
    header_value,
    is_folder_name,
    parse_message,
)

__all__ = [
    "CRLF",
    "MAX_FOLDER",
    "MEMORY_LIMIT",
    "NULL_SENDER",
    "AddField",
    "AddRecipient",
    "Address",
    "AuthenticationResult",
    "Body",
    "BodyCollector",
    "Edit",
    "Envelope",
    "Field",
    "FileInto",
    "InsertField",
    "Message",
    "RemoveField",
    "RemoveRecipient",
    "ReplaceBody",
    "ReplaceField",
    "ReplaceMessage",
    "ReplaceSender",
    "Session",
    "TrafficClass",
    "address_from_wire",
    "header_value",
    "is_folder_name",
    "parse_message",
    "to_a_label",
]
