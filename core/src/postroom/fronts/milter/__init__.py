"""The milter front: Postfix (or Sendmail) to envelope and message, outcome to reply and modifications.

`wire` is the protocol, `session` the state machine of one SMTP session, `native` and `libmilter` drive sessions.
"""
