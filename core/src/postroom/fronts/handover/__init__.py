"""The front for programs that hand a mail over and get it back: the qmail wrappers and the sendmail wrapper.

`client` is their side (one file, nothing but the standard library); `wire` the frames that go over the socket;
`protocol` turns them into a request and knows no socket; `session` is what happens to a mail; `engine` puts both into
the loop. `trace` reads what qmail wrote into the mail about its origin.
"""
