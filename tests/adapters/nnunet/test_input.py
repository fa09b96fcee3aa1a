"""What nnU-Net's network is really given: binary boxes, and no way from a test reference to it."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party imports of nnU-Net
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401

from gtvbench.adapters.base import Context
from gtvbench.adapters.nnunet import fitting, planning
from gtvbench.adapters.nnunet.boxes import box_channels, groups
from gtvbench.adapters.nnunet.dataset import DATASET, Layout, write_splits
from gtvbench.adapters.nnunet.method import NnunetBox
from gtvbench.adapters.nnunet.options import NnunetBoxOptions
from gtvbench.adapters.nnunet.predictor import Predictor
from gtvbench.adapters.nnunet.predictor import load as predictor_of
from gtvbench.adapters.nnunet.trainer import read_checkpoint
from gtvbench.bench.core.cases import CohortFacts, Images, TrainingCase
from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import draw_prompts, policy_from
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.core.timing import StageClock
from gtvbench.bench.files.nifti import write_volume

pytestmark = pytest.mark.filterwarnings("ignore")  # nnU-Net's own warnings

Cases = list[TrainingCase]
STRUCTURES = structures_from({"GTV-T": 1, "GTV-N": 4})
LAYOUT = Layout(("CT", "PET"), STRUCTURES, box_channels=1)
SMALL: dict[str, Any] = {
    "epochs": 2, "iterations": 2, "validation-iterations": 1, "gpu-memory-gb": 0.3, "foreground-voxels": 20_000,
    "save-every": 1, "mirroring": False,
}  # fmt: skip


def write_case(
    folder: Path,
    name: str,
    spacing: tuple[float, float, float],
    seed: int,
    shape: tuple[int, int, int] = (14, 40, 44),
) -> TrainingCase:
    """A prepared case with two structures that stand out in CT."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[4:9, 12:22, 10:21] = 1
    label[6:10, 24:31, 28:36] = 4
    grid = Grid(shape, spacing, (0.0, 0.0, 0.0))
    place = folder / "cases" / name
    for modality, noise in (("CT", 20.0), ("PET", 0.2)):
        volume = rng.normal(0, noise, shape) + 4 * noise * (label > 0)
        write_volume(volume.astype("<f4"), grid, place / f"{modality}.nii")
    (place / "case.json").write_text(json.dumps({"grid": grid.as_dict(), "modalities": ["CT", "PET"], "patient": name}))
    np.save(folder / f"{name}.npy", label)
    prompts = draw_prompts(name, label, spacing, STRUCTURES, policy_from("random-margin(0, 10)"), 1, 0)
    return TrainingCase(Images(name, place), folder / f"{name}.npy", prompts)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Spacings that vary, so that nnU-Net resamples."""
    folder = tmp_path_factory.mktemp("cohort")
    return [write_case(folder, f"c{k}", (3.0, 1.0 + 0.1 * k, 1.0 + 0.1 * k), k) for k in range(4)]


OPTIONS = NnunetBoxOptions.model_validate(SMALL)


@pytest.fixture(scope="module")
def prepared(cohort: Cases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nnU-Net's folders with the cohort exported, planned and preprocessed; nnU-Net is told of them."""
    root = tmp_path_factory.mktemp("prepared") / "nnunet"
    before = dict(os.environ)
    planning.set_environment(root, cores=1, workers=0, compile_network=None)
    voxels = fitting.export(root, LAYOUT, cohort[:3], cohort[3:], OPTIONS)
    planning.plan(root, OPTIONS, 1, voxels)
    planning.preprocess(root, OPTIONS.configuration, 1, voxels)
    yield root
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fit sets in the environment ends with the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def copied(prepared: Path, root: Path) -> Path:
    """A folder of a fit in which preprocessing is done, and of which nnU-Net is told."""
    shutil.copytree(prepared, root / "nnunet")
    planning.set_environment(root / "nnunet", cores=1, workers=0, compile_network=None)
    return root


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, dict[str, float]]] = []

    def ready(self) -> None:
        assert not self.rows

    def saved(self) -> None:
        pass

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        self.rows.append((epoch, train_loss, validation_loss, extra))


def trainer_on(prepared: Path, **changes: Any) -> Any:
    options = NnunetBoxOptions.model_validate(SMALL | changes)
    trainer = fitting._trainer(prepared, LAYOUT, options, Recorder(), 5, torch.device("cpu"), 0)
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("fresh", [False, True])
def test_the_box_channel_is_binary_in_every_patch_of_training_and_validation(prepared: Path, fresh: bool) -> None:
    trainer = trainer_on(prepared, **{"fresh-boxes": fresh})
    training, validation = trainer.get_dataloaders()
    covered, images = 0.0, []
    for source, batches in ((training, 12), (validation, 3)):
        for _ in range(batches):
            data = next(source)["data"]
            assert data.shape[1] == 3
            assert set(torch.unique(data[:, 2]).tolist()) <= {0.0, 1.0}
            covered += float(data[:, 2].mean())
            images.append(float(data[:, 0].std()))
    assert covered > 0.1, "no box was ever seen"
    assert np.std(images) > 0, "the images were not augmented"


def test_preprocessing_resamples_and_prediction_gets_a_binary_box_channel(prepared: Path, cohort: Cases) -> None:
    """With varying spacing nnU-Net's cubic resampling makes most voxels of a box fractional: here they are not."""
    trainer = trainer_on(prepared)
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    case = cohort[0]
    boxes = box_channels(case.prompts, case.images.grid.shape, groups(STRUCTURES, per_structure=False))
    channels = np.stack([*(np.asarray(case.images.raw(m), np.float32) for m in ("CT", "PET")), boxes[0]])
    stock, _, _ = configuration.preprocessor_class(verbose=False).run_case_npy(
        channels, None, {"spacing": list(case.images.grid.spacing)}, plans, configuration, trainer.dataset_json
    )
    assert len(np.unique(stock[2])) > 2, "the case is not resampled: the test would show nothing"

    class Inner:
        plans_manager, configuration_manager, dataset_json = plans, configuration, trainer.dataset_json

    predictor = Predictor(Inner(), configuration.preprocessor_class(verbose=False))
    data, _ = predictor.preprocess(channels, case.images.grid.spacing, 2)
    assert set(torch.unique(data[2]).tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(data[2].numpy(), (stock[2] > 0.5).astype(np.float32))


def test_nothing_in_the_augmentation_depends_on_the_speed_of_the_machine(prepared: Path) -> None:
    """nnU-Net's blur times two ways of computing and takes the faster; their results differ in the last bits."""
    trainer = trainer_on(prepared)
    training, _ = trainer.get_dataloaders()
    steps, timed = [training.data_loader.transforms], []
    while steps:
        step = steps.pop()
        steps += [*getattr(step, "transforms", []), *([step.transform] if hasattr(step, "transform") else [])]
        timed += [step.benchmark] if hasattr(step, "benchmark") else []
    assert timed == [False]


def context(options: Any, seed: int = 7) -> Context:
    return Context(options, STRUCTURES, "multimodal", ("CT", "PET"), "cpu", seed, None, Path())


@pytest.mark.usefixtures("own_environment")
def test_a_fit_is_recorded_predicts_on_the_grid_and_uses_nothing_but_images_and_prompts(
    cohort: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    method = NnunetBox(context(NnunetBoxOptions.model_validate(SMALL)))
    facts = method.fit(cohort[:3], cohort[3:], tmp_path, recorder)
    assert [row[0] for row in recorder.rows] == [0, 1]
    for row in recorder.rows:
        assert np.isfinite(row[1:3]).all() and set(row[3]) == {"pseudo_dice GTV-T", "pseudo_dice GTV-N"}
    assert facts["best_epoch"] == 1 and len(facts["patch_size"]) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"network.safetensors", "model.json", "fold-0.json"}
    method.load(tmp_path)
    case = cohort[3]
    # The reference is out of reach while its case is predicted: no path leads there.
    monkeypatch.setattr(TrainingCase, "label", lambda self: pytest.fail("a reference was read"))
    case.reference.rename(case.reference.with_suffix(".away"))
    seen: list[Any] = []
    original = method._channels

    def spy(images: Any, prompts: Any) -> Any:
        seen.append(original(images, prompts))
        return seen[-1]

    monkeypatch.setattr(method, "_channels", spy)
    clock = StageClock()
    label = method.predict(case.images, case.prompts, clock)
    assert label.shape == case.images.grid.shape and set(np.unique(label)) <= {0, 1, 4}
    assert [row["stage"] for row in clock.rows] == ["preprocess", "segment", "export"]
    expected = box_channels(case.prompts, case.images.grid.shape, groups(STRUCTURES, per_structure=False))[0]
    np.testing.assert_array_equal(seen[0][2], expected)
    np.testing.assert_array_equal(seen[0][0], case.images.raw("CT"))
    assert len(seen[0]) == 3
    case.reference.with_suffix(".away").rename(case.reference)
    # A case that is smaller than the patch, and of another spacing.
    small = write_case(tmp_path, "small", (4.0, 1.3, 1.3), 9, shape=(5, 20, 24))
    label = method.predict(small.images, small.prompts, StageClock())
    assert label.shape == (5, 20, 24) and set(np.unique(label)) <= {0, 1, 4}


def test_a_checkpoint_that_holds_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    safe = {"network_weights": {"w": torch.ones(2)}, "_best_ema": np.float32(0.5), "log": [np.float64(1), np.int64(2)]}
    torch.save(safe, tmp_path / "safe.pth")
    assert float(read_checkpoint(tmp_path / "safe.pth")["_best_ema"]) == 0.5
    torch.save(safe | {"init_args": Code()}, tmp_path / "unsafe.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "safe.pth").read_bytes()[:300])
    for name in ("unsafe.pth", "cut.pth"):
        with pytest.raises(BenchError, match="damaged, or holds more than data"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("own_environment")
def test_a_killed_training_ends_with_the_same_bits(cohort: Cases, tmp_path: Path, prepared: Path) -> None:
    class KilledError(Exception):
        pass

    class Interrupting(Recorder):
        def epoch(self, epoch: int, *values: float, **extra: float) -> None:
            if epoch == 1:
                raise KilledError
            super().epoch(epoch, *values, **extra)

    results = []
    for name, recorders in (("whole", [Recorder()]), ("cut", [Interrupting(), Recorder()])):
        root = copied(prepared, tmp_path / name)
        for recorder in recorders:
            try:
                fitting.fit(root, LAYOUT, cohort[:3], cohort[3:], OPTIONS, recorder, seed=3, device="cpu", cores=1)
            except KilledError:
                assert (root / "nnunet").exists()
        results.append((root / "network.safetensors").read_bytes())
    assert [row[0] for row in recorders[1].rows] == [1]
    assert results[0] == results[1]


def logits(folder: Path, case: TrainingCase, folds: int) -> Any:
    predictor = predictor_of(folder, "cpu", mirroring=False, step_size=0.5, folds=folds)
    boxes = box_channels(case.prompts, case.images.grid.shape, groups(STRUCTURES, per_structure=False))
    channels = np.stack([*(np.asarray(case.images.raw(m), np.float32) for m in ("CT", "PET")), boxes[0]])
    return predictor.logits(predictor.preprocess(channels, case.images.grid.spacing, 2)[0])


@pytest.mark.usefixtures("own_environment")
def test_folds_train_a_network_each_go_on_after_a_kill_and_predict_by_their_mean(
    cohort: Cases, tmp_path: Path, prepared: Path
) -> None:
    class Folds(Recorder):
        def ready(self) -> None:
            assert len(self.rows) in (0, 2), "before each fold"

    class Interrupting(Folds):
        def epoch(self, epoch: int, *values: float, **extra: float) -> None:
            if epoch == 3:
                raise KeyboardInterrupt
            super().epoch(epoch, *values, **extra)

    options = NnunetBoxOptions.model_validate(SMALL | {"folds": 2})
    assert options.planned_epochs() == 4
    names = [case.case for case in cohort]
    results: list[dict[str, bytes]] = []
    for name, recorders in (("whole", [Folds()]), ("cut", [Interrupting(), Folds()])):
        root = copied(prepared, tmp_path / name)
        splits = root / "nnunet" / "preprocessed" / DATASET / "splits_final.json"
        write_splits(splits, *fitting.divided({name: name for name in names}, 2))
        folds = json.loads(splits.read_text())
        assert sorted(folds[0]["val"] + folds[1]["val"]) == names and sorted(folds[0]["train"]) == folds[1]["val"]
        for recorder in recorders:
            with suppress(KeyboardInterrupt):
                facts = fitting.fit(
                    root, LAYOUT, cohort[:3], cohort[3:], options, recorder, seed=3, device="cpu", cores=1
                )
        assert json.loads((root / "model.json").read_text())
        results.append({path.name: path.read_bytes() for path in root.glob("*.safetensors")})
    assert [[(row[0], row[3]["fold"]) for row in r.rows] for r in recorders] == [[(0, 0), (1, 0), (2, 1)], [(3, 1)]]
    assert set(results[0]) == {"network.0.safetensors", "network.1.safetensors"}
    assert results[0] == results[1]
    assert results[0]["network.0.safetensors"] != results[0]["network.1.safetensors"]
    assert facts["best_epochs"] == [1, 1] and "best_epoch" not in facts
    apart = []
    for fold in range(2):
        folder = tmp_path / f"only{fold}"
        folder.mkdir()
        shutil.copy(root / f"network.{fold}.safetensors", folder / "network.safetensors")
        shutil.copy(root / "model.json", folder)
        apart.append(logits(folder, cohort[0], 1))
    np.testing.assert_allclose(logits(root, cohort[0], 2), (apart[0] + apart[1]) / 2, rtol=1e-3, atol=1e-3)
    assert np.abs(apart[0] - apart[1]).max() > 0.01


@pytest.fixture
def inherited_environment() -> Iterator[None]:
    """What a fit sets in the environment, for processes that it starts too, ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("inherited_environment")
def test_two_processes_train_one_network_and_go_on_after_a_stop(cohort: Cases, tmp_path: Path, prepared: Path) -> None:
    class Interrupting(Recorder):
        def epoch(self, epoch: int, *values: float, **extra: float) -> None:
            if epoch == 1:
                raise BenchError("stopped")
            super().epoch(epoch, *values, **extra)

    def fit(root: Path, recorder: Recorder, processes: int) -> dict[str, Any]:
        return fitting.fit(
            root, LAYOUT, cohort[:3], cohort[3:], OPTIONS, recorder, seed=3, device="cpu", cores=1, processes=processes
        )

    results, rows = [], []
    for name, recorders in (("whole", [Recorder()]), ("cut", [Interrupting(), Recorder()])):
        root = copied(prepared, tmp_path / name)
        for recorder in recorders:
            with suppress(BenchError):
                assert fit(root, recorder, 2)["best_epoch"] == 1
        results.append((root / "network.safetensors").read_bytes())
        rows.append([row for recorder in recorders for row in recorder.rows])
    assert [row[0] for row in rows[0]] == [0, 1], "one row an epoch"
    assert rows[0] == rows[1] and results[0] == results[1]
    assert np.isfinite(logits(root, cohort[0], 1)).all()
    root = copied(prepared, tmp_path / "many")
    with pytest.raises(BenchError, match=r"a batch of \d+ patches, which 99 GPUs cannot divide"):
        fit(root, Recorder(), 99)


def test_each_rank_draws_patches_of_its_own_and_the_first_those_of_a_training_without_others(prepared: Path) -> None:
    drawn = []
    for rank in (None, 0, 1):
        trainer = trainer_on(prepared)
        if rank is not None:
            trainer.local_rank = rank
        training, _ = trainer.get_dataloaders()
        trainer.on_epoch_start()
        drawn.append(next(training)["data"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_more_folds_than_patients_are_refused_before_any_work() -> None:
    options = NnunetBoxOptions.model_validate({"folds": 5})
    facts = CohortFacts(("CT",), STRUCTURES, {"train": 3, "validation": 1, "test": 9})
    assert NnunetBox.skip(options, facts) == "5 folds cannot be made of 4 patients (training and validation together)"
    assert NnunetBox.skip(options.model_copy(update={"folds": 4}), facts) is None
    with pytest.raises(ValueError, match="folds"):
        NnunetBoxOptions.model_validate({"folds": 0})


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize(
    "changes",
    [
        {"configuration": "2d", "fresh-boxes": True, "boxes": "per-structure"},
        {"configuration": "2d", "trainer": "nnUNetTrainerNoDA", "checkpoint": "best"},
        pytest.param({"planner": "nnUNetPlannerResEncM", "checkpoint": "best"}, marks=pytest.mark.slow),
        pytest.param({"trainer": "nnUNetTrainerNoDA"}, marks=pytest.mark.slow),
    ],
    ids=["2d", "no augmentation", "ResEncM", "no augmentation in 3d"],
)
def test_configurations_and_trainers_are_nnunets_own(changes: dict[str, Any], cohort: Cases, tmp_path: Path) -> None:
    """The case that is predicted is smaller than the patch, and of another spacing."""
    method = NnunetBox(context(NnunetBoxOptions.model_validate(SMALL | {"epochs": 1} | changes)))
    facts = method.fit(cohort[:3], cohort[3:], tmp_path / "fit", Recorder())
    assert ("ResEnc" in facts["network"] or "Residual" in facts["network"]) == ("planner" in changes)
    method.load(tmp_path / "fit")
    small = write_case(tmp_path, "small", (4.0, 1.3, 1.3), 9, shape=(5, 20, 24))
    label = method.predict(small.images, small.prompts, StageClock())
    assert label.shape == (5, 20, 24) and set(np.unique(label)) <= {0, 1, 4}


@pytest.mark.usefixtures("own_environment")
def test_a_gpu_without_enough_memory_is_told_with_the_option_to_lower(
    prepared: Path, cohort: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trainer: Any, folder: Path) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fitting, "train", full)
    root = copied(prepared, tmp_path / "fit")
    with pytest.raises(BenchError, match=r"(?s)out of memory while training with patches of .*gpu-memory-gb"):
        fitting.fit(root, LAYOUT, cohort[:3], cohort[3:], OPTIONS, Recorder(), seed=1, device="cpu", cores=1)


def test_what_nnunet_did_not_plan_or_does_not_have_is_an_error(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no planner 'NoSuchPlanner'"):
        planning.plan(tmp_path, OPTIONS.model_copy(update={"planner": "NoSuchPlanner"}), 1, 0)
    with pytest.raises(StudyError, match="did not plan the configuration '3d_lowres'"):
        planning.plan(prepared, OPTIONS.model_copy(update={"configuration": "3d_lowres"}), 1, 0)
    with pytest.raises(StudyError, match="no trainer 'NoSuchTrainer'"):
        trainer_on(prepared, trainer="NoSuchTrainer")


def test_preprocessing_goes_on_where_it_was_stopped(prepared: Path) -> None:
    folder = planning.preprocess(prepared, OPTIONS.configuration, 1, 1)  # all is done
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "c2.pkl").unlink()
    planning.preprocess(prepared, OPTIONS.configuration, 1, 1)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) == set(after)
    assert {name.split(".")[0].removesuffix("_seg") for name in before if before[name] != after[name]} == {"c2"}
    assert not list((prepared / "preprocessed" / DATASET).glob("*.part-*"))
