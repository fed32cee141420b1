"""From text to values: one parser for each kind of setting. Strict, and never a partial result.

A parser raises ValueError with what is wrong; the caller says which setting it is.
"""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent.core import webhook, webhook_url

WEBHOOK_SECRETS_MAX: Final = 2
HIDDEN: Final = "[hidden]"
SLOT_KINDS: Final = ("gpu", "cpu", "cloud")
SLOTS_MAX: Final = 64
BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NKEY: Final = re.compile(r"SU[A-Z2-7]{56}")
_SECRET: Final = re.compile(r"[!-~]{8,512}")
_OBJECTS: Final = re.compile(r"(s3|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9._-]+){0,8}/?")
_MODEL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TENANT_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_CARD: Final = re.compile(r"auto|comfyui|[0-9]{1,3}|(GPU|MIG)-[A-Za-z0-9-]{1,80}")
HOURS: Final = 24
LANE_NAMES: Final = ("critical", "high", "medium", "low")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_ANY_USER: Final = re.compile(r"^(.*?://)?.*@", re.DOTALL)
_USER: Final = re.compile(r"(^|://|,)(?:(?!://)[^,])*@")

Parser = Callable[[str], object]


class ConfigError(Exception):
    """The configuration is not usable; `faults` has one line for each fault."""

    def __init__(self, faults: Collection[str]) -> None:
        """Keep all faults, so that they can be mended in one go."""
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def mask(urls: str) -> str:
    """Hide user, password or token in an address or a comma list of addresses."""
    return _USER.sub(rf"\g<1>{HIDDEN}@", urls)


def mask_all(text: str) -> str:
    """Hide all that could be user or password, also in an address nobody can read."""
    return _ANY_USER.sub(rf"\g<1>{HIDDEN}@", text)


def whole(low: int, high: int) -> Parser:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        number = _number(text)
        if number != int(number) or "." in text:
            raise ValueError("not a whole number")
        return int(_within(number, low, high))

    return parse


def seconds(low: float, high: float) -> Parser:
    """Return a parser of durations from `low` to `high` seconds."""
    return lambda text: _within(_number(text), low, high)


def dollars(low: float, high: float) -> Parser:
    """Return a parser of amounts from `low` to `high` US dollars."""
    return seconds(low, high)


def secret(text: str) -> str:
    """Parse a key: one word that fits into a header."""
    if not _SECRET.fullmatch(text):
        raise ValueError("no key looks like this")
    return text


def nkey(text: str) -> str:
    """Parse the seed of a user on the bus; whether its checksum fits is seen at the login."""
    if not _NKEY.fullmatch(text):
        raise ValueError("no seed looks like this")
    return text


def webhook_secrets(text: str) -> tuple[str, ...]:
    """Parse one secret that signs webhooks, or two."""
    secrets = tuple(word.strip() for word in text.split(","))
    if len(secrets) > WEBHOOK_SECRETS_MAX:
        raise ValueError(f"more than {WEBHOOK_SECRETS_MAX} secrets")
    for one in secrets:
        webhook.read_secret(one)
    return secrets


def webhook_hosts(text: str) -> tuple[str, ...]:
    """Parse a comma list of host:port."""
    return tuple(dict.fromkeys(webhook_url.read_allowed(one.strip()) for one in text.split(",")))


def objects_url(text: str) -> str:
    """Parse the address of a bucket or container."""
    if not _OBJECTS.fullmatch(text):
        raise ValueError("not s3://bucket/prefix or az://container/prefix")
    return text.rstrip("/")


def model(text: str) -> str:
    """Parse the name of a provider's model."""
    if not _MODEL.fullmatch(text):
        raise ValueError("not such a name")
    return text


def tenant_model(text: str) -> str:
    """Parse the name of a model that Ollama has: with its registry and tag, where it has them."""
    if not _TENANT_MODEL.fullmatch(text):
        raise ValueError("not such a name")
    return text


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return float(text)


def _within(number: float, low: float, high: float) -> float:
    if not low <= number <= high:
        raise ValueError("too small" if number < low else "too large")
    return number


def boolean(text: str) -> bool:
    """Parse yes or no."""
    if (value := BOOLEANS.get(text.casefold())) is None:
        raise ValueError("neither yes nor no")
    return value


def choice(*allowed: str) -> Parser:
    """Return a parser of one of these words, in any case."""

    def parse(text: str) -> str:
        if text.casefold() not in allowed:
            raise ValueError("not one of them")
        return text.casefold()

    return parse


def number_choice(*allowed: int) -> Parser:
    """Return a parser of one of these whole numbers."""

    def parse(text: str) -> int:
        if (number := _number(text)) not in allowed or "." in text:
            raise ValueError("not one of them")
        return int(number)

    return parse


def several(*known: str) -> Parser:
    """Return a parser of a comma list of these words, each at most once, in the given order."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word.strip().casefold() for word in text.split(","))
        for word in words:
            if word not in known:
                raise ValueError(f"{word!r} is not one of them")
            if words.count(word) > 1:
                raise ValueError(f"{word!r} is there twice")
        return words

    return parse


def slots(text: str) -> Mapping[str, int]:
    """Parse `kind:count` pairs; a kind that is not named has no slot."""
    count = whole(0, SLOTS_MAX)
    found: dict[str, int] = {}
    for pair in text.split(","):
        kind, colon, number = (part.strip() for part in pair.partition(":"))
        if not colon:
            raise ValueError(f"{pair.strip()!r} is not kind:count")
        if kind not in SLOT_KINDS:
            raise ValueError(f"{kind!r} is no kind of slot")
        if kind in found:
            raise ValueError(f"{kind!r} is there twice")
        try:
            found[kind] = int(str(count(number)))
        except ValueError as error:
            raise ValueError(f"the count {number!r} of {kind} is {error}") from error
    if not any(found.values()):
        raise ValueError("no slot at all: the worker could never start a job")
    return found


def cards(text: str) -> tuple[str, ...]:
    """Parse a comma list of cards: auto, comfyui, an index or a UUID, for each ComfyUI one."""
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if not _CARD.fullmatch(word):
            raise ValueError(f"{word!r} names no card")
    return words


def bounds(text: str) -> Mapping[str, float]:
    """Parse `class:seconds` pairs; a class that is not named keeps its default."""
    limit = seconds(0, 86400)
    found: dict[str, float] = {}
    for pair in text.split(","):
        name, colon, number = (part.strip() for part in pair.partition(":"))
        if not colon or name not in LANE_NAMES:
            raise ValueError(f"{pair.strip()!r} is not class:seconds")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = float(str(limit(number)))
    return found


def hours(text: str) -> tuple[float, float]:
    """Parse `from-to` in local hours, which may go past midnight."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        raise ValueError("not from-to")
    begin, end = _number(first), _number(last)
    if not (0 <= begin < HOURS and 0 <= end <= HOURS) or begin == end:
        raise ValueError("not two different hours from 0 to 24")
    return begin, end


def token(text: str) -> str:
    """Parse a name that fits into a subject."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("not such a name")
    return text


def loopback(text: str) -> str:
    """Parse an address of this machine that no other machine reaches."""
    if text.casefold() == "localhost":
        return "localhost"
    try:
        address = ip_address(text)
    except ValueError as error:
        raise ValueError("not an address of this machine") from error
    if not address.is_loopback:
        raise ValueError("reachable from outside, and this version has no keys to guard it with")
    return str(address)


def listening(text: str) -> str:
    """Parse an address to listen on."""
    if text.casefold() == "localhost":
        return "localhost"
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError("not an address") from error


def networks(text: str) -> tuple[str, ...]:
    """Parse a comma list of addresses and networks."""
    found: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        try:
            found.append(str(ip_network(word)))
        except ValueError as error:
            raise ValueError(f"{word!r} is no address and no network") from error
    return tuple(dict.fromkeys(found))


def origins(text: str) -> tuple[str, ...]:
    """Parse a comma list of sites: scheme, host and port, as browsers say it."""
    found: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        parts = urlsplit(web_url(word))
        if parts.path:
            raise ValueError(f"{word!r} has a path; a site has none")
        found.append(f"{parts.scheme}://{parts.netloc}".lower())
    return tuple(dict.fromkeys(found))


def nats_urls(text: str) -> str:
    """Parse a comma list of nats-server addresses."""
    urls = [url.strip() for url in text.split(",")]
    for url in urls:
        parts = _split(url, ("nats", "tls", "ws", "wss"))
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("an address of a server has nothing behind the port")
    return ",".join(urls)


def web_url(text: str) -> str:
    """Parse the address of a web server, perhaps with a path; without the slash at its end."""
    parts = _split(text, ("http", "https"))
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("only scheme, host, port and path may be there")
    return text.rstrip("/")


def key_url(text: str) -> str:
    """Parse the address of a server that is sent a key: never unencrypted over a network."""
    url = web_url(text)
    parts = urlsplit(url)
    if parts.scheme == "http":
        try:
            loopback(parts.hostname or "")
        except ValueError as error:
            raise ValueError("the key would travel unencrypted; write https://") from error
    return url


def web_urls(text: str) -> tuple[str, ...]:
    """Parse a comma list of web servers; each once."""
    return tuple(dict.fromkeys(web_url(url.strip()) for url in text.split(",")))


def command(text: str) -> tuple[str, ...]:
    """Parse a command line into its arguments."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"cannot be split into arguments: {error}") from error


def _split(url: str, schemes: Collection[str]) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("an address has no blanks or special characters; write them as %XX")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("host or port cannot be read") from error
    if parts.scheme not in schemes:
        raise ValueError(f"does not start with {' or '.join(f'{s}://' for s in schemes)}")
    if not host or not _HOST.fullmatch(host):
        raise ValueError("there is no host in it")
    if port == 0:
        raise ValueError("port 0 is no port")
    return parts


def folder(directory: Path, home: str | None) -> Parser:
    """Return a parser of paths: relative ones start at `directory`, `~/` at `home`."""

    def parse(text: str) -> Path:
        if "\0" in text:
            raise ValueError("a path has no NUL")
        if text == "~" or text.startswith(("~/", "~\\")):
            if not home:
                raise ValueError("no home folder is known here")
            return Path(home) / text[2:]
        return directory / text

    return parse
