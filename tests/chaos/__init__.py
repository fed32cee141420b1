"""Chaos: real processes are killed, frozen and cut off while requests run; then all is audited.

Run by `python -m tests.chaos`. Nothing here may be imported by what it tests.
"""
