"""What handlers need that ask a server of somebody else: deadlines, a connection that keeps to one, and the next server
when one fails. For handler packages, as the contract modules are; docs/writing-handlers.md has an example.
"""
