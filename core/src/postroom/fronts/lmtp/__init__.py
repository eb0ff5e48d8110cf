"""The LMTP front (RFC 2033): takes mail from the mail server, runs before-local, hands it on.

`protocol` turns octets into steps and replies and knows no socket; `engine` drives many of them over sockets;
`session` is what happens to a mail. The way of a mail: engine -> protocol -> session -> pipeline -> delivery.
"""

from postroom.fronts.conversation import Peer
from postroom.fronts.lmtp.engine import LmtpEngine
from postroom.fronts.lmtp.session import LmtpParts, LmtpSession, session_factory

__all__ = ["LmtpEngine", "LmtpParts", "LmtpSession", "Peer", "session_factory"]
