"""The directory service: whose mail this host takes, where it goes, and who may log in."""
