"""What a prompt says: its title, the rest, chains, figures and topics.

Pure work on text. It must not draw; it never adds a fact that the prompt does not hold.
"""

import re
from typing import Final

import msgspec

_TITLE_LONGEST: Final = 84
_TITLE_SHORTEST: Final = 8
_NODE_LONGEST: Final = 34
_NODES_MOST: Final = 16
_FIGURES_MOST: Final = 8

_NAME_WORDS: Final = 4
"""Words of an item that can still be a name."""

_LIST_LEAST: Final = 3
"""Items that make a list; two commas do not."""

_ARROW: Final = re.compile(r"\s*(?:[-=]+>|[\u2013\u2014]>|[\u2192\u21d2\u27f6\u279c\u2794])\s*")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|[\n\r\u3002\uff01\uff1f]+")
_STATEMENT: Final = re.compile(r"[;,\n]+\s*(?![^(\[]*[)\]])|\.(?:\s+|$)")
_ORDER: Final = re.compile(
    r"^\s*(?:please\s+)?(?:(?:create|draw|make|generate|design|render|sketch|show|give)\s+"
    r"(?:me\s+|us\s+)?)?(?:an?\s+|the\s+)?(?:[\w-]+\s+){0,2}?"
    r"(?:diagram|infographic|cover(?: page| image)?|illustration|picture|image|poster|chart|"
    r"title card|drawing)\s*(?:(?:of|for|about|on|showing|that shows|illustrating|with|titled)"
    r"\b:?|:)\s*(?:how\s+)?",
    re.IGNORECASE,
)
_LEAD: Final = re.compile(
    r"^.*\b(?:from|is|are|shows?|showing|where|flow|goes|of|how|as|like|then|and)\s+",
    re.IGNORECASE,
)
_TAIL: Final = re.compile(
    r"\s+(?:with|where|when|while|which|that|so that|using|for each|in order|and then)\s.*$",
    re.IGNORECASE,
)
_FIGURE: Final = re.compile(
    r"(?<![\w.,/:#-])(?P<sign>[~\u2248<>\u2264\u2265+\u2212-]?\s?[$\u20ac\u00a3]?)"
    r"(?P<number>\d{1,3}(?:[, \u202f]\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?)"
    r"(?:\s?(?P<unit>%|percent\b|\u2030|\u00b0C|[kKMGT]?i?B(?:/s)?\b|GHz|MHz|Hz\b|kWh|[kM]?W\b|"
    r"kg\b|km/h\b|km\b|ms\b|\u00b5s\b|s\b|sec\b|seconds?\b|minutes?\b|min\b|hours?\b|h\b|"
    r"days?\b|weeks?\b|months?\b|"
    r"years?\b|million\b|billion\b|bn\b|[kKM]\b|[x\u00d7](?!\w)|fps\b|px\b|USD\b|EUR\b|"
    r"req/s|/min\b|/s\b))?(?![\w/:-])"
)
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_STOP_WORDS: Final = (
    "a an the this that these those our their its it his her my your we you they i is are was were "
    "be been being has have had do does did will would can could must should may might not no nor "
    "as than then so such each every all any some more most very just also only with without "
    "within of for to from in on at by into onto over under between across through via per about "
    "against during before after and or but if when while where which who whose what why how "
    "show shows showing using use uses make makes made get gets let lets give gives there here "
    "diagram infographic picture image illustration report cover style modern clean minimal "
    "please create draw generate design architecture overview anatomy"
)
_STOP: Final = frozenset(_STOP_WORDS.split())


class Wording(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as it is set: `body` is what the title leaves over, maybe nothing."""

    title: str
    body: str


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes in order of appearance and the arrows between them, by index."""

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A number that the prompt names. `text` is as written, `unit` normalised."""

    text: str
    unit: str
    value: float
    label: str

    @property
    def percent(self) -> bool:
        """Whether it is a share of a whole."""
        return self.unit == "%" and 0 <= self.value <= 100  # noqa: PLR2004 - of a hundred


def plain(prompt: str) -> str:
    """Return the prompt without its "draw a diagram of", never empty."""
    text = "\n".join(" ".join(line.split()) for line in prompt.splitlines() if line.strip())
    rest = _ORDER.sub("", text, count=1).strip()
    return _capital(rest or text or "Untitled")


def wording(prompt: str) -> Wording:
    """Split a prompt into a title, its first sentence or clause, and the rest."""
    text = plain(prompt)
    sentences = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    first, rest = sentences[0], " ".join(sentences[1:])
    head, tail = _clause(first)
    body = " ".join(part for part in (_capital(tail), rest) if part)
    return Wording(title=head.rstrip(" .,;:") or first, body=body)


def graph(prompt: str) -> Graph | None:
    """Return the chains that the prompt names with arrows, None if there are none."""
    nodes: dict[str, int] = {}
    names: list[str] = []
    edges: dict[tuple[int, int], None] = {}

    def index(name: str) -> int | None:
        key = name.casefold()
        if key not in nodes and len(names) < _NODES_MOST:
            nodes[key] = len(names)
            names.append(name)
        return nodes.get(key)

    for statement in _STATEMENT.split(plain(prompt)):
        if not statement or not _ARROW.search(statement):
            continue
        before: list[int] = []
        for group in _groups(statement):
            here = [place for place in map(index, group) if place is not None]
            for pair in ((a, b) for a in before for b in here if a != b):
                edges.setdefault(pair)
            before = here or before
    if len(names) < 2 or not edges:  # noqa: PLR2004 - an arrow needs two ends
        return None
    return Graph(nodes=tuple(names), edges=tuple(edges))


def graph_wording(prompt: str) -> Wording:
    """Return the words around the chains: the title names what the chains are of."""
    kept: list[str] = []
    title, seen = "", False
    for sentence in filter(None, map(str.strip, _SENTENCE.split(plain(prompt)))):
        if not _ARROW.search(sentence):
            kept.append(sentence)
            continue
        head, colon, _ = _ARROW.split(sentence)[0].partition(": ")
        if not seen and colon and len(head) <= _TITLE_LONGEST:
            title = head
        elif not seen and kept and len(kept[0]) <= _TITLE_LONGEST:
            title = kept.pop(0)
        seen = True
    drawn = graph(prompt)
    title = title or (f"{drawn.nodes[0]} to {drawn.nodes[-1]}" if drawn else plain(prompt))
    return Wording(title=_capital(title.rstrip(" .")) or title, body=" ".join(kept))


def figures(prompt: str) -> tuple[Figure, ...]:
    """Return the numbers that the prompt names, each with the words that stand by it."""
    found = []
    text = plain(prompt)
    for clause in re.split(r"[;\n]+|,(?!\d{3})|(?<=[^\d\s])\.\s+|\.$|:\s|\band\b", text):
        hits = [hit for hit in _FIGURE.finditer(clause or "") if _counts(hit)]
        for place, hit in enumerate(hits):
            start = hits[place - 1].end() if place else 0
            end = hits[place + 1].start() if place + 1 < len(hits) else len(clause)
            before = clause[start : hit.start()] if place == 0 else ""
            found.append(_figure(hit, before.strip(), clause[hit.end() : end].strip()))
    return tuple(found[:_FIGURES_MOST])


def figures_wording(prompt: str) -> Wording:
    """Return the words around the figures: a lead before a colon, else the first sentence."""
    text = plain(prompt)
    lead, colon, rest = text.partition(": ")
    if colon and not figures(lead) and len(lead) <= _TITLE_LONGEST:
        sentences = [part for part in _SENTENCE.split(rest) if part and not figures(part)]
        return Wording(title=lead, body=" ".join(sentences))
    sentences = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    free = [part for part in sentences if not figures(part)]
    if free:
        named = wording(free[0])
        return Wording(title=named.title, body=" ".join([named.body, *free[1:]]).strip())
    return Wording(title=wording(prompt).title, body="")


def topics(prompt: str, most: int) -> tuple[str, ...]:
    """Return short phrases of the prompt, in order: the items of a list, else noun-like words."""
    text = plain(prompt)
    listed = text.partition(": ")[2] or text
    items = [_short(item) for item in re.split(r"[,;\n]+|\.\s|\band\b", listed)]
    items = _unique([item for item in items if len(item.split()) <= _NAME_WORDS])
    if len(items) < _LIST_LEAST:
        items = _unique(_phrases(text))
    return tuple(items[:most])


def subject(prompt: str) -> str:
    """Return the name of the whole: what stands before a colon, else the first topic."""
    head, colon, _ = plain(prompt).partition(": ")
    if colon and len(head) <= _NODE_LONGEST:
        return head
    return (topics(prompt, 1) or (plain(prompt)[:_NODE_LONGEST],))[0]


def _clause(sentence: str) -> tuple[str, str]:
    """Split a sentence after the clause that can stand as a title."""
    head, colon, tail = sentence.partition(": ")
    if colon and _TITLE_SHORTEST <= len(head) <= _TITLE_LONGEST:
        return head, tail
    if len(sentence) <= _TITLE_LONGEST:
        return sentence, ""
    for mark in ("; ", " \u2014 ", " \u2013 ", " - ", ", "):
        cut = sentence.rfind(mark, _TITLE_SHORTEST, _TITLE_LONGEST)
        if cut > 0:
            return sentence[:cut], sentence[cut + len(mark) :]
    cut = sentence.rfind(" ", _TITLE_SHORTEST, _TITLE_LONGEST)
    if cut < 0:
        return sentence, ""
    return sentence[:cut] + "\u2026", "\u2026" + sentence[cut + 1 :]


def _groups(statement: str) -> list[list[str]]:
    """Split a statement at its arrows; a group in brackets holds several names."""
    parts = _ARROW.split(statement)
    groups = []
    for place, part in enumerate(parts):
        text = part.strip()
        if text[:1] in "([" and text[-1:] in ")]" and text:
            names = re.split(r"\s*[,|/]\s*", text[1:-1])
        else:
            names = [_node(text, first=place == 0, last=place == len(parts) - 1)]
        groups.append([name for name in names if name])
    return groups


def _node(text: str, *, first: bool, last: bool) -> str:
    """Return the name of a box, freed from the words of the sentence around it."""
    if first:
        text = _LEAD.sub("", text.rsplit(":", 1)[-1])
    if last:
        text = _TAIL.sub("", text)
    text = text.strip(" .\"'`*:")
    if len(text) > _NODE_LONGEST:
        cut = text.rfind(" ", 0, _NODE_LONGEST)
        text = text[: cut if cut > 0 else _NODE_LONGEST] + "\u2026"
    return _capital(text)


def _counts(hit: re.Match[str]) -> bool:
    """Whether a number is a figure; a bare year is a date."""
    return bool(hit["unit"]) or bool(hit["sign"].strip()) or not _YEAR.fullmatch(hit["number"])


def _figure(hit: re.Match[str], before: str, after: str) -> Figure:
    unit = {"percent": "%", "x": "\u00d7"}.get(hit["unit"] or "", hit["unit"] or "")
    digits = re.sub(r"[\s\u202f]", "", hit["number"])
    digits = digits.replace(",", "") if re.search(r",\d{3}", digits) else digits.replace(",", ".")
    lead = _short(before)
    label = after.strip(" .,:()")
    starts_loose = not label or label.split()[0].casefold() in _STOP
    if starts_loose and lead:
        label = f"{lead} {label}".strip()
    label = re.sub(r"^(?:of|are|is|were|was|in|for)\s+(?:all\s+|the\s+)?", "", label)
    return Figure(
        text=(hit["sign"] + hit["number"]).strip(),
        unit=unit,
        value=float(digits),
        label=_capital(label),
    )


def _short(text: str) -> str:
    """Return a phrase without the stop words at its ends."""
    words = text.strip(" .!?:()\"'").split()
    while words and words[0].casefold() in _STOP:
        words.pop(0)
    while words and words[-1].casefold() in _STOP:
        words.pop()
    return " ".join(words)


def _phrases(text: str) -> list[str]:
    """Return the runs of words between stop words and marks."""
    found, held = [], list[str]()
    for token in re.findall(r"[\w'\u2019/+#.-]*\w|[^\w\s]", text):
        if token.casefold() in _STOP or not token[-1].isalnum():
            found.append(" ".join(held[:3]))
            held = []
        else:
            held.append(token)
    found.append(" ".join(held[:3]))
    return [phrase for phrase in found if len(phrase) > 2]  # noqa: PLR2004 - a word


def _unique(items: list[str]) -> list[str]:
    """Return the items that are not empty, once each, whatever their case."""
    return list({item.casefold(): _capital(item) for item in reversed(items) if item}.values())[
        ::-1
    ]


def _capital(text: str) -> str:
    """Return `text` with its first letter in upper case, unless its spelling is deliberate."""
    head = text.split(" ", 1)[0]
    return text if head[1:] != head[1:].lower() else text[:1].upper() + text[1:]
