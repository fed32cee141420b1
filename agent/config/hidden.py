"""The secrets among the settings: what may never be shown, not even inside another text."""

from collections.abc import Iterator

from agent.config.sections import Config
from agent.config.settings import ROWS


def hidden(config: Config) -> Iterator[str]:
    """Yield every secret of a configuration as it would stand in a text."""
    for row in ROWS:
        if row.hide != "all":
            continue
        value = getattr(getattr(config, row.section), row.key)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str):
                yield one
