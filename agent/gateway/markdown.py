"""Our own pages of documentation as HTML: the small part of Markdown that they use.

Everything is escaped first, so that nothing in a page can become script. Must not read files.
"""

import html
import re
from collections.abc import Iterator
from typing import Final

_HEADING: Final = re.compile(r"(#{1,6}) (.+)")
_ITEM: Final = re.compile(r"(?:[-*]|\d+\.) (.*)")
_NUMBERED: Final = re.compile(r"\d+\. ")
_FENCE: Final = "```"
_CODE: Final = re.compile(r"(`[^`]+`)")
_BOLD: Final = re.compile(r"\*\*([^*]+)\*\*")
_LINK: Final = re.compile(r"\[([^\]]+)\]\(((?:https?://|#|/)[^)\s]*)\)")
_OTHER_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)\s]*\)")
_RULE: Final = re.compile(r"\|?[ :|-]+\|?")
_NOT_IN_ID: Final = re.compile(r"[^a-z0-9_]+")


def render(text: str) -> str:
    """Return a page as HTML. A heading has its words as its id, and an id for each code in it."""
    return "\n".join(_blocks(text.splitlines()))


def anchor(title: str) -> str:
    """Return the id of a heading: its words in lower case, joined by dashes."""
    return _NOT_IN_ID.sub("-", title.lower()).strip("-")


def _blocks(lines: list[str]) -> Iterator[str]:
    """Cut the page where a line begins something else."""
    place = 0
    while place < len(lines):
        line = lines[place]
        if not line.strip():
            place += 1
            continue
        end = _end(lines, place)
        yield _block(lines[place:end])
        place = end


def _end(lines: list[str], place: int) -> int:
    """Return where the block ends that begins at `place`."""
    first, end = lines[place], place + 1
    if first.startswith(_FENCE):
        while end < len(lines) and not lines[end].startswith(_FENCE):
            end += 1
        return min(end + 1, len(lines))
    if _HEADING.match(first):
        return end
    while end < len(lines) and lines[end].strip() and not _begins(lines[end], first):
        end += 1
    return end


def _begins(line: str, first: str) -> bool:
    """Tell whether a line begins another block than the one that `first` began."""
    if _HEADING.match(line) or line.startswith(_FENCE):
        return True
    return bool(_ITEM.match(line)) and not _ITEM.match(first)


def _block(lines: list[str]) -> str:
    first = lines[0]
    if first.startswith(_FENCE):
        body = [line for line in lines[1:] if not line.startswith(_FENCE)]
        return f"<pre><code>{html.escape(chr(10).join(body))}</code></pre>"
    if heading := _HEADING.match(first):
        level, title = len(heading[1]), heading[2]
        spans = "".join(
            f'<span id="{html.escape(anchor(code.strip("`")))}"></span>'
            for code in _CODE.findall(title)
            if anchor(code) != anchor(title)
        )
        return f'<h{level} id="{anchor(title)}">{spans}{_inline(title)}</h{level}>'
    if _ITEM.match(first):
        return _list(lines)
    if first.startswith("|"):
        return _table(lines)
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _list(lines: list[str]) -> str:
    """A line that begins no item goes on with the one before."""
    items: list[str] = []
    for line in lines:
        item = _ITEM.match(line.lstrip())
        if item:
            items.append(item[1])
        else:
            items[-1] += f" {line.strip()}"
    kind = "ol" if _NUMBERED.match(lines[0]) else "ul"
    inner = "".join(f"<li>{_inline(item)}</li>" for item in items)
    return f"<{kind}>{inner}</{kind}>"


def _table(lines: list[str]) -> str:
    rows = [_cells(line) for line in lines if not _RULE.fullmatch(line.strip())]
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _inline(text: str) -> str:
    """Code stays as it is; elsewhere bold and links. Only links that lead somewhere here are."""
    return "".join(
        f"<code>{html.escape(part.strip('`'))}</code>" if _CODE.fullmatch(part) else _words(part)
        for part in _CODE.split(text)
    )


def _words(text: str) -> str:
    text = html.escape(text)
    text = _LINK.sub(r'<a href="\2">\1</a>', text)
    text = _OTHER_LINK.sub(r"\1", text)
    return _BOLD.sub(r"<strong>\1</strong>", text)
