"""The little Markdown that provenance files are written in, as HTML: headings, paragraphs, lists, tables, emphasis."""

from __future__ import annotations

import re

from grainline.quickstart.plot import esc


def to_html(markdown: str) -> str:
    """Everything is escaped first; what isn't one of these few forms stays text."""
    blocks = re.split(r"\n\s*\n", markdown.replace("\r\n", "\n").strip())
    return "\n".join(_block(block.strip("\n")) for block in blocks if block.strip())


def _block(block: str) -> str:
    lines = [line.strip() for line in block.split("\n")]
    heading = re.fullmatch(r"#{1,6}\s+(.*)", lines[0])
    if heading:
        rest = "\n".join(lines[1:])
        return f"<h3>{_inline(heading[1])}</h3>" + (_block(rest) if rest else "")
    if len(lines) > 1 and all(line.startswith("|") for line in lines) and re.fullmatch(r"[|:\-\s]+", lines[1]):
        head, body = _row(lines[0], "th"), "".join(_row(line, "td") for line in lines[2:])
        return f'<div class="scroll"><table class="text"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    if lines[0].startswith("- "):
        items = re.split(r"\n- ", "\n".join(lines).removeprefix("- "))
        return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
    return f"<p>{_inline(chr(10).join(lines))}</p>"


def _row(line: str, tag: str) -> str:
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"<code>{esc(p[1:-1])}</code>" if re.fullmatch(r"`[^`]+`", p) else _emphasis(p) for p in parts)


def _emphasis(text: str) -> str:
    text = re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<b>\1</b>", esc(text), flags=re.DOTALL)
    return re.sub(r"(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])", r"<em>\1</em>", text)
