"""Searches the shareable part of a run folder for what must not be in it (docs/privacy.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.core.errors import StoreError, why
from gtvbench.bench.privacy.containers import CLOSED, texts
from gtvbench.bench.privacy.policy import shareable_files
from gtvbench.bench.privacy.terms import Term, words_of

_UID = re.compile(r"\d+(?:\.\d+){3,}")
_DIGITS = re.compile(r"(?<![\d.])\d{6,}(?:\.\d+)?")
#: Coordinates and times: any six digits of an ID are the fraction of one of them sooner or later.
_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.]*\w)", re.IGNORECASE)
_SPLIT_DATE = re.compile(r"(?<!\d)(\d{4}|\d{1,2})([-./])(\d{1,2})\2(\d{4}|\d{1,2})(?!\d)")
_SPLIT_TIME = re.compile(r"(?<!\d)(\d{2}):(\d{2}):(\d{2})(?!\d)")


@dataclass(frozen=True, order=True)
class Leak:
    """A term found: the file (POSIX path in the run folder), how it is wrapped there, and what it is."""

    file: str
    where: str
    kind: str
    value: str


def search_run(run: Path, terms: Iterable[Term | str]) -> list[Leak]:
    """All places in the shareable part of a run folder that hold one of the terms, sorted; file names are searched too.

    A plain string is looked for word by word, whatever it is.
    Raises StoreError where this is no run folder, or a file of it cannot be read.
    """
    if not (run / "run.json").is_file():
        raise StoreError("this is no run folder", file=run, remedy="give the folder that 'bench run' wrote")
    finder = Finder(Term("text", term) if isinstance(term, str) else term for term in terms)
    leaks: set[Leak] = set()
    for path in shareable_files(run):
        name = path.relative_to(run).as_posix()
        leaks |= {Leak(name, "/name", term.kind, term.value) for term in finder.find(name)}
        try:
            target, data = (str(path.readlink()), b"") if path.is_symlink() else ("", path.read_bytes())
        except OSError as error:
            raise StoreError(f"a file of the run folder cannot be read: {why(error)}", file=path) from error
        leaks |= {Leak(name, "/link", term.kind, term.value) for term in finder.find(target)}
        for where, text in texts(data):
            if CLOSED in where:  # a search that could not look must not say that nothing is there
                inside, _, reason = where.partition(CLOSED)
                raise StoreError(
                    f"a file of the run folder cannot be searched ({reason}{f', in {inside[1:]}' if inside else ''})",
                    file=path,
                    remedy="remove the file, or make it anew by running the study again; share nothing before",
                )
            leaks |= {Leak(name, where or "/", term.kind, term.value) for term in finder.find(text)}
    return sorted(leaks)


class Finder:
    """Terms, ready to be looked for in any number of texts: as whole words, whatever their case and what is between."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self._uids: dict[str, Term] = {}
        self._dates: dict[str, Term] = {}
        self._times: dict[str, Term] = {}
        self._paths: list[tuple[re.Pattern[str], Term]] = []
        #: Terms that are written as a decimal number.
        self._decimals: set[str] = set()
        #: By the longest word of a term: the place of that word in it, all its words, and the term.
        self._words: dict[str, list[tuple[int, list[str], Term]]] = {}
        for term in sorted(set(terms)):
            self._add(term)

    def _add(self, term: Term) -> None:
        if term.kind == "uid" and _UID.fullmatch(term.value):
            # A short one looks like a version.
            if term.value.count(".") >= 4 or len(term.value) >= 10:
                self._uids[term.value] = term
        elif term.kind == "date":
            self._dates[term.value] = term
        elif term.kind == "time":
            self._times[term.value] = term
        elif term.kind == "path":
            self._paths.append((re.compile(rf"(?<![\w.~-]){re.escape(term.value)}(?![\w-])", re.IGNORECASE), term))
        else:
            if _DECIMAL.fullmatch(term.value):
                self._decimals.add(term.value)
            words = words_of(term.value)
            if words:
                place = max(range(len(words)), key=lambda at: (len(words[at]), at))
                self._words.setdefault(words[place], []).append((place, words, term))

    def find(self, text: str) -> set[Term]:
        """The terms that a text holds."""
        found = set(self._in_words(text)) | set(self._in_digits(text))
        found |= {self._uids[uid] for uid in _UID.findall(text) if uid in self._uids}
        found |= {term for pattern, term in self._paths if pattern.search(text)}
        return found

    def _in_words(self, text: str) -> Iterator[Term]:
        if not self._words:
            return
        words = words_of(_DECIMAL.sub(lambda number: number[0] if number[0] in self._decimals else " ", text))
        for place in [place for place, word in enumerate(words) if word in self._words]:
            for within, wanted, term in self._words[words[place]]:
                start = place - within
                if start >= 0 and words[start : start + len(wanted)] == wanted:
                    yield term

    def _in_digits(self, text: str) -> Iterator[Term]:
        for match in _DIGITS.finditer(text):
            digits = match.group()
            whole = digits.partition(".")[0]
            if whole[:8] in self._dates and len(whole) in (8, 12, 14):
                yield self._dates[whole[:8]]
            for time in {digits, whole, whole[8:]} & self._times.keys():
                # Six digits are many a number; they are a time where they say so, or have the same fraction.
                if (
                    "." in time
                    or len(whole) == 14
                    or re.search(r"(?i)time|\btm\b", text[max(0, match.start() - 16) : match.start()])
                ):
                    yield self._times[time]
        for first, _, middle, last in _SPLIT_DATE.findall(text):
            for date in _written(first, middle, last) & self._dates.keys():
                yield self._dates[date]
        clock = {"".join(parts) for parts in _SPLIT_TIME.findall(text)}
        for value, term in self._times.items() if clock else ():
            if value.partition(".")[0] in clock:
                yield term


def _written(first: str, middle: str, last: str) -> set[str]:
    """The dates (YYYYMMDD) that three numbers may stand for."""
    if len(first) == 4:
        return {f"{first}{middle:0>2}{last:0>2}"}
    return {f"{last}{middle:0>2}{first:0>2}", f"{last}{first:0>2}{middle:0>2}"} if len(last) == 4 else set()
