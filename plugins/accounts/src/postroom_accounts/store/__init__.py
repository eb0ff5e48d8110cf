"""The directory open for changes: one module for each kind of thing in it, and one that opens it."""
