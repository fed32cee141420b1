"""The commands of `mmg`, one noun in each module: each has `run(arguments)`, the exit code.

`arguments` describes them all and imports none: a module is loaded when its command runs, so that
help and completion answer at once.
"""
