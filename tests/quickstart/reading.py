"""What a browser would see in a page: tags, attributes, and the text of chosen elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    """A tag with its attributes, children and text."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", css: str = "") -> list[Element]:
        """Every element below, in order, of this tag and class."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if (not tag or child.tag == tag) and (not css or css in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(tag, css)
        return found

    @property
    def text(self) -> str:
        """All text below."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """The page as a tree; an AssertionError where tags don't nest."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, f"<{parser.open[-1].tag}> is never closed"
    return parser.open[0]


def table_rows(table: Element) -> list[list[str]]:
    """Cells of a table, heading first; a bold cell is marked with a star."""
    return [
        [cell.text.strip() + ("*" if cell.all("b") else "") for cell in row.children if isinstance(cell, Element)]
        for row in table.all("tr")
    ]
