"""The sections of the configuration: frozen, typed, one for each part of the program.

Field names are the keys of `mmg.toml`. Nothing here parses or knows where a value came from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent.config.values import HIDDEN, mask

NATS_PORT: Final = 4222
COMFYUI_URL: Final = "http://127.0.0.1:8188"


class Bus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bus is. `url` is None where nobody named a server; `port` 0 is any free port."""

    url: str | None
    port: int
    ack_wait_s: float
    replicas: int
    events_max_mib: int
    agent_queued_max: int | None

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers to connect to; without a name, the one `mmg up` starts on this machine."""
        if self.url is not None:
            return tuple(self.url.split(","))
        return (f"nats://127.0.0.1:{self.port or NATS_PORT}",)

    def __repr__(self) -> str:
        """Hide the password in the address."""
        url = None if self.url is None else mask(self.url)
        return (
            f"Bus(url={url!r}, port={self.port}, ack_wait_s={self.ack_wait_s},"
            f" replicas={self.replicas}, events_max_mib={self.events_max_mib},"
            f" agent_queued_max={self.agent_queued_max})"
        )


class Http(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gateway listens and who may ask. `port` 0 is any free port; None: not set."""

    host: str
    port: int
    public_url: str
    keys_file: Path | None
    key: str | None
    trusted_proxies: tuple[str, ...] | None
    cors_origins: tuple[str, ...] | None
    rate_limits: bool

    def bound(self, port: int) -> "Http":
        """Return this section with the port that was really bound, in the public address too."""
        derived = self.public_url == http_url(self.host, self.port)
        public_url = http_url(self.host, port) if derived else self.public_url
        return msgspec.structs.replace(self, port=port, public_url=public_url)

    def __repr__(self) -> str:
        """Hide the key."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["key"] = HIDDEN if self.key else None
        return f"Http({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works. None means: found out at start. `slots` is a count per kind."""

    name: str | None
    http_port: int
    engines: tuple[str, ...] | None
    sketch: Literal["off", "fallback", "only"] | None
    slots: Mapping[str, int]
    lookahead: int
    drain_s: float
    run_timeout_s: float


class ComfyUI(msgspec.Struct, frozen=True, kw_only=True):
    """Where ComfyUI is. `url` None: nobody named one; `output_dir` None: out of reach."""

    url: tuple[str, ...] | None
    output_dir: Path | None
    restart: tuple[str, ...] | None
    step_timeout_s: float

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers; without a name, the one at ComfyUI's own default address."""
        return self.url or (COMFYUI_URL,)


class Ollama(msgspec.Struct, frozen=True, kw_only=True):
    """Where Ollama is. `enhance_model` None: prompts are extended by the model that is loaded."""

    url: str
    enhance_model: str | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The card and who waits for it. Units: MiB, seconds, local hours.

    `cards` has one entry for each ComfyUI; with fewer, the last one counts on. `max_wait_s` holds
    the classes that are named. `low_hours` None: LOW may start at any hour.
    """

    cards: tuple[str, ...]
    reserve_mib: int
    downgrade_first: bool
    preempt_after_s: float
    max_wait_s: Mapping[str, float]
    low_hours: tuple[float, float] | None


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """Which clouds draw, with whose key, and what they may cost. Units: US dollars, seconds.

    A key that is None was not given. `enable_fallback` is the other name of `mode`, which already
    counts it.
    """

    mode: Literal["off", "fallback", "on"]
    enable_fallback: bool | None
    order: tuple[str, ...]
    day_usd: float
    request_usd: float
    requester_usd: float
    timeout_s: float
    stability_key: str | None
    stability_url: str
    stability_api: Literal["v2beta", "v1"]
    stability_high_model: str
    openai_key: str | None
    openai_url: str
    openai_model: str

    def __repr__(self) -> str:
        """Hide the keys."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("stability_key", "openai_key"):
            fields[name] = HIDDEN if fields[name] else None
        return f"Cloud({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What signs webhooks, where they may go besides, and who is told alerts. None: not set."""

    secret: tuple[str, ...] | None
    allow: tuple[str, ...] | None
    alert_url: str | None

    def __repr__(self) -> str:
        """Hide the secrets."""
        secret = HIDDEN if self.secret else None
        alert_url = HIDDEN if self.alert_url else None
        return f"Webhook({secret=!r}, allow={self.allow!r}, {alert_url=!r})"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """How this process proves on the bus who it is. None: not set; all of it: nobody asks."""

    dir: Path | None
    nkey: str | None
    creds: Path | None
    ca: Path | None

    def __repr__(self) -> str:
        """Hide the key."""
        nkey = HIDDEN if self.nkey else None
        return f"Site(dir={self.dir!r}, nkey={nkey!r}, creds={self.creds!r}, ca={self.ca!r})"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Folders, all absolute, which need not exist; and what is kept in that of the assets."""

    data_dir: Path
    assets_dir: Path
    assets_url: str | None
    retention_days: int
    jpeg: bool
    workflows_dir: Path


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """How to log. `format` None means: see `format_for`."""

    dir: Path
    format: Literal["json", "console"] | None
    level: Literal["debug", "info", "warning", "error"]

    def format_for(self, *, terminal: bool) -> Literal["json", "console"]:
        """Return the format: as configured, else lines for people on a terminal, else JSON."""
        return self.format or ("console" if terminal else "json")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured; `origins` says for each name where its value came from."""

    bus: Bus
    http: Http
    worker: Worker
    comfyui: ComfyUI
    ollama: Ollama
    card: Card
    cloud: Cloud
    webhook: Webhook
    site: Site
    storage: Storage
    logs: Logs
    warnings: tuple[str, ...]
    origins: Mapping[str, str]


def http_url(host: str, port: int) -> str:
    """Return the address of a web server on this host and port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
