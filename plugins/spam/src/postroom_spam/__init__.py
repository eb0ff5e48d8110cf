"""Spam filtering with SpamAssassin's spamd or rspamd."""
