"""nnU-Net's fingerprint, planner and preprocessor on a data set of ours, resumable case by case."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.pool import Pool, ThreadPool
from pathlib import Path
from typing import Any

import torch

from gtvbench.adapters.nnunet.dataset import DATASET
from gtvbench.adapters.nnunet.options import NnunetOptions
from gtvbench.bench.core.errors import BenchError, StudyError

#: Below so many voxels of all channels of a training set, starting processes (which import torch) takes longer than
#: the work; threads do it.
PROCESSES_FROM_VOXELS = 200_000_000

PLANS = "gtvbenchPlans"


def set_environment(root: Path, cores: int, workers: int, compile_network: bool | None) -> None:
    """Set nnU-Net's variables in this process, before nnunetv2 is imported; they reach nothing outside it."""
    variables = {"def_n_proc": str(cores), "n_proc_DA": str(workers), "wandb_enabled": "0"}
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(parents=True, exist_ok=True)
        variables[name] = str(root / name)
    if compile_network is not None:
        variables["compile"] = str(compile_network)
    # A user's own settings must not change an arm; only the place of trainer classes of their own is theirs to say.
    for name in [name for name in os.environ if name.startswith("nnUNet_") and name != "nnUNet_extTrainer"]:
        del os.environ[name]
    os.environ.update({f"nnUNet_{name}": value for name, value in variables.items()})


def plan(root: Path, options: NnunetOptions, cores: int, voxels: int) -> dict[str, Any]:
    """Fingerprint and plan where that is not done yet; return the plans.

    Raises StudyError for a planner that does not exist, or a configuration that nnU-Net did not plan.
    """
    folder = root / "preprocessed" / DATASET
    done = folder / "planned.json"
    if not done.exists():
        import nnunetv2
        from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
        from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        place = Path(nnunetv2.__path__[0]) / "experiment_planning"
        planner = recursive_find_python_class(str(place), options.planner, "nnunetv2.experiment_planning")
        if planner is None:
            raise StudyError(
                f"nnU-Net has no planner {options.planner!r}",
                remedy="use ExperimentPlanner, nnUNetPlannerResEncM, nnUNetPlannerResEncL or nnUNetPlannerResEncXL",
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with _pools_of(fingerprint_extractor, voxels):
            extractor = fingerprint_extractor.DatasetFingerprintExtractor(1, cores)
            extractor.num_foreground_voxels_for_intensitystats = options.foreground_voxels
            extractor.run(overwrite_existing=True)
        workers = os.environ["nnUNet_n_proc_DA"]  # noqa: SIM112 - nnU-Net's spelling
        # The planner takes this for its number of threads, and fails with the 0 that training without workers needs.
        os.environ["nnUNet_n_proc_DA"] = str(cores)  # noqa: SIM112
        plan_experiment_dataset(1, planner, options.gpu_memory_gb, overwrite_plans_name=PLANS)
        os.environ["nnUNet_n_proc_DA"] = workers  # noqa: SIM112
        plans = json.loads((folder / f"{PLANS}.json").read_text())
        if options.batch_size is not None:
            for configuration in plans["configurations"].values():
                if "batch_size" in configuration:
                    configuration["batch_size"] = options.batch_size
            (folder / f"{PLANS}.json").write_text(json.dumps(plans, indent=1) + "\n")
        done.write_text("{}\n")
    plans = json.loads((folder / f"{PLANS}.json").read_text())
    if options.configuration not in plans["configurations"]:
        raise StudyError(
            f"nnU-Net did not plan the configuration {options.configuration!r} for these data (it planned "
            f"{', '.join(sorted(plans['configurations']))})",
            remedy="choose one of those; nnU-Net plans 3d_lowres only where the patch covers little of a volume",
        )
    return dict(plans)


def preprocess(root: Path, configuration: str, cores: int, voxels: int) -> Path:
    """Preprocess every case that is not yet; return the folder of the preprocessed cases."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = root / "preprocessed" / DATASET
    plans_file = folder / f"{PLANS}.json"
    final = folder / str(PlansManager(str(plans_file)).get_configuration(configuration).data_identifier)
    final.mkdir(exist_ok=True)
    cases = get_filenames_of_train_images_and_targets(str(root / "raw" / DATASET))
    missing = {name: files for name, files in cases.items() if not (final / f"{name}.pkl").exists()}
    with _executor(min(cores, max(1, len(missing))), voxels) as executor:
        waiting = {
            executor.submit(_preprocess_case, name, files["images"], files["label"], plans_file, configuration): name
            for name, files in missing.items()
        }
        for future in as_completed(waiting):
            try:
                future.result()
            except Exception as error:
                raise BenchError(f"nnU-Net could not preprocess the case: {error}", case=waiting[future]) from error
    return final


def _preprocess_case(name: str, images: list[str], label: str, plans_file: Path, configuration: str) -> None:
    """nnU-Net's own preprocessing of one training case, written aside and renamed; the .pkl comes last."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(plans_file))
    chosen = plans.get_configuration(configuration)
    final = plans_file.parent / chosen.data_identifier
    part = final.with_name(f"{final.name}.part-{name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    preprocessor = chosen.preprocessor_class(verbose=False)
    description = json.loads((plans_file.parent / "dataset.json").read_text())
    preprocessor.run_case_save(str(part / name), images, label, plans, chosen, description)
    for path in sorted(part.iterdir(), key=lambda p: p.suffix == ".pkl"):
        path.replace(final / path.name)
    part.rmdir()


def _executor(workers: int, voxels: int) -> Executor:
    if voxels < PROCESSES_FROM_VOXELS or workers == 1:
        return ThreadPoolExecutor(workers)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


class _Contexts:
    """Stands for the module `multiprocessing` where nnU-Net asks it for a pool, and chooses threads for small work."""

    def __init__(self, voxels: int) -> None:
        self._voxels = voxels

    def get_context(self, method: str) -> _Contexts:
        """nnU-Net asks for 'spawn'."""
        return self

    def Pool(self, processes: int) -> Pool:  # noqa: N802 - the name of what it stands for
        """Threads or processes."""
        if self._voxels < PROCESSES_FROM_VOXELS or processes == 1:
            return ThreadPool(processes)
        context = multiprocessing.get_context("spawn")
        return context.Pool(processes, initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def _pools_of(module: Any, voxels: int) -> Iterator[None]:
    """nnU-Net's children must start quickly where there is little to do: choose the pools that `module` starts."""
    original = module.multiprocessing
    module.multiprocessing = _Contexts(voxels)
    try:
        yield
    finally:
        module.multiprocessing = original
