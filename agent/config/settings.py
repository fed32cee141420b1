"""The table of settings: name, place in `mmg.toml`, default, parser, help. It drives everything.

To add a setting: a row here and a field of the same name in `agent.config.sections`.
"""

from typing import Final

from agent.config import values
from agent.config.access import ACCESS
from agent.config.card import CARD
from agent.config.clouds import CLOUD, PROVIDERS
from agent.config.logins import SITE
from agent.config.row import Row
from agent.config.webhooks import WEBHOOK

KNOWN_ENGINES: Final = ("comfyui", *PROVIDERS, "sketch")
CONFIG_NAME: Final = "MMG_CONFIG"
PREFIX: Final = "MMG_"
FILE_SUFFIX: Final = "_FILE"

_BUS: Final = (
    Row(
        name="MMG_NATS_URL",
        section="bus",
        key="url",
        default=None,
        unset="`mmg up` starts its own nats-server, everything else connects to that one",
        parse=values.nats_urls,
        allowed="nats://host:port (or tls://, ws://, wss://), several with commas",
        help="the nats-servers to connect to",
        hide="user",
    ),
    Row(
        name="MMG_NATS_PORT",
        section="bus",
        key="port",
        default="4222",
        parse=values.whole(0, 65535),
        allowed="0 to 65535; 0 takes a free port",
        help="port of the nats-server that `mmg up` starts",
    ),
    Row(
        name="MMG_ACK_WAIT_S",
        section="bus",
        key="ack_wait_s",
        default="30",
        parse=values.seconds(1, 3600),
        allowed="1 to 3600, from 15 where replicas is above 1",
        help="seconds without a sign of life after which another worker takes over a request",
    ),
    Row(
        name="MMG_REPLICAS",
        section="bus",
        key="replicas",
        default="1",
        parse=values.number_choice(1, 3, 5),
        allowed="1, 3, 5",
        help="copies of each stream: 1 for a single nats-server, 3 or 5 in a cluster",
    ),
    Row(
        name="MMG_EVENTS_MAX_MIB",
        section="bus",
        key="events_max_mib",
        default="2048",
        parse=values.whole(64, 10_000_000),
        allowed="64 to 10000000",
        help="what the stream of links may take; nats-server's max_file_store has to allow it",
    ),
    Row(
        name="MMG_AGENT_QUEUED_MAX",
        section="bus",
        key="agent_queued_max",
        default=None,
        unset="an agent may fill the queue",
        parse=values.whole(1, 20000),
        allowed="1 to 20000",
        help="requests that one agent may have in the queue; more are refused with quota",
    ),
)

_HTTP: Final = (
    Row(
        name="MMG_HTTP_HOST",
        section="http",
        key="host",
        default="127.0.0.1",
        parse=values.listening,
        allowed="an address of this machine, or localhost; 0.0.0.0 and :: are all of them",
        help="address on which the gateway listens; elsewhere than on this machine it wants keys",
    ),
    Row(
        name="MMG_HTTP_PORT",
        section="http",
        key="port",
        default="54112",
        parse=values.whole(0, 65535),
        allowed="0 to 65535; 0 takes a free port",
        help="port of the gateway",
    ),
    Row(
        name="MMG_PUBLIC_URL",
        section="http",
        key="public_url",
        default=None,
        unset="http://<host>:<port> of the gateway",
        parse=values.web_url,
        allowed="http://host or https://host, perhaps with port and path",
        help="where others reach the gateway; the addresses of assets start with it",
    ),
    *ACCESS,
)

_WORKER: Final = (
    Row(
        name="MMG_WORKER_NAME",
        section="worker",
        key="name",
        default=None,
        unset="made from the name of the machine",
        parse=values.token,
        allowed="1 to 64 of A-Z a-z 0-9 _ -",
        help="name of this worker in events, logs and commands",
    ),
    Row(
        name="MMG_WORKER_HTTP_PORT",
        section="worker",
        key="http_port",
        default="54121",
        parse=values.whole(0, 65535),
        allowed="0 to 65535; 0 takes a free port",
        help="port of the worker's /healthz and /metrics",
    ),
    Row(
        name="MMG_ENGINES",
        section="worker",
        key="engines",
        default=None,
        unset="those configured or found",
        parse=values.several(*KNOWN_ENGINES),
        allowed=f"a comma list of: {', '.join(KNOWN_ENGINES)}",
        help="engines of this worker, in the order in which they are tried",
    ),
    Row(
        name="MMG_SKETCH",
        section="worker",
        key="sketch",
        default=None,
        unset="only, if there is no other engine, else off",
        parse=values.choice("off", "fallback", "only"),
        allowed="off, fallback, only",
        help="when the built-in sketch engine draws",
    ),
    Row(
        name="MMG_SLOTS",
        section="worker",
        key="slots",
        default="cpu:2,cloud:4",
        parse=values.slots,
        allowed=f"kind:count with commas; kinds {', '.join(values.SLOT_KINDS)};"
        f" counts 0 to {values.SLOTS_MAX}",
        help="jobs worked at once, for each kind of engine",
    ),
    Row(
        name="MMG_LOOKAHEAD",
        section="worker",
        key="lookahead",
        default="16",
        parse=values.whole(1, 256),
        allowed="1 to 256",
        help="requests that a worker holds while they wait for a slot, to choose among them",
    ),
    Row(
        name="MMG_DRAIN_S",
        section="worker",
        key="drain_s",
        default="30",
        parse=values.seconds(0, 3600),
        allowed="0 to 3600",
        help="seconds that running jobs get to finish when the worker is stopped",
    ),
    Row(
        name="MMG_RUN_TIMEOUT_S",
        section="worker",
        key="run_timeout_s",
        default="120",
        parse=values.seconds(1, 86400),
        allowed="1 to 86400",
        help="seconds an engine may take for one picture; half as many for each further one",
    ),
)

_COMFYUI: Final = (
    Row(
        name="MMG_COMFYUI_URL",
        section="comfyui",
        key="url",
        default=None,
        unset="http://127.0.0.1:8188, if a ComfyUI answers there when the worker starts",
        parse=values.web_urls,
        allowed="http://host:port, several with commas; each is a slot of the card",
        help="the ComfyUI servers",
    ),
    Row(
        name="MMG_COMFYUI_OUTPUT_DIR",
        section="comfyui",
        key="output_dir",
        default=None,
        unset="pictures pass through ComfyUI's temp folder, which it empties itself",
        parse=None,
        allowed="a folder",
        help="ComfyUI's output folder, where the worker can reach it to clean it",
    ),
    Row(
        name="MMG_COMFYUI_RESTART",
        section="comfyui",
        key="restart",
        default=None,
        unset="ComfyUI is never restarted",
        parse=values.command,
        allowed="a program and its arguments, as a shell would split them; no shell runs them",
        help="run when a ComfyUI has been down for 30 s, at most 3 times in 10 minutes",
    ),
    Row(
        name="MMG_STEP_TIMEOUT_S",
        section="comfyui",
        key="step_timeout_s",
        default="120",
        parse=values.seconds(1, 3600),
        allowed="1 to 3600",
        help="seconds without a step after which a prompt counts as hung",
    ),
)

_OLLAMA: Final = (
    Row(
        name="MMG_OLLAMA_URL",
        section="ollama",
        key="url",
        default="http://127.0.0.1:11434",
        parse=values.web_url,
        allowed="http://host or https://host, perhaps with port and path",
        help="the Ollama that shares the card with ComfyUI, and that extends prompts if asked to",
    ),
    Row(
        name="MMG_OLLAMA_ENHANCE_MODEL",
        section="ollama",
        key="enhance_model",
        default=None,
        unset="the largest model that is loaded; while none is, prompts stay as they are",
        parse=values.tenant_model,
        allowed="a name as `ollama list` shows it, such as llama3:8b",
        help="the model that extends prompts; loaded for that only while no model is",
    ),
)

_STORAGE: Final = (
    Row(
        name="MMG_DATA_DIR",
        section="storage",
        key="data_dir",
        default="./data",
        parse=None,
        allowed="a folder",
        help="what the embedded nats-server and the ledger keep",
    ),
    Row(
        name="MMG_ASSETS_DIR",
        section="storage",
        key="assets_dir",
        default="./generated-assets",
        parse=None,
        allowed="a folder",
        help="where the images are put",
    ),
    Row(
        name="MMG_ASSETS_URL",
        section="storage",
        key="assets_url",
        default=None,
        unset="the images are in the folder only",
        parse=values.objects_url,
        allowed="s3://bucket or az://container, perhaps with a prefix",
        help="where the images are kept as well, so that gateways on other machines serve them;"
        " its keys come from the environment: AWS_..., AZURE_...",
    ),
    Row(
        name="MMG_RETENTION_DAYS",
        section="storage",
        key="retention_days",
        default="30",
        parse=values.whole(1, 36500),
        allowed="1 to 36500",
        help="days after which the images of a request are deleted, unless it is pinned",
    ),
    Row(
        name="MMG_JPEG",
        section="storage",
        key="jpeg",
        default="no",
        parse=values.boolean,
        allowed="yes, no, true, false, on, off, 1, 0",
        help="whether each image gets a JPEG copy at once; one that is asked for is made anyway",
    ),
    Row(
        name="MMG_WORKFLOWS_DIR",
        section="storage",
        key="workflows_dir",
        default=None,
        unset="the workflows that come with mmg",
        parse=None,
        allowed="a folder",
        help="styles and workflows",
    ),
)

_LOGS: Final = (
    Row(
        name="MMG_LOG_DIR",
        section="logs",
        key="dir",
        default="./multimodal-logs",
        parse=None,
        allowed="a folder",
        help="where generation.log and errors.log are put",
    ),
    Row(
        name="MMG_LOG_FORMAT",
        section="logs",
        key="format",
        default=None,
        unset="console on a terminal, else json",
        parse=values.choice("json", "console"),
        allowed="json, console",
        help="form of the log lines on stderr; the files have JSON",
    ),
    Row(
        name="MMG_LOG_LEVEL",
        section="logs",
        key="level",
        default="info",
        parse=values.choice("debug", "info", "warning", "error"),
        allowed="debug, info, warning, error",
        help="the least important lines that are still logged",
    ),
)

ROWS: Final[tuple[Row, ...]] = (
    *_BUS,
    *_HTTP,
    *_WORKER,
    *_COMFYUI,
    *_OLLAMA,
    *CARD,
    *CLOUD,
    *WEBHOOK,
    *SITE,
    *_STORAGE,
    *_LOGS,
)
SECTIONS: Final[tuple[str, ...]] = tuple(dict.fromkeys(row.section for row in ROWS))
