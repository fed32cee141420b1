"""`mmg completion`: the shell code that completes `mmg`, made from the parser itself.

It prints; installing it is one line that the person runs.
"""

import argparse
from typing import Final

from argcomplete.shell_integration import shellcode

from agent.commands import exits

HOW: Final = """\
Completion of commands, options and their values. Choose your shell:

  bash   eval "$(mmg completion bash)"      in this shell; for every one:
         echo 'eval "$(mmg completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(mmg completion zsh)"' >> ~/.zshrc      (after compinit)
  fish   mmg completion fish > ~/.config/fish/completions/mmg.fish
"""


def run(arguments: argparse.Namespace) -> int:
    """Print the code for a shell, or how to get it."""
    if arguments.shell is None:
        print(HOW, end="")
    else:
        print(shellcode(["mmg"], shell=arguments.shell))
    return exits.OK
