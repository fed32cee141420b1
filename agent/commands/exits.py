"""The exit codes of `mmg`: what scripts rely on."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
TIMEOUT: Final = 4
INTERRUPTED: Final = 130

TEXT: Final = """\
exit codes:
  0    done; `generate` and `demo`: the picture is on disk
  1    failed: the last lines on stderr say why and what to do
  2    usage: wrong arguments, settings, or a request that breaks the contract
  3    the bus cannot be reached
  4    the time given with --timeout is over; the request goes on
  130  interrupted with Ctrl-C; the request goes on
"""
