"""The settings of webhooks: part of the table in `agent.config.settings`."""

from typing import Final

from agent.config import values
from agent.config.row import Row

WEBHOOK: Final = (
    Row(
        name="MMG_WEBHOOK_SECRET",
        section="webhook",
        key="secret",
        default=None,
        unset="webhooks are taken only from agents with a key, whose secret signs them",
        parse=values.webhook_secrets,
        allowed="whsec_ and base64 of 24 to 64 bytes; two with a comma, while one replaces"
        " the other",
        help="signs the webhooks of requesters that have no secret of their own;"
        " `mmg webhooks secret` makes one",
        hide="all",
    ),
    Row(
        name="MMG_WEBHOOK_ALLOW",
        section="webhook",
        key="allow",
        default=None,
        unset="webhooks reach the public internet only, by https on port 443",
        parse=values.webhook_hosts,
        allowed="host:port, several with commas",
        help="where webhooks may go besides: on this machine by http, too",
    ),
    Row(
        name="MMG_ALERT_WEBHOOK_URL",
        section="webhook",
        key="alert_url",
        default=None,
        unset="alerts are told on the bus and to Prometheus only",
        parse=values.web_url,
        allowed="http://host or https://host, perhaps with port and path",
        help="where a gateway posts each alert when it begins and ends; needs MMG_WEBHOOK_SECRET",
        hide="all",
    ),
)
