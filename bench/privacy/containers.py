"""The texts in a file, whatever it is wrapped in: archives, compressed streams, tables, pictures' metadata, base64."""

from __future__ import annotations

import base64
import binascii
import gzip
import html
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote

#: Wrappings within wrappings that are opened, and bytes that one of them may unfold to.
DEEPEST = 6
LARGEST = 1 << 30
#: In `where` of `texts`: what follows says why the wrapping before it could not be opened.
CLOSED = "/!"

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]|\\u002[bB]|\\/){16,}={0,2}")
_BLOB = re.compile(r"[A-Za-z0-9+/]{400,}={0,2}")
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\n?endstream", re.DOTALL)
_SHOWN = re.compile(r"\[((?:\((?:\\.|[^()\\])*\)|[-\d.\s])*)\]\s*TJ")
_STRING = re.compile(r"\(((?:\\.|[^()\\])*)\)")
_NOT_ASCII = re.compile(rb"[^\x20-\x7e]")
_HEX = re.compile(rb"<((?:[0-9A-Fa-f]{2}){2,})>")


def texts(data: bytes, where: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(how it is wrapped, text) of everything in `data` that can be read as text."""
    if not data:
        return
    if depth > DEEPEST:
        yield from _closed(where, "wrapped too deep")
        return
    if data.startswith(b"PK\x03\x04"):
        yield from _archive(data, where, depth)
    elif data.startswith(b"\x1f\x8b"):
        yield where, _latin(data[:512])  # the name of the file that was packed
        plain = _gunzip(data)
        yield from (
            texts(plain, f"{where}/gzip", depth + 1) if plain is not None else _closed(where, "damaged or too large")
        )
    elif data.startswith(b"PAR1"):
        yield from _table(data, where, depth)
    elif data.startswith(b"\x89PNG"):
        yield from _png(data, where, depth)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        yield from _webp(data, where, depth)
    elif data.startswith(b"%PDF"):
        yield from _pdf(data, where)
    elif data[:1] == b"\x78" and (inflated := _inflate(data)):
        yield from texts(inflated, f"{where}/zlib", depth + 1)
    else:
        yield from _plain(data, where, depth)


def _plain(data: bytes, where: str, depth: int) -> Iterator[tuple[str, str]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        yield where, _latin(data)
        # A byte that happens to stand before a word is no letter of it.
        yield where, _NOT_ASCII.sub(b" ", data).decode("ascii")
        for how, gap in (("utf-16", b"\0"), ("utf-32", b"\0\0\0")):
            wide = re.findall(rb"(?:[\x20-\x7e\xa0-\xff]" + gap + rb"){4,}", data)
            yield f"{where}/{how}", "\n".join(_latin(part.replace(b"\0", b"")) for part in wide)
        return
    bare = _BLOB.sub(" ", text)
    yield where, bare
    for how, other in (("html", html.unescape(bare)), ("url", unquote(bare)), ("escapes", _unescaped(bare))):
        if other != bare:
            yield f"{where}/{how}", other
    for match in _BASE64.finditer(text):
        found = _from_base64(match.group())
        if found:
            yield from texts(found, f"{where}/base64", depth + 1)


def _from_base64(text: str) -> bytes:
    """The bytes of a run of base64, empty where it is none or holds neither text nor a known wrapping."""
    text = re.sub(r"\\u002[bB]", "+", text).replace("\\/", "/").rstrip("=")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"\x89PNG", b"RIFF", b"%PDF", b"\x78")):
        return data
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" or byte >= 128 for byte in data[:200])
    try:
        data[:200].decode("utf-8", "strict" if len(data) <= 200 else "ignore")
    except UnicodeDecodeError:
        return b""
    return data if printable >= 0.95 * min(len(data), 200) else b""


def _archive(data: bytes, where: str, depth: int) -> Iterator[tuple[str, str]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield where, _latin(archive.comment)
            for info in archive.infolist():
                inner = f"{where}/{info.filename}"
                yield inner, f"{info.filename} {_latin(info.comment)} {_latin(info.extra)}"
                if info.file_size > LARGEST:
                    yield from _closed(inner, "too large")
                    continue
                yield from texts(archive.read(info), inner, depth + 1)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, NotImplementedError, EOFError) as error:
        yield where, _latin(data)
        yield from _closed(where, type(error).__name__)


def _closed(where: str, why: str) -> Iterator[tuple[str, str]]:
    """Says that a wrapping could not be opened; bytes that only look like one, inside base64, are none."""
    if "/base64" not in where:
        yield f"{where}{CLOSED}{why}", ""


def _gunzip(data: bytes) -> bytes | None:
    """What is packed; None where it is damaged or too large to be searched whole."""
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error):
        return None
    return plain if len(plain) <= LARGEST else None


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, LARGEST)
    except zlib.error:
        return b""


def _table(data: bytes, where: str, depth: int) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
        metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        yield where, _latin(data)
        yield from _closed(where, "no table")
        return
    for key, value in metadata.items():
        if key != b"ARROW:schema":
            yield from texts(key + b" " + value, f"{where}/metadata", depth + 1)
    for name in table.column_names:
        values = table.column(name).unique().to_pylist()
        yield f"{where}/column", "\n".join([name, *(str(value) for value in values if value is not None)])


def _png(data: bytes, where: str, depth: int) -> Iterator[tuple[str, str]]:
    place = 8
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        chunk = data[place + 8 : place + 8 + size]
        place += size + 12
        if kind not in (b"IHDR", b"IDAT", b"PLTE"):
            yield f"{where}/metadata", _latin(chunk)
            _, _, packed = chunk.partition(b"\0")
            for start in (packed[1:], packed[2:].split(b"\0", 2)[-1]):
                if start[:1] == b"\x78" and (plain := _inflate(start)):
                    yield from texts(plain, f"{where}/metadata", depth + 1)
            yield f"{where}/metadata", chunk.decode("utf-8", "replace")
    yield f"{where}/end", _latin(data[place:])


def _webp(data: bytes, where: str, depth: int) -> Iterator[tuple[str, str]]:
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
        if kind not in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF", b"ANIM"):
            yield from texts(chunk, f"{where}/metadata", depth + 1)
    yield f"{where}/end", _latin(data[place:])


def _pdf(data: bytes, where: str) -> Iterator[tuple[str, str]]:
    bodies = [data] + [_inflate(part) or part for part in _STREAM.findall(data)]
    for body in bodies:
        text = _latin(body)
        yield f"{where}/stream", text
        # Kerning cuts words into strings: [(Do) 12 (e)] TJ
        shown = ["".join(_STRING.findall(match)) for match in _SHOWN.findall(text)]
        coded = [bytes.fromhex(part.decode()).replace(b"\xfe\xff", b"") for part in _HEX.findall(body)]
        if shown or coded:
            yield f"{where}/shown", "\n".join([*shown, *(_latin(part).replace("\0", "") for part in coded)])


def _unescaped(text: str) -> str:
    """JSON's and JavaScript's escapes undone, as far as they hide letters and slashes."""
    plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m.group(1), 16)), text)
    return plain.replace("\\/", "/")


def _latin(data: bytes) -> str:
    return data.decode("latin-1")
