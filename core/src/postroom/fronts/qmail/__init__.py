"""The wrappers that stand before qmail-queue, qmail-local and qmail-remote. Each is installed as a file of its own."""
