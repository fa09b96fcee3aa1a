"""How firm the order of the arms is: ranks when other patients are drawn, and arms that cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gtvbench.bench.core.scores import MEASURES
from gtvbench.reports.analysis.contrasts import LEVEL, main_scheme
from gtvbench.reports.figures import static_charts
from gtvbench.reports.figures.ranking_figures import Diagram, RankMap
from gtvbench.reports.figures.violins import shorten
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.sentences import caveats
from gtvbench.reports.statistics.paired import smallest_p
from gtvbench.reports.tables import comparisons


def ranking(
    ranked: Sequence[Mapping[str, Any]], structures: Sequence[str], collected: Collected
) -> list[dict[str, Any]]:
    """For each structure: figures, a table and a sentence for each primary metric."""
    found = []
    for structure in structures:
        own = [record for record in ranked if record["structure"] == structure]
        if not own:
            continue
        parts = []
        for record in own:
            name = f"{MEASURES[record['metric']].short}-{structures.index(structure)}"
            parts.append(
                {
                    "figures": _figures(record, name, collected),
                    "tables": [
                        comparisons.ranking_table(record, f"ranking-{name}"),
                        comparisons.tau_table(record, f"tau-{name}"),
                    ],
                    "sentence": caveats.ranking(record),
                }
            )
        found.append({"structure": structure, "parts": parts})
    return found


def _figures(record: Mapping[str, Any], name: str, collected: Collected) -> list[Shown]:
    what = f"{record['structure']}, {MEASURES[record['metric']].title}"
    chosen = main_scheme(record["metric"])
    scheme = record["schemes"][chosen]
    order = sorted(range(len(record["arms"])), key=lambda k: (scheme["ranks"][k], record["arms"][k]))
    rows = tuple((shorten(record["arms"][k]), tuple(scheme["probability"][k])) for k in order)
    reading = (
        "Per cent of the patient resamples in which an arm has a rank, 1 best, when arms are ranked by their "
        f"{comparisons.SCHEME_NAMES[chosen]}; one "
        "dark square in a row is a firm rank."
    )
    drawn = RankMap(f"ranks-{name}", f"{what}: ranks when other patients are drawn", rows, reading)
    shown = [collected.figure(drawn.id, drawn.title, drawn.reading, partial(static_charts.rank_map, drawn))]
    pairs = len(order) * (len(order) - 1) // 2
    if smallest_p(record["patients"]) * pairs > LEVEL:
        return shown  # a bar over all arms would read as "all alike"; the sentence says why there is none
    place = {arm: k for k, arm in enumerate(sorted(range(len(order)), key=lambda k: (record["mean_ranks"][k], k)))}
    arms = tuple((shorten(record["arms"][k]), float(record["mean_ranks"][k])) for k in place)
    groups = tuple((place[clique[0]], place[clique[-1]]) for clique in record["cliques"])
    text = (
        "Mean rank over patients, 1 best; a bar joins arms that Wilcoxon's test with Holm over all pairs does not tell "
        f"apart{'' if groups else ': here it tells all apart'}."
    )
    diagram = Diagram(f"apart-{name}", f"{what}: mean ranks, and arms that cannot be told apart", arms, groups, text)
    shown.append(collected.figure(diagram.id, diagram.title, text, partial(static_charts.critical_difference, diagram)))
    return shown
