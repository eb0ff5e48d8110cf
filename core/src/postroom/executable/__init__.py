"""A handler that is any program: the reference's `Exec:` hooks, unchanged.

argv     program context sender recipient [recipient]...    (the null sender is an empty argument)
stdin    the mail with LF line ends, no envelope; empty at before-data
stderr   any number of `LOG text` lines, then one of PASS SKIP STOP DEFER REJECT
stdout   after PASS the mail as changed, after REJECT or DEFER the text of the reply
status   0 for PASS and STOP, other for SKIP, DEFER, REJECT; the word decides

A mail with more recipients than one command line holds is given to the program in several calls, each with the whole
mail and a part of the recipients; each call answers for its own.
"""

from postroom.executable.process import check_program
from postroom.executable.run import run_program

__all__ = ["check_program", "run_program"]
