"""What stores of any handler have in common: tables in a SQLite file of this host, scripts in Redis, and writing to a
database of one's own. For handler packages, as the contract modules are.
"""
