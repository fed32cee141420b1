"""Decisions: plain data in, plain data out, each with its reason.

Nothing here awaits, reads a clock, does I/O, logs or draws random numbers.
"""
