"""Mail handlers for Postfix, qmail and msmtp.

Nothing is imported here: the thin clients (`postroom-deliver`) live in this package and start in milliseconds.
"""
