"""The whole analysis: what it finds where the truth is known, what it survives, and that every number is documented."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simulated

from gtvbench.reports.analysis.analysis import Results, analyse, as_json
from gtvbench.reports.analysis.descriptions import repetitions
from gtvbench.reports.analysis.models import models
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.analysis.volumes import agreement, paired_volumes, subgroups
from gtvbench.reports.run.load import read_run
from gtvbench.reports.statistics.ranking import kendall_tau_b

DOCUMENT = Path(__file__).parents[3] / "docs" / "stats-json.md"
QUICK = {"resamples": 1000}
BEST, NEXT = "nnunet-box.multimodal", "litemedsam-fine-tuned.multimodal"


def analysed(folder: Path) -> Results:
    run = read_run(folder)
    return analyse(run, wide_scores(run.scores))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """100 patients, eight arms, two structures, a few crashes, a fifth without nodes."""
    folder = tmp_path_factory.mktemp("known") / "run"
    return analysed(simulated.write_simulated_run(folder, seed=2, lack_last=0.2, failed=0.005, statistics=QUICK))


def test_the_true_order_is_found_under_every_scheme(known: Results) -> None:
    truth = sorted(simulated.EFFECTS, key=lambda arm: -simulated.EFFECTS[arm])
    for record in known.rankings:
        ranks = {name: pd.Series(held["ranks"], record["arms"])[truth] for name, held in record["schemes"].items()}
        what = (record["structure"], record["metric"], ranks)
        assert ranks["rank-then-mean"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8], what
        assert ranks["test-then-rank"].is_monotonic_increasing, what
        assert kendall_tau_b(ranks["median-then-rank"], range(8)) > 0.9, what
        held = record["schemes"]["rank-then-mean"]
        assert held["probability"][record["arms"].index(BEST)][0] > 0.9 and held["tau_b"][1] > 0.9
        assert record["friedman"]["p"] < 1e-10
    means = known.summary[(known.summary["metric"] == "dsc") & (known.summary["structure"] == "GTV-T")]
    assert means.sort_values("mean", ascending=False)["arm"].tolist() == truth


def test_the_planned_differences_have_their_sign_and_their_sample_size(known: Results) -> None:
    table = known.contrasts
    chosen = (table["one"] == BEST) & (table["other"] == NEXT) & (table["metric"] == "dsc")
    row = table[chosen & (table["structure"] == "GTV-T")].iloc[0]
    assert row["planned"] and row["difference"] > 0 and row["p_holm"] < 0.05 and row["family"] == 7
    assert row["low"] < row["low_90"] < row["difference"] < row["high_90"] < row["high"]
    assert row["detectable"] < row["margin"] if row["needed"] < row["n"] else row["detectable"] > row["margin"]


def test_one_method_under_two_names_is_no_difference_and_equivalent(tmp_path: Path) -> None:
    scores = simulated.simulated_scores(40, seed=4)
    mine = scores["arm"] == NEXT
    twin = scores[scores["arm"] == BEST]
    scores.loc[mine, ["value", "raw", "status"]] = twin[["value", "raw", "status"]].to_numpy()
    found = analysed(simulated.write_simulated_run(tmp_path / "run", 40, scores=scores, statistics=QUICK))
    pairs = found.contrasts[(found.contrasts["one"] == BEST) & (found.contrasts["other"] == NEXT)]
    assert len(pairs) == 4
    for row in pairs.to_dict("records"):
        assert (row["difference"], row["low"], row["high"], row["p"], row["p_holm"]) == (0, 0, 0, 1, 1)
        assert row["p_equivalence"] == 0 and row["superiority"] == 0.5 and row["interval"] == "constant"
        assert row["needed"] == 2
    for record in found.rankings:
        pair = {record["arms"].index(BEST), record["arms"].index(NEXT)}
        assert any(pair <= set(clique) for clique in record["cliques"])
        ranks = record["schemes"]["mean-then-rank"]["ranks"]
        assert len({ranks[k] for k in pair}) == 1


def test_intervals_say_how_they_were_made_and_both_models_are_fitted(known: Results) -> None:
    first = known.summary.iloc[0]
    assert first["mean_interval"] == "BCa" and first["median_interval"] == "order statistics"
    assert first["mean_low"] < first["mean"] < first["mean_high"]
    assert first["median_low"] <= first["median"] <= first["median_high"]
    assert (known.summary["n"] + known.summary["unscored"]).groupby(known.summary["structure"]).nunique().eq(1).all()
    both, size = known.model("dsc"), known.model("dsc", "GTV-N")
    assert both is not None and both.converged and both.structures == ("GTV-T", "GTV-N") and both.left_out == 0
    assert [test.df for test in both.tests] == [7, 1, 7, 1]
    best = next(e for e in both.effects if e.term == "method" and e.arm == BEST)
    assert best.low > 0 and best.wald_low > 0 and both.reference_arm == "box-fill"
    volume = next(e for e in both.effects if e.term == "log V_ref")
    assert volume.low > 0, "larger targets score higher in the simulation"
    assert size is not None and size.structures == ("GTV-N",) and size.tests[-1].term == "method x log V_ref"
    assert known.model("nsd") is None


def test_an_interaction_with_volume_is_found_where_there_is_one(tmp_path: Path) -> None:
    none = simulated.simulated_scores(60, simulated.NO_EFFECTS, ("GTV",), seed=1)
    some = none.copy()
    volume = none[none["metric"] == "reference_volume_ml"].drop_duplicates("case").set_index("case")["value"]
    mine = (none["arm"] == BEST) & (none["metric"] == "dsc")
    some.loc[mine, "value"] += 0.1 * (np.log(some.loc[mine, "case"].map(volume)) - 2.4)
    ps = []
    for k, scores in enumerate((some, none)):
        options = {**QUICK, "primary-metrics": ["dsc"]}
        folder = simulated.write_simulated_run(
            tmp_path / str(k), 60, structures=("GTV",), scores=scores, statistics=options
        )
        run = read_run(folder)
        wide = wide_scores(run.scores)
        _, model = models(run, wide)
        assert model.by_volume and model.tests[-1].term == "method x log V_ref"
        ps.append(model.tests[-1].p)
    assert ps[0] < 1e-4 and ps[1] > 0.05
    thirds = subgroups(run, wide)
    assert set(thirds["third"]) == {"small", "middle", "large"} and thirds.groupby("arm")["n"].sum().eq(60).all()


def test_an_empty_prediction_counts_in_millilitres_and_not_in_the_ratio(tmp_path: Path) -> None:
    scores = simulated.simulated_scores(30, seed=3)
    gone = (scores["arm"] == BEST) & scores["case"].isin(["SIM-001", "SIM-002"]) & (scores["structure"] == "GTV-T")
    scores.loc[gone, "status"] = "crashed"
    scores.loc[gone & (scores["metric"] == "volume_ml"), "value"] = np.nan
    run = read_run(simulated.write_simulated_run(tmp_path / "run", 30, scores=scores))
    points = paired_volumes(run, wide_scores(run.scores))
    table = agreement(points)
    rows = table[table["structure"] == "GTV-T"].set_index("arm")
    assert rows.loc[BEST, ["n", "n_ratio", "empty"]].tolist() == [30, 28, 2]
    assert rows.loc[NEXT, ["n", "n_ratio", "empty"]].tolist() == [30, 30, 0]
    assert rows.loc[BEST, "difference_low_ml"] < rows.loc[NEXT, "difference_low_ml"]
    assert 0.8 < rows.loc[BEST, "ratio"] < 1.2 and rows.loc[BEST, "icc"] < rows.loc[NEXT, "icc"] <= 1
    own = points[(points["arm"] == BEST) & (points["structure"] == "GTV-T")]
    assert own.set_index("patient")["predicted_ml"].loc["SIM-001"] == 0


def test_seeds_of_one_method_show_their_own_spread(tmp_path: Path) -> None:
    run = read_run(simulated.write_simulated_run(tmp_path / "run", 20, seeds=(1, 2, 3), statistics=QUICK))
    found = repetitions(run, wide_scores(run.scores))
    assert len(found) == 4 * 4, "four trained methods, two structures, two metrics"
    row = found.iloc[0]
    assert row["seeds"] == [1, 2, 3] and len(row["means"]) == 3 and row["patients"] == 20
    assert row["mean"] == pytest.approx(np.mean(row["means"]))
    assert row["sd_of_means"] == pytest.approx(np.std(row["means"], ddof=1))
    dsc = found[found["metric"] == "dsc"]
    assert (dsc["sd_patients"] > dsc["sd_seeds"]).all(), "seeds of the simulation differ by noise alone"


def test_primary_metrics_and_margins_are_those_of_the_study_file(tmp_path: Path) -> None:
    statistics = {**QUICK, "primary-metrics": ["nsd", "assd_mm"], "nsd-margin": 0.1, "assd-margin-mm": {"GTV-N": 2.5}}
    found = analysed(simulated.write_simulated_run(tmp_path / "run", 12, statistics=statistics))
    margins = found.contrasts.groupby(["structure", "metric"])["margin"].unique().map(list).to_dict()
    assert margins == {
        ("GTV-T", "nsd"): [0.1],
        ("GTV-N", "nsd"): [0.1],
        ("GTV-T", "assd_mm"): [1.0],
        ("GTV-N", "assd_mm"): [2.5],
    }
    better = found.contrasts[(found.contrasts["one"] == BEST) & (found.contrasts["metric"] == "assd_mm")]
    assert (better["difference"] < 0).any() and (better["p_non_inferiority"] < 0.05).all()
    assert {record["metric"] for record in found.rankings} == {"nsd", "assd_mm"}


def sound(results: Results) -> dict[str, Any]:
    """stats.json of the results, checked to be valid JSON without NaN."""
    content: dict[str, Any] = json.loads(json.dumps(as_json(results), allow_nan=False))
    return content


def one_arm(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["arm"] == BEST]


def one_patient(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["case"] == "SIM-001"]


def all_equal(scores: pd.DataFrame) -> pd.DataFrame:
    same = scores["metric"].map({"dsc": 0.8, "nsd": 0.8, "hd95_mm": 4.0, "assd_mm": 1.0})
    return scores.assign(value=same.fillna(scores["value"]))


def wholly_failed(scores: pd.DataFrame) -> pd.DataFrame:
    mine = scores["arm"] == BEST
    lost = scores["metric"].map({"dsc": 0.0, "nsd": 0.0, "hd95_mm": 292.0, "assd_mm": 292.0, "volume_ml": 0.0})
    return scores.assign(
        value=scores["value"].mask(mine & lost.notna(), lost), status=scores["status"].mask(mine, "crashed")
    )


def wholly_failed_without_penalty(scores: pd.DataFrame) -> pd.DataFrame:
    mine = scores["arm"] == BEST
    return scores.assign(value=scores["value"].mask(mine), status=scores["status"].mask(mine, "crashed"))


def never_there(scores: pd.DataFrame) -> pd.DataFrame:
    nodes = scores["structure"] == "GTV-N"
    volume = scores["metric"].str.contains("volume|tp_mm3")
    value = scores["value"].mask(nodes & volume, 0.0).mask(nodes & ~volume)
    return scores.assign(value=value, status=scores["status"].mask(nodes, "both_empty"))


def not_finite(scores: pd.DataFrame) -> pd.DataFrame:
    mine = (scores["arm"] == BEST) & scores["metric"].isin(["dsc", "hd95_mm"])
    value = scores["value"].mask(mine & (scores["case"] == "SIM-001"))
    return scores.assign(value=value.mask(mine & (scores["case"] == "SIM-002"), np.inf), raw=np.inf)


def no_volume(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[~scores["metric"].str.contains("volume")]


def rows_missing(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[(scores["arm"] != BEST) | ~scores["case"].isin(["SIM-001", "SIM-002"])]


BAD = (
    one_arm, one_patient, all_equal, wholly_failed, wholly_failed_without_penalty, never_there, not_finite, no_volume,
    rows_missing,
)  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_bad_tables_are_survived(change: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path) -> None:
    scores = change(simulated.simulated_scores(12, seed=5))
    found = analysed(simulated.write_simulated_run(tmp_path / "run", 12, scores=scores, statistics=QUICK))
    content = sound(found)
    if change is one_arm:
        assert content["contrasts"] == content["rankings"] == [] and len(content["summary"]) == 8
    if change is one_patient:
        assert all(row["p"] is None for row in content["contrasts"]) and content["rankings"] == []
        assert all(not model["converged"] and model["note"] for model in content["models"])
    if change is all_equal:
        assert all(row["p"] == 1 and row["difference"] == 0 for row in content["contrasts"])
        assert {row["mean_interval"] for row in content["summary"]} == {"constant"}
        assert {model["note"] for model in content["models"]} == {"did not converge: all scores are equal"}
    if change in (wholly_failed, wholly_failed_without_penalty):
        row = next(r for r in content["summary"] if r["arm"] == BEST and r["metric"] == "dsc")
        assert (row["n"], row["failed"], row["mean"], row["mean_interval"]) == (12, 12, 0, "constant")
        ranked = next(r for r in content["rankings"] if r["metric"] == "dsc")
        assert ranked["schemes"][0]["ranks"][ranked["arms"].index(BEST)] == 8
    if change is never_there:
        assert {row["structure"] for row in content["contrasts"]} == {"GTV-T"}
        assert [row["present_patients"] for row in content["flow"]] == [12, 0]
        assert all(model["structures"] == ["GTV-T"] for model in content["models"])
    if change in (not_finite, rows_missing):
        pairs = [r for r in content["contrasts"] if r["metric"] == "dsc"]
        for row in pairs:
            with_best = BEST in (row["one"], row["other"])
            assert (row["n"], row["left_out"]) == ((10, 2) if with_best else (12, 0))
        assert all((r["patients"], r["left_out"]) == (10, 2) for r in content["rankings"])
        assert content["flow"][0]["complete_patients"] == 10
    if change is no_volume:
        assert content["agreement"] == content["subgroups"] == content["trends"] == []
        assert all(model["note"] == "did not converge: no scores" for model in content["models"])
        assert len(content["rankings"]) == 4, "what needs no volume is there"


def test_names_with_odd_characters_are_names_like_any_other(tmp_path: Path) -> None:
    structures = ('GTV "T" <b>', "C(structure)[x]\n:`")
    effects = {"patient": 0.0, "arm": 0.3, "a'b\"; --": 0.1, "‮txet + score ~ 1": -0.4}
    folder = tmp_path / "run"
    scores = simulated.simulated_scores(12, effects, structures, seed=6)
    simulated.write_simulated_run(folder, 12, structures=structures, scores=scores, statistics=QUICK)
    records = [{"arm": name, "method": name, "fusion": "none", "seed": 1, "status": "complete"} for name in effects]
    (folder / "arms.json").write_text(json.dumps(records))
    content = sound(analysed(folder))
    assert content["arms"] == list(effects) and content["structures"] == list(structures)
    assert all(model["converged"] for model in content["models"] if model["metric"] == "dsc")
    assert len(content["contrasts"]) == 2 * 2 * 6


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Paths of every leaf: keys joined by a dot, `[]` for any place in a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list):
        yield from (path for item in value for path in paths(item, f"{prefix}[]"))
    else:
        yield prefix


def test_every_path_of_the_file_is_documented_and_every_documented_path_occurs(known: Results, tmp_path: Path) -> None:
    effects = {BEST: 0.5, "box-fill": 0.0}
    repeated = simulated.write_simulated_run(tmp_path / "run", 12, effects, seeds=(1, 2), statistics=QUICK)
    few = simulated.simulated_scores(8, seed=1)
    few = few[few["arm"].isin([BEST, NEXT])]
    two = simulated.write_simulated_run(tmp_path / "two", 8, scores=few, statistics=QUICK)
    found = {path for folder in (repeated, two) for path in paths(sound(analysed(folder)))} | {*paths(sound(known))}
    documented = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert sorted(found - set(documented)) == [] and sorted(set(documented) - found) == []
    assert f"schema {sound(known)['schema']}" in DOCUMENT.read_text(encoding="utf-8")
