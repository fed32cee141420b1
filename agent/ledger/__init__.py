"""The ledger: one row for each request in SQLite, folded from the stream of events.

A projection: it can be deleted and made again as far as the stream reaches back. It decides
nothing, and nobody on the way of a request waits for it.
"""

from agent.ledger.projection import Projection
from agent.ledger.reading import Ledger

__all__ = ["FILE", "Ledger", "Projection"]

FILE = "ledger.sqlite3"
"""Its name in the folder for data."""
