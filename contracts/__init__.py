"""The wire of mmg: requests, links, errors, subjects and their bytes.

Needs msgspec and the standard library only, so that another agent can vendor this folder.
It knows nothing of workers, engines or gateways.
"""

CONTRACT_VERSION = 1
"""Major version in the `Mmg-Contract` header; absent means 1."""
