"""What a user runs: a search, a confirmation, a training; its plan, results and statistics.

Knows every package below; nothing here draws, prints or parses a command line.
"""
