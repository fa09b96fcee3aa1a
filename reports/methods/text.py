"""The draft of a paper's methods section: what was done in a run, from its study file, provenance and arms.

Nothing is said that the run folder does not hold, and what the reader must be told of its limits is said. What a run
cannot know (scanners, observers, ethics) is listed for the authors to add.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.methods import arms, evaluation, study
from gtvbench.reports.methods.references import REFERENCES
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import MARK
from gtvbench.reports.text import latex, markdown


@dataclass(frozen=True)
class MethodsText:
    """Paragraphs (heading, text) in which citations are marked apart from the text; see `words.cite`."""

    marked: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the works cited, in the order of their first citation."""
        found = [key for _, text in self.marked for marks in MARK.findall(text) for key in marks.split(",")]
        return tuple(dict.fromkeys(found))

    @property
    def paragraphs(self) -> tuple[tuple[str, str], ...]:
        """Heading and plain text, with [key, key] where works are cited."""
        return tuple(
            (heading, MARK.sub(lambda m: f"[{m[1].replace(',', ', ')}]", text)) for heading, text in self.marked
        )

    @property
    def references(self) -> tuple[tuple[str, str], ...]:
        """Key and formatted reference of the works cited, in the order of their numbers."""
        return tuple((key, REFERENCES[key].formatted) for key in self.keys)

    @property
    def html(self) -> tuple[tuple[str, Markup], ...]:
        """Heading and text as HTML; citations are numbers that lead to the elements ref-<key>."""
        return tuple((heading, Markup("").join(self._html_parts(text))) for heading, text in self.marked)

    @property
    def as_markdown(self) -> str:
        """The section as Markdown: citations are numbers, the references a numbered list."""
        parts = ["# Methods\n"]
        for heading, text in self.marked:
            pieces = MARK.split(text)
            pieces[::2] = [markdown.escaped(piece) for piece in pieces[::2]]
            pieces[1::2] = [f"[{', '.join(map(str, self._numbers(marks)))}]" for marks in pieces[1::2]]
            parts.append(f"**{heading}.** {''.join(pieces)}\n")
        parts.append("# References\n")
        parts += [f"{number}. {markdown.escaped(text)}" for number, (_, text) in enumerate(self.references, start=1)]
        return "\n".join(parts) + "\n"

    @property
    def as_latex(self) -> str:
        r"""The section as LaTeX, with \cite for references.bib."""
        lines = ["% Needs references.bib: \\bibliographystyle{unsrt} \\bibliography{references}", r"\section*{Methods}"]
        for heading, text in self.marked:
            pieces = MARK.split(text)
            pieces[::2] = [latex.escaped(piece) for piece in pieces[::2]]
            pieces[1::2] = [rf"\cite{{{marks}}}" for marks in pieces[1::2]]
            lines.append(rf"\paragraph{{{latex.escaped(heading)}.}} {''.join(pieces)}".replace(" \\cite", "~\\cite"))
        return "\n\n".join(lines) + "\n"

    @property
    def bibtex(self) -> str:
        """The works cited as a .bib file."""
        return "\n".join(REFERENCES[key].bibtex for key in self.keys)

    def files(self) -> dict[str, str]:
        """The section and its references as files."""
        return {"methods.md": self.as_markdown, "methods.tex": self.as_latex, "references.bib": self.bibtex}

    def _numbers(self, marks: str) -> list[int]:
        return sorted(self.keys.index(key) + 1 for key in marks.split(","))

    def _html_parts(self, text: str) -> list[Markup]:
        pieces = MARK.split(text)
        found = [escape(piece) for piece in pieces]
        for place in range(1, len(pieces), 2):
            links = [
                Markup('<a href="#ref-{}">{}</a>').format(self.keys[number - 1], number)
                for number in self._numbers(pieces[place])
            ]
            found[place] = Markup("[{}]").format(Markup(", ").join(links))
        return found


def methods_text(run: FinishedRun) -> MethodsText:
    """The methods section of a run; paragraphs that have nothing to say are left out."""
    wide = wide_scores(run.scores)
    sections = (
        ("Patients", study.patients(run, wide)),
        ("Images", study.images(run)),
        ("Prompts", study.prompts(run)),
        ("Segmentation", arms.arms(run)),
        ("Metrics", evaluation.metrics(run)),
        ("Statistics", evaluation.statistics(run, wide)),
        ("Time", evaluation.time(run)),
        ("Software and hardware", evaluation.software(run)),
        ("Limitations", evaluation.limitations(run, wide)),
        ("Not recorded", study.not_recorded(run)),
    )
    return MethodsText(tuple((heading, re.sub(r"\s+", " ", " ".join(said))) for heading, said in sections if said))
