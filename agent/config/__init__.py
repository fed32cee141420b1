"""The configuration: read once, checked as a whole, then passed on as frozen sections.

`mmg.toml` < `.env` < environment, each setting on its own; an empty value counts as not set.
`mmg.toml` and `.env` are looked for in the directory mmg is started in (`MMG_CONFIG` names another
toml file), and relative paths start there too, wherever they were written. Layout of `mmg.toml`,
with each key's name in the environment and in `.env`:

    [bus]      url MMG_NATS_URL · port MMG_NATS_PORT · ack_wait_s MMG_ACK_WAIT_S
               replicas MMG_REPLICAS · events_max_mib MMG_EVENTS_MAX_MIB
               agent_queued_max MMG_AGENT_QUEUED_MAX
    [http]     host MMG_HTTP_HOST · port MMG_HTTP_PORT · public_url MMG_PUBLIC_URL
               keys_file MMG_KEYS_FILE · key MMG_KEY · trusted_proxies MMG_TRUSTED_PROXIES
               cors_origins MMG_CORS_ORIGINS · rate_limits MMG_RATE_LIMITS
    [worker]   name MMG_WORKER_NAME · http_port MMG_WORKER_HTTP_PORT · engines MMG_ENGINES
               sketch MMG_SKETCH · slots MMG_SLOTS · drain_s MMG_DRAIN_S
               lookahead MMG_LOOKAHEAD · run_timeout_s MMG_RUN_TIMEOUT_S
    [comfyui]  url MMG_COMFYUI_URL · output_dir MMG_COMFYUI_OUTPUT_DIR
               restart MMG_COMFYUI_RESTART · step_timeout_s MMG_STEP_TIMEOUT_S
    [ollama]   url MMG_OLLAMA_URL · enhance_model MMG_OLLAMA_ENHANCE_MODEL
    [card]     cards MMG_CARD · reserve_mib MMG_RESERVE_MIB
               downgrade_first MMG_DOWNGRADE_FIRST · preempt_after_s MMG_PREEMPT_AFTER_S
               max_wait_s MMG_MAX_WAIT_S · low_hours MMG_LOW_HOURS
    [cloud]    mode MMG_CLOUD · enable_fallback ENABLE_CLOUD_FALLBACK · order MMG_CLOUD_ORDER
               day_usd MMG_CLOUD_DAY_USD · request_usd MMG_CLOUD_REQUEST_USD
               requester_usd MMG_CLOUD_REQUESTER_USD · timeout_s MMG_CLOUD_TIMEOUT_S
               stability_key STABILITY_API_KEY · stability_url MMG_STABILITY_URL
               stability_api MMG_STABILITY_API
               stability_high_model MMG_STABILITY_HIGH_MODEL
               openai_key OPENAI_API_KEY · openai_url MMG_OPENAI_URL
               openai_model MMG_OPENAI_MODEL
    [webhook]  secret MMG_WEBHOOK_SECRET · allow MMG_WEBHOOK_ALLOW
               alert_url MMG_ALERT_WEBHOOK_URL
    [site]     dir MMG_SITE_DIR · nkey MMG_NATS_NKEY · creds MMG_NATS_CREDS · ca MMG_NATS_CA
    [storage]  data_dir MMG_DATA_DIR · assets_dir MMG_ASSETS_DIR
               assets_url MMG_ASSETS_URL · retention_days MMG_RETENTION_DAYS
               jpeg MMG_JPEG · workflows_dir MMG_WORKFLOWS_DIR
    [logs]     dir MMG_LOG_DIR · format MMG_LOG_FORMAT · level MMG_LOG_LEVEL

A setting that may hold a secret can also lie in a file: `<NAME>_FILE`, or `<key>_file` in
`mmg.toml`. `agent.config.settings` is the table of all this; nothing else names a setting.
Nothing here connects, creates a folder or reads the environment behind the caller's back.
"""

from agent.config.loading import Setting, describe, example_toml, load
from agent.config.sections import (
    Bus,
    Card,
    Cloud,
    ComfyUI,
    Config,
    Http,
    Logs,
    Ollama,
    Site,
    Storage,
    Webhook,
    Worker,
)
from agent.config.values import ConfigError

__all__ = [
    "Bus",
    "Card",
    "Cloud",
    "ComfyUI",
    "Config",
    "ConfigError",
    "Http",
    "Logs",
    "Ollama",
    "Setting",
    "Site",
    "Storage",
    "Webhook",
    "Worker",
    "describe",
    "example_toml",
    "load",
]
