#!/usr/bin/env python3
"""Make the corpus that ships with grainline out of freely licensed Debian packages.

    python scripts/make_corpus.py [--packages FOLDER]

Packages that are not yet in FOLDER are fetched with `apt-get download`: Debian 12, the versions in PACKAGES. What its
mirrors no longer have is kept at snapshot.debian.org. The same packages give the same bytes: documents are cleaned,
deduplicated, ordered by the hash of their text, and cut to a budget per source. Needs only Python's standard library,
apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

OUT = Path(__file__).parent.parent / "src" / "grainline" / "data" / "corpus"
SMALLEST, LARGEST = 600, 40_000  # bytes of a document

WESNOTH = "1:1.16.9-1"
CAMPAIGNS = "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs"
PACKAGES = {
    "debian-handbook": "11.20220922",
    "r-cran-janeaustenr": "1.0.0-1",
    "cfi-en": "3.0-10.2",
    "sword-text-web": "426.0-1",
    "sword-text-sparv": "2.60-1",
    "libpython3.11-stdlib": "3.11.2-6+deb12u9",
    "libpython3.11-minimal": "3.11.2-6+deb12u9",
    "wesnoth-1.16-data": WESNOTH,
    **{f"wesnoth-1.16-{c}": WESNOTH for c in CAMPAIGNS.split()},
}

# part → name of the language in the Debian handbook and in Wesnoth
LANGUAGES = {
    "en": ("en-US", None),
    "de": ("de-DE", "de"),
    "fr": ("fr-FR", "fr"),
    "es": ("es-ES", "es"),
    "ru": ("ru-RU", "ru"),
    "ja": ("ja-JP", "ja"),
    "zh": ("zh-CN", "zh_CN"),
    "fa": ("fa-IR", None),
}

Document = tuple[str, str]  # name, text


# --- packages ---------------------------------------------------------------------------------------------------------


def unpack(packages: Path) -> Path:
    """Fetches what is missing, and unpacks every package below one root."""
    packages.mkdir(parents=True, exist_ok=True)
    root = packages / "root"
    for name, version in PACKAGES.items():
        pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
        if not list(packages.glob(pattern)):
            subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=packages, check=True)
        (archive,) = packages.glob(pattern)
        subprocess.run(["dpkg-deb", "-x", str(archive.resolve()), str(root)], check=True)
    return root


# --- marked-up text to plain paragraphs -------------------------------------------------------------------------------

BLOCKS = {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "pre"}
COMMON_ENGLISH = {"the", "and", "of", "to", "is", "are", "that", "it", "you", "your", "for", "with", "be", "this"}
CJK = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"


def squeeze(text: str) -> str:
    """One line: runs of white space become a space, or nothing between two CJK characters."""
    text = re.sub(rf"(?<=[{CJK}])\s*\n\s*(?=[{CJK}])", "", text)
    return re.sub(r"\s+", " ", text).strip()


class Paragraphs(HTMLParser):
    """Paragraphs of an HTML page, without its navigation, tables and indexes.

    `paragraphs` holds (text, is prose): verbatim blocks, such as terminal output, are not prose.
    """

    SKIP_TAGS: ClassVar = {"head", "script", "style", "table"}
    SKIP_CLASSES: ClassVar = {"docnav", "toc", "index", "footnotes", "indexterm"}
    SKIP_IDS: ClassVar = {"banner", "title"}
    VOID: ClassVar = {"br", "img", "hr", "meta", "link", "input", "col"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[tuple[str, bool]] = []
        self._text: list[str] = []
        self._open: list[tuple[str, bool, bool]] = []  # tag, skipped, verbatim
        self._bullet = ""

    def _inside(self, which: int) -> bool:
        return any(element[which] for element in self._open)

    def _flush(self) -> None:
        verbatim = self._inside(2)
        text = "".join(self._text)
        self._text.clear()
        text = text.strip("\n").rstrip() if verbatim else squeeze(text)
        if text.strip():
            self.paragraphs.append((text if verbatim else self._bullet + text, not verbatim))
            self._bullet = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            if tag == "br":
                self._text.append("\n")
            return
        if tag in BLOCKS and not self._inside(1):
            self._flush()
            if tag == "li":
                self._bullet = "- "
        attributes = dict(attrs)
        classes = set((attributes.get("class") or "").split())
        skipped = tag in self.SKIP_TAGS or bool(classes & self.SKIP_CLASSES) or attributes.get("id") in self.SKIP_IDS
        self._open.append((tag, skipped, tag == "pre"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not any(element[0] == tag for element in self._open):
            return
        if (tag in BLOCKS or self._open[-1][2]) and not self._inside(1):
            self._flush()
        while self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._inside(1):
            self._text.append(data)

    def close(self) -> None:
        super().close()
        self._flush()


def paragraphs(markup: str) -> list[tuple[str, bool]]:
    parser = Paragraphs()
    parser.feed(markup)
    parser.close()
    return parser.paragraphs


def looks_english(text: str) -> bool:
    words = re.findall(r"[A-Za-z']+", text)
    common = sum(word.lower() in COMMON_ENGLISH for word in words)
    return len(words) >= 8 and common >= 0.15 * len(words)


# --- the sources ------------------------------------------------------------------------------------------------------


def handbook(root: Path, part: str) -> Iterator[Document]:
    """*The Debian Administrator's Handbook*, a section per document, less what its translation has left in English."""
    base = root / "usr/share/doc/debian-handbook/html"
    for path in sorted((base / LANGUAGES[part][0]).glob("*.html")):
        if path.stem in ("index", "ix01"):
            continue
        found = paragraphs(path.read_text(encoding="utf-8"))
        if part != "en":
            original = {text for text, _ in paragraphs((base / "en-US" / path.name).read_text(encoding="utf-8"))}
            kept = [
                (text, prose) for text, prose in found if not prose or not (text in original or looks_english(text))
            ]
            if len(kept) < 0.6 * len(found):
                continue
            found = kept
        yield f"debian-handbook/{path.stem}", "\n\n".join(text for text, _ in found)


def essays(root: Path, part: str) -> Iterator[Document]:
    """Linus Walleij, *Copyright Does Not Exist*, a chapter per document."""
    for path in sorted((root / "usr/share/doc/cfi-en/html").glob("*web.htm")):
        markup = re.sub(r"</?(table|tr|td|tbody|center)\b[^>]*>", "", path.read_text(encoding="latin-1"), flags=re.I)
        found = [text for text, _ in paragraphs(markup.replace("\r", ""))]
        yield f"cfi-en/{path.stem}", "\n\n".join(text for text in found if text != "INDEX")


def austen(root: Path, part: str) -> Iterator[Document]:
    """Novels as R character vectors of lines, in R's lazy-load format: 4 bytes of length and a zlib stream each."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        stream = zlib.decompressobj()
        serialized = stream.decompress(data[4:])
        data = stream.unused_data
        lines = _r_strings(serialized)
        novel = squeeze(lines[0]).title()
        chapters = re.split(r"\n(?=chapter [\divxlc]+\b)", "\n".join(lines), flags=re.I)
        for number, chapter in enumerate(chapters[1:], start=1):
            text = re.sub(r"_(.+?)_", r"\1", chapter, flags=re.S)  # the transcribers' italics
            text = re.split(r"\n(?:volume [ivx]+|the end|finis)\b", text, flags=re.I)[0]
            yield f"austen/{novel}/{number}", "\n\n".join(squeeze(p) for p in re.split(r"\n\s*\n", text) if p.strip())


def _r_strings(serialized: bytes) -> list[str]:
    """The one character vector in an R object serialised as XDR, version 3."""
    position = 14 + 4 + struct.unpack_from(">i", serialized, 14)[0]  # after the header and the native encoding
    kind, count = struct.unpack_from(">ii", serialized, position)
    if kind & 0xFF != 16:
        raise ValueError(f"expected a character vector (16), found type {kind & 0xFF}")
    position += 8
    strings = []
    for _ in range(count):
        length = struct.unpack_from(">i", serialized, position + 4)[0]
        strings.append(serialized[position + 8 : position + 8 + length].decode("utf-8"))
        position += 8 + length
    return strings


def bible(root: Path, part: str) -> Iterator[Document]:
    """Chapters of a SWORD module: zlib blocks, a book each, with OSIS markup."""
    module = {"en": "engWEB2015eb", "es": "spaRV1909eb"}[part]
    for testament in ("ot", "nt"):
        base = root / "usr/share/sword/modules/texts/ztext" / module / testament
        blocks, compressed = base.with_suffix(".bzs").read_bytes(), base.with_suffix(".bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", blocks):
            book = zlib.decompress(compressed[offset : offset + size]).decode("utf-8")
            book = re.sub(r"<note\b.*?</note>", "", book, flags=re.S)
            for chapter in re.split(r"(?=<chapter n=)", book)[1:]:
                name = re.match(r'<chapter [^>]*osisID="([^"]+)"', chapter)[1]  # type: ignore[index]
                chapter = re.sub(r"<title\b.*?</title>", "", chapter, flags=re.S)
                chapter = re.sub(r"<(?:div|lg|l|p)\b[^>]*sID=[^>]*>", "\n\n", chapter)
                text = unescape(re.sub(r"<[^>]+>", "", chapter))
                yield f"{module}/{name}", "\n\n".join(squeeze(p) for p in re.split(r"\n\s*\n", text) if p.strip())


def wesnoth(root: Path, part: str) -> Iterator[Document]:
    """The Battle for Wesnoth's stories, told in the order of their scenario files, and its descriptions of units."""
    base = root / "usr/share/games/wesnoth/1.16"
    files = sorted((base / "data/campaigns").rglob("*.cfg"))
    files += sorted((base / "data/core/units").rglob("*.cfg"))
    catalogs: dict[str, dict[str, str]] = {}
    gathered: dict[str, list[str]] = {}
    for path in files:
        domain = "wesnoth"
        relative = path.relative_to(base / "data")
        story = relative.parent if "units" in relative.parts else relative.with_suffix("")
        told = gathered.setdefault(str(story), [])
        for match in re.finditer(r'#textdomain ([\w-]+)|_\s*"((?:[^"]|"")*)"', path.read_text(encoding="utf-8")):
            if match[1]:
                domain = match[1]
                continue
            original = match[2].replace('""', '"')
            text = original
            if LANGUAGES[part][1]:
                mo = base / "locale" / str(LANGUAGES[part][1]) / "LC_MESSAGES" / f"{domain}.mo"
                if domain not in catalogs:
                    catalogs[domain] = _messages(mo) if mo.exists() else {}
                text = catalogs[domain].get(original, "")
            text = re.sub(r"</?[a-z][^>]*>", "", text.split("^", 1)[-1])
            if len(original) >= 40 and text and not re.search(r"[$<>|{}]", text):
                told.append("\n\n".join(squeeze(p) for p in re.split(r"\n\s*\n", text) if p.strip()))
    for name, told in gathered.items():
        yield f"wesnoth/{name}", "\n\n".join(dict.fromkeys(told))


def _messages(path: Path) -> dict[str, str]:
    """A GNU gettext catalogue: message → translation."""
    data = path.read_bytes()
    count, originals, translations = struct.unpack_from("<III", data, 8)

    def string(table: int, i: int) -> str:
        length, offset = struct.unpack_from("<II", data, table + 8 * i)
        return data[offset : offset + length].decode("utf-8")

    return {string(originals, i): string(translations, i) for i in range(count)}


def python(root: Path, part: str) -> Iterator[Document]:
    """Python's standard library, a module per document, less its tests, tables and generated modules."""
    base = root / "usr/lib/python3.11"
    for path in sorted(base.rglob("*.py")):
        name = path.relative_to(base).as_posix()
        if not re.match(r"(lib2to3|encodings|pydoc_data|test|_sysconfigdata|config-)|.*(/tests?/|turtledemo)", name):
            yield f"python/{name}", path.read_text(encoding="utf-8")


Source = Callable[[Path, str], Iterator[Document]]
TOLD_EVERYWHERE: dict[Source, int] = {handbook: 1_000_000, wesnoth: 1_800_000}
SOURCES: dict[str, dict[Source, int]] = {  # with the bytes of text taken at most from each
    "en": {austen: 2_100_000, essays: 1_000_000, bible: 400_000, **TOLD_EVERYWHERE},
    "de": TOLD_EVERYWHERE,
    "fr": TOLD_EVERYWHERE,
    "es": {bible: 900_000, **TOLD_EVERYWHERE},
    "ru": TOLD_EVERYWHERE,
    "ja": TOLD_EVERYWHERE,
    "zh": TOLD_EVERYWHERE,
    "fa": {handbook: 1_000_000},
    "code": {python: 2_200_000},
}


# --- putting it together ----------------------------------------------------------------------------------------------


def pieces(documents: Iterable[Document]) -> Iterator[Document]:
    """Documents of SMALLEST to LARGEST bytes: longer ones are cut between paragraphs into equal pieces."""
    for name, text in documents:
        text = text.replace("\xa0", " ").replace("\xad", "").strip() + "\n"
        size = len(text.encode("utf-8"))
        target = size / -(-size // LARGEST)
        piece: list[str] = []
        so_far = 0
        for paragraph in text.split("\n\n"):
            piece.append(paragraph)
            so_far += len(paragraph.encode("utf-8")) + 2
            if so_far >= target:
                yield name, "\n\n".join(piece)
                piece, so_far = [], 0
        if piece:
            yield name, "\n\n".join(piece)


def key(document: Document) -> bytes:
    return hashlib.blake2b(document[1].encode("utf-8"), digest_size=16).digest()


def assemble(root: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, object]] = {}
    for part, sources in SOURCES.items():
        chosen: dict[bytes, Document] = {}
        for source, budget in sources.items():
            taken = 0
            for document in sorted(pieces(source(root, part)), key=key):
                size = len(document[1].encode("utf-8"))
                if size < SMALLEST or key(document) in chosen:
                    continue
                if taken + size > budget:
                    break
                chosen[key(document)] = document
                taken += size
            print(f"{part} {source.__name__}: {taken / 1e6:.2f} MB")
        lines = [
            json.dumps({"text": text, "source": name}, ensure_ascii=False) for _, (name, text) in sorted(chosen.items())
        ]
        raw = ("\n".join(lines) + "\n").encode("utf-8")
        packed = lzma.compress(raw, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)
        (OUT / f"{part}.jsonl.xz").write_bytes(packed)
        text_bytes = sum(len(text.encode("utf-8")) for _, text in chosen.values())
        index[part] = {"documents": len(chosen), "bytes": text_bytes, "sha256": hashlib.sha256(raw).hexdigest()}
        print(f"{part}: {len(chosen)} documents, {text_bytes / 1e6:.2f} MB, {len(packed) / 1e6:.2f} MB compressed")
    (OUT / "index.json").write_text(json.dumps({"schema_version": 1, "parts": index}, indent=2) + "\n")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--packages", type=Path, default=Path("build/corpus-packages"), help="folder of .deb files")
    assemble(unpack(arguments.parse_args().packages))
