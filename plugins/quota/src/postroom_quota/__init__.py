"""Mailbox limits: mail for a full mailbox is refused before anybody is responsible for it."""
