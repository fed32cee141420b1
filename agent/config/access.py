"""Who may reach the gateway and how often: part of the table in `agent.config.settings`."""

from typing import Final

from agent.config import values
from agent.config.row import Row

ACCESS: Final = (
    Row(
        name="MMG_KEYS_FILE",
        section="http",
        key="keys_file",
        default=None,
        unset="keys.json in the data folder; while it is not there, nobody needs a key",
        parse=None,
        allowed="a file",
        help="hashes of the keys that the gateway takes; `mmg key add` makes one",
    ),
    Row(
        name="MMG_KEY",
        section="http",
        key="key",
        default=None,
        unset="they ask without a key",
        parse=values.secret,
        allowed="a key as `mmg key add` shows it",
        help="what commands such as `mmg history` show the gateway",
        hide="all",
    ),
    Row(
        name="MMG_TRUSTED_PROXIES",
        section="http",
        key="trusted_proxies",
        default=None,
        unset="nobody is believed who asks in somebody else's name",
        parse=values.networks,
        allowed="addresses and networks such as 10.0.0.0/8, several with commas",
        help="proxies whose X-Forwarded-For tells who asks, for the rate limits",
    ),
    Row(
        name="MMG_CORS_ORIGINS",
        section="http",
        key="cors_origins",
        default=None,
        unset="pages of other sites may not ask",
        parse=values.origins,
        allowed="http://host or https://host, perhaps with port, several with commas",
        help="sites whose pages may use the API from a browser",
    ),
    Row(
        name="MMG_RATE_LIMITS",
        section="http",
        key="rate_limits",
        default="on",
        parse=values.boolean,
        allowed="on, off",
        help="30 requests, 60 looks at the queue and 60 at the history a minute for each caller",
    ),
)
