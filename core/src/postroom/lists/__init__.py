"""White and black lists of senders and clients, which several handlers share: patterns, whose lists they are, where
they are kept, and the commands that change them. For handler packages, as the contract modules are.
"""
