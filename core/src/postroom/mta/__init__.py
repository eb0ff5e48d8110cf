"""Puts postroom into mail servers and takes it out again; their queues."""
