"""Automatic replies for Postroom."""
