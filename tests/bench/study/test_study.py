from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gtvbench.bench.cli.main import app
from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.prepare.cases import prepare_key
from gtvbench.bench.study import registry
from gtvbench.bench.study.arms import plan_arms
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import Study, builtin_study, read_study
from gtvbench.datasets.phantom.source import Phantom

BASE = {
    "study": "s",
    "dataset": {"source": "phantom"},
    "structures": {"GTV-T": 1},
    "split": {"counts": {"train": 1, "test": 1}},
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(BASE | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promts": {}}, "promts: unknown key"),
        ({"split": {}}, "exactly one of counts"),
        ({"split": {"counts": {"training": 3}}}, "split"),
        ({"prompts": {"policy": "random-margin(20, 0)"}}, "margins"),
        ({"study": "../evil"}, "letters"),
        ({"dataset": {"path": "x"}}, "source"),
        ({"scoring": {"nsd-tolerance-mm": {"GTV-X": 1}}}, "GTV-X"),
        ({"statistics": {"hd95-margin-mm": {"GTV-X": 1}}}, "hd95-margin-mm names unknown structures: GTV-X"),
        ({"statistics": {"nsd-margin": {"GTV-T": 1.5}}}, "less than 1"),
        ({"statistics": {"primary-metrics": []}}, "at least 1 item"),
        ({"statistics": {"primary-metrics": ["dsc", "dsc"]}}, "each metric once"),
        ({"statistics": {"primary-metrics": ["dice"]}}, "primary-metrics"),
        ({"statistics": {"contrasts": [["a", "b"], ["b", "a"]]}}, "each pair of arms once"),
        ({"statistics": {"contrasts": [["a", "a"]]}}, "two different arms"),
        ({"methods": {"m": {"fusions": ["rgb"]}}}, "unknown fusion 'rgb'"),
        ({"methods": {"a.b": {}}}, "method name"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path / "s.yaml", **changes))


def test_margins_are_one_for_all_structures_or_one_a_structure(tmp_path: Path) -> None:
    found = read_study(write(tmp_path / "s.yaml")).statistics
    assert found.primary_metrics == ["dsc", "hd95_mm"] and found.resamples == 10_000
    assert {metric: found.margin(metric, "GTV-T") for metric in ("dsc", "hd95_mm", "nsd", "assd_mm")} == {
        "dsc": 0.05,
        "hd95_mm": 3.0,
        "nsd": 0.05,
        "assd_mm": 1.0,
    }
    study = read_study(write(tmp_path / "t.yaml", statistics={"hd95-margin-mm": {"GTV-T": 5}, "dsc-margin": 0.1}))
    chosen = read_study(_saved(tmp_path / "u.yaml", study.as_yaml())).statistics
    assert chosen == study.statistics and chosen.margin("dsc", "GTV-N") == 0.1
    assert (chosen.margin("hd95_mm", "GTV-T"), chosen.margin("hd95_mm", "GTV-N")) == (5.0, 3.0)


def _saved(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_settings_on_the_command_line_win_and_one_that_cannot_be_applied_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml")
    study = read_study(file, ["seed=5", "methods.box-fill.weights=mine.pth", "split.counts.test=3"])
    assert study.seed == 5
    assert study.split.counts == {"train": 1, "test": 3}
    assert study.methods["box-fill"].weights == "mine.pth"
    for override in ("seed", "=3", "seed=[", "study.x=1"):
        with pytest.raises(StudyError):
            read_study(file, [override])


def test_a_resolved_study_reads_back_as_itself_and_a_broken_file_is_named(tmp_path: Path) -> None:
    study = builtin_study()
    assert read_study(_saved(tmp_path / "study.yaml", study.as_yaml())) == study
    with pytest.raises(StudyError, match=r"nothing\.yaml"):
        read_study(tmp_path / "nothing.yaml")
    with pytest.raises(StudyError, match=r"broken\.yaml"):
        read_study(_saved(tmp_path / "broken.yaml", "a: ["))


def test_an_unknown_method_offers_the_nearest_name() -> None:
    with pytest.raises(StudyError, match="did you mean litemedsam-zero-shot"):
        registry.entry(registry.METHODS, "litemedsam-zeroshot")


def study(**changes: object) -> Study:
    return Study.model_validate(BASE | changes)


def test_the_studys_arms_are_method_times_fusion() -> None:
    names = ["box-ellipse", "box-fill", "litemedsam-fine-tuned", "litemedsam-zero-shot"]
    arms = plan_arms(study(), Path(), ["CT", "PET"], names)
    assert [arm.name for arm in arms if arm.skip is None] == [
        "box-ellipse",
        "box-fill",
        "litemedsam-fine-tuned.ct-only",
        "litemedsam-fine-tuned.multimodal",
        "litemedsam-zero-shot.ct-only",
        "litemedsam-zero-shot.multimodal",
    ]
    prompted = [arm for arm in arms if arm.adapter.startswith("litemedsam")]
    assert all(arm.weights_published == "lite_medsam.pth" for arm in prompted)


def test_a_fusion_that_the_data_cannot_serve_is_a_stated_skip() -> None:
    arms = plan_arms(study(), Path(), ["CT"], ["litemedsam-zero-shot"])
    assert {arm.fusion: arm.skip is None for arm in arms} == {"ct-only": True, "multimodal": False}


@pytest.mark.usefixtures("with_plugins")
def test_what_a_method_needs_and_the_data_or_the_version_lack_is_a_stated_skip_and_an_error_named() -> None:
    reasons = {
        "clicked.ct-only": "it takes prompts of the kind click; gtvbench draws box",
        "needs-pet.ct-only": "it needs PET, which the data do not have",
    }
    arms = {arm.name: arm.skip for arm in plan_arms(study(), Path(), ["CT"], ["all"])}
    assert {name: arms[name] for name in reasons} == reasons
    for name, reason in reasons.items():
        with pytest.raises(StudyError, match=reason):
            plan_arms(study(), Path(), ["CT"], [name.partition(".")[0]])
    cohort = open_cohort(
        study(dataset={"source": "phantom", "patients": 4}, split={"counts": {"train": 3, "test": 1}}), Path()
    )
    (served,) = plan_arms(study(), Path(), ["CT", "PET"], ["needs-pet"], cohort.split)
    assert served.skip is None
    with pytest.raises(StudyError, match="three patients"):
        plan_arms(study(), Path(), ["CT", "PET"], ["needs-pet"])


def test_missing_weights_are_a_skip_under_all_and_an_error_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTVBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("gtvbench.bench.study.weights._carried", lambda known: None)
    arms = {arm.name: arm for arm in plan_arms(study(), tmp_path, ["CT"], ["all"])}
    assert "lite_medsam.pth" in str(arms["litemedsam-zero-shot.ct-only"].skip)
    assert "predictions" not in arms
    with pytest.raises(StudyError, match="needs the setting folder"):
        plan_arms(study(), tmp_path, ["CT"], ["predictions"])
    with pytest.raises(BenchError, match=r"lite_medsam\.pth"):
        plan_arms(study(), tmp_path, ["CT"], ["litemedsam-zero-shot"])


def test_several_seeds_repeat_the_arms_that_train_only_and_a_name_is_no_seed() -> None:
    names = ["litemedsam-fine-tuned", "litemedsam-zero-shot", "box-fill"]
    arms = plan_arms(study(seeds=2), Path(), ["CT", "PET"], names)
    assert sum(arm.adapter == "litemedsam-fine-tuned" for arm in arms) == 4
    assert sum(arm.adapter == "litemedsam-zero-shot" for arm in arms) == 2
    methods = {"a": {"method": "box-fill"}, "b": {"method": "box-fill"}}
    one, other = plan_arms(study(methods=methods), Path(), ["CT"], ["a", "b"])
    assert one.seed(1) == other.seed(1) != one.seed(2)


def test_an_unknown_option_of_a_method_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match=r"epoch: unknown key; did you mean epochs\?"):
        plan_arms(study(methods={"litemedsam-fine-tuned": {"epoch": 3}}), Path(), ["CT"], ["all"])
    with pytest.raises(StudyError, match="ages: unknown key; it takes patients, "):
        open_cohort(study(dataset={"source": "phantom", "ages": 3}), Path())


@pytest.fixture
def half_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose method imports what is not there, and whose source is no source."""
    info = tmp_path / "half-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gtvbench.adapters]\nhalf = half:Method\n[gtvbench.datasets]\nhalf = half_source:Source\n"
    )
    (tmp_path / "half.py").write_text("import half_of_it\n")
    (tmp_path / "half_source.py").write_text("class Source:\n    description = 'half'\n    version = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("half_installed")
def test_a_package_that_cannot_be_imported_stops_nothing_but_itself() -> None:
    listed = CliRunner().invoke(app, ["list", "methods", "--json"])
    assert listed.exit_code == 0 and '"box-fill"' in listed.stdout
    assert "'half' (half:Method) cannot be imported: No module named 'half_of_it'" in listed.stderr
    arms = {arm.name: arm.skip for arm in plan_arms(study(), Path(), ["CT"], ["all"])}
    assert arms["box-fill"] is None and "No module named 'half_of_it'" in str(arms["half"])
    with pytest.raises(StudyError, match="cannot be imported"):
        plan_arms(study(), Path(), ["CT"], ["half"])
    with pytest.raises(StudyError, match="has no Options, synthetic, entries, modalities, read, findings"):
        open_cohort(study(dataset={"source": "half"}), Path())


def test_a_case_is_prepared_again_where_its_source_has_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        cohort = open_cohort(study(), Path())
        return [prepare_key(entry.identity, cohort.modalities, cohort.structures) for entry in cohort.used]

    before = keys()
    assert keys() == before
    monkeypatch.setattr(Phantom, "version", Phantom.version + 1)
    assert not set(before) & set(keys())
