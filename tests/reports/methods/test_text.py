from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
from run_writer import WEIGHTS, Plan, RunWriter

from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.reports.methods.references import REFERENCES
from gtvbench.reports.methods.text import MethodsText, methods_text
from gtvbench.reports.page import build
from gtvbench.reports.run.load import read_run

_NNUNET = {
    "configuration": "3d_fullres", "planner": "ExperimentPlanner", "trainer": "nnUNetTrainer", "epochs": 1000,
    "iterations": 250, "learning-rate": 0.01, "checkpoint": "final", "mirroring": True, "step-size": 0.5,
}  # fmt: skip
_TUNED = {
    "image-size": 256, "normalisation": "min-max", "precision": "float32", "epochs": 20, "batch": 8,
    "learning-rate": 3e-4, "weight-decay": 0.01, "plateau-factor": 0.9, "plateau-patience": 5,
    "margins": "random-margin(0, 20)", "flips": True,
}  # fmt: skip


TextOf = Callable[[Any], MethodsText]


@pytest.fixture
def text_of(tmp_path: Path) -> TextOf:
    """The methods text of a run that a writer writes."""
    return lambda writer: methods_text(read_run(writer.write(tmp_path / "run")))


def _plain(found: MethodsText) -> str:
    return "\n".join(f"{heading}. {text}" for heading, text in found.paragraphs)


def _arm(writer: Any, name: str) -> dict[str, Any]:
    return next(arm for arm in writer.arms if arm["arm"] == name)


def says(text: str, *words: str, never: Sequence[str] = ()) -> None:
    for part in words:
        assert part in text, part
    for part in never:
        assert part not in text, part


def test_patients_split_and_images_are_told_as_they_are(text_of: TextOf) -> None:
    writer = RunWriter()
    writer.study["split"] = {"counts": {"train": 16, "validation": 2, "test": 8}, "fold": 0}
    found = dict(text_of(writer).paragraphs)
    says(
        found["Patients"],
        "26 patients were split by patient at random (seed 1): 16 to train on, 2 for validation and 8 to test",
        "(digest 1e1e1e1e1e1e)",
        "GTV-T in 8 of 8 test cases and GTV-N in 6 of 8 test cases",
        "synthetic",
    )
    says(
        found["Images"],
        "level 40, width 400 HU",
        "SUV 0 to 6",
        "the red channel is CT, the green PET and the blue the mean of T1w and T2w",
        "In ct-only images all three colour channels are CT",
        "24 slices 4 mm apart, with pixels of 3 mm",
        "In 1 case the field of view of PET covers only part of the grid, at least 93 % (PET)",
        never=["resampled"],
    )


@pytest.mark.parametrize(
    ("split", "policy", "told", "prompted"),
    [
        ({"lists": {"test": ["a"]}}, "random-margin(0, 20)", "split by patient as listed in the study file:",
         "independently and uniformly between 0 and 20 mm"),
        ({"file": "/home/x/splits_final.json", "fold": 3}, "fixed-margin(5)",
         "split by patient as in a split file of nnU-Net (fold 3):", "a margin of 5 mm on each side"),
        ({}, "tight", "split by patient:", "Its prompt is its tight bounding box."),
        ({}, "of-the-future(3)", "split by patient:", "a box by the policy of-the-future(3)"),
    ],
)  # fmt: skip
def test_the_ways_of_split_and_prompts_are_told_without_a_path(
    split: dict[str, Any], policy: str, told: str, prompted: str, text_of: TextOf
) -> None:
    writer = RunWriter()
    writer.study |= {"split": split, "prompts": {"policy": policy, "minimum-area-mm2": 30.0}}
    found = text_of(writer)
    says(_plain(found), told, never=["/home"])
    says(
        dict(found.paragraphs)["Prompts"], prompted, "(digest 2f2f2f2f2f2f)",
        "given unchanged to every arm that takes a prompt", "below 30 mm²", "84 boxes in 48 slices",
    )  # fmt: skip


def test_without_t2_the_blue_channel_is_t1_and_a_source_of_files_is_resampled(text_of: TextOf) -> None:
    writer = RunWriter()
    writer.provenance |= {"modalities": list(MODALITIES[:3]), "synthetic": False}
    writer.study["dataset"] = {"source": "folders", "path": "/srv/secret", "crop": {"margin-mm": [5, 50]}}
    found = text_of(writer)
    says(
        dict(found.paragraphs)["Images"],
        "the blue T1w.",
        "resampled to it with SimpleITK [lowekamp2013]",
        "5 to 50 mm beyond the reference",
        never=["T2w"],
    )
    says(_plain(found), "Authors must add what the run does not record", never=["secret", "synthetic"])


def test_only_methods_that_ran_are_told_and_only_what_they_need_is_cited(text_of: TextOf) -> None:
    plans = tuple(Plan(method, "none", 0.6) for method in ("box-fill", "box-ellipse"))
    found = text_of(RunWriter(plans=plans))
    unsaid = ["LiteMedSAM", "nnU-Net", "PyTorch", "published weights", "Training", "colour channels"]
    says(_plain(found), "the box itself (box-fill)", never=[*unsaid, "scaled to 0 to 255"])
    assert not {"isensee2021", "wu2022", "kirillov2023", "paszke2019", "ma2024medsam"} & set(found.keys)
    assert set(re.findall(r"@\w+\{([a-z0-9]+),", found.bibtex)) == set(found.keys)


def test_fine_tuning_is_told_as_it_was_done(text_of: TextOf) -> None:
    writer = RunWriter()
    tuned = ["litemedsam-fine-tuned.ct-only", "litemedsam-fine-tuned.multimodal"]
    for name in tuned:
        _arm(writer, name)["options"] = _TUNED
        _arm(writer, name)["weights"] = {"name": "/home/me/w/lite_medsam.pth", "sha256": "ab" * 32}
    _arm(writer, tuned[0])["best_epoch"] = 3
    says(
        dict(text_of(writer).paragraphs)["Segmentation"],
        "started from the weights lite_medsam.pth (SHA-256 abababababab",
        "trained for 8 epochs in batches of 8",
        "AdamW (learning rate 0.0003, weight decay 0.01)",
        "times 0.9 after 5 epochs without a lower validation Dice loss",
        "epoch 3 (litemedsam-fine-tuned.ct-only) and 6 (litemedsam-fine-tuned.multimodal), counted from 0",
        "The protocol is that of Ren et al. [ren2024] but for its length.",
        "resized to 256 pixels",
    )
    for name in tuned:  # the decoder alone
        _arm(writer, name)["options"] = {**_TUNED, "train": "decoder", "flips": None}
        _arm(writer, name)["weights"] = dict(WEIGHTS)
    says(
        dict(text_of(writer).paragraphs)["Segmentation"],
        "lite_medsam.pth (published weights, verified; SHA-256 79d8c9dca6db…)",
        "only the mask decoder was trained: the image encoder was frozen and each slice embedded once",
        never=["flipped", "The protocol is that of"],
    )
    for name in tuned:  # another protocol
        _arm(writer, name)["options"] = {**_TUNED, "learning-rate": 1e-4}
    writer.provenance["subsets"]["validation"] = []
    says(
        dict(text_of(writer).paragraphs)["Segmentation"],
        "The epoch of the lowest training loss was kept",
        never=["The protocol is that of"],
    )


def test_a_trained_arm_without_a_record_of_its_training_is_not_said_to_be_trained(text_of: TextOf) -> None:
    writer = RunWriter()
    writer.epochs = {}
    says(
        dict(text_of(writer).paragraphs)["Segmentation"],
        "to be trained for 8 epochs, of which none is recorded",
        never=["Training was timed"],
    )


def test_nnunet_is_told_with_its_schedule_and_its_box_channel_and_methods_of_others_by_name(text_of: TextOf) -> None:
    writer = RunWriter(
        plans=(
            Plan("nnunet", "multimodal", 0.7, prompted=False, trains=True),
            Plan("nnunet-box", "multimodal", 0.9, trains=True),
            Plan("our-unet", "none", 0.8, prompted=False),
            Plan("their-net", "ct-only", 0.7),
        )
    )
    _arm(writer, "nnunet.multimodal")["options"] = _NNUNET
    _arm(writer, "nnunet-box.multimodal")["options"] = {**_NNUNET, "boxes": "one-channel", "fresh-boxes": False}
    _arm(writer, "our-unet")["adapter"] = "predictions"
    _arm(writer, "their-net.ct-only")["adapter"] = "their-adapter"
    writer.provenance["packages"]["nnunetv2"] = "2.8.1"
    says(
        _plain(text_of(writer)),
        "nnU-Net [isensee2021] (nnunetv2 2.8.1)",
        "nnunet.multimodal was trained for 8 epochs of 250 iterations, from a learning rate of 0.01",
        "(3d_fullres, ExperimentPlanner, nnUNetTrainer); the last epoch's weights predict, with test-time",
        "nnunet.multimodal got no prompt",
        "nnunet-box.multimodal got one more channel that is 1 inside a box",
        "nnunet-box.multimodal against nnunet.multimodal",
        "Without a prompt, nnunet.multimodal",
        "8 of 20 epochs",
        "our-unet: masks made elsewhere, scored as they are.",
        "their-net.ct-only (adapter their-adapter) is a third-party method that was not trained here",
        never=["LiteMedSAM"],
    )


def test_an_ensemble_of_folds_is_told_and_one_network_too(text_of: TextOf) -> None:
    writer = RunWriter(plans=(Plan("nnunet", "multimodal", 0.7, prompted=False, trains=True),))
    alone, ensemble = "without an ensemble of folds", "for 2 networks that predict by the mean of their logits"
    for folds, told, never in ((1, alone, ensemble), (2, ensemble, alone)):
        _arm(writer, "nnunet.multimodal")["options"] = {**_NNUNET, "folds": folds}
        says(_plain(text_of(writer)), told, never=[never])


def test_limitations_name_what_the_reader_must_not_conclude(text_of: TextOf) -> None:
    writer = RunWriter()
    writer.fail("litemedsam-zero-shot.ct-only", writer.cases[:2], "crashed")
    _arm(writer, "litemedsam-zero-shot.ct-only")["status"] = "failed"
    _arm(writer, "litemedsam-zero-shot.multimodal")["weights"]["published"] = None
    writer.arms.append({"arm": "nnunet.multimodal", "method": "nnunet", "status": "skipped", "reason": "no nnunetv2"})
    found = text_of(writer)
    says(
        dict(found.paragraphs)["Limitations"],
        "no result says anything of real patients", "oracle localisation",
        "The weights of litemedsam-zero-shot.multimodal are not the published ones",
        "shorter than the protocol: litemedsam-fine-tuned.ct-only (8 of 20 epochs)",
        "Steps of litemedsam-zero-shot.ct-only failed.", "litemedsam-zero-shot.ct-only (4)",
        "Planned but not run: nnunet.multimodal.", "trained once", "one split",
    )  # fmt: skip
    assert "isensee2021" not in found.keys
    assert "Not recorded" not in dict(found.paragraphs)


@pytest.mark.parametrize(
    ("patients", "said", "unsaid"),
    [
        (2, ["no p value is given", "Below three patients"], ["wilcoxon1945", "efron1987", "bland1986"]),
        (5, ["With 5 patients no signed-rank test", "efron1987"], ["wilcoxon1945", "holm1979"]),
        (6, ["wilcoxon1945", "In a family of 4, 6 patients cannot reach it"], ["no p value is given"]),
        (20, ["exact given the ties, differences"], ["cannot reach it", "normal approximation"]),
        (70, ["up to 60 differences and by the normal approximation"], ["no p value is given"]),
    ],
)
def test_statistics_are_those_that_so_many_patients_allow(
    patients: int, said: list[str], unsaid: list[str], text_of: TextOf
) -> None:
    says(dict(text_of(RunWriter(patients=patients)).paragraphs)["Statistics"], *said, never=unsaid)


def test_margins_resamples_and_contrasts_are_those_of_the_study_file_and_one_arm_has_none(text_of: TextOf) -> None:
    writer = RunWriter()
    pair = ["litemedsam-zero-shot.ct-only", "box-fill"]
    writer.study["statistics"] = {
        "dsc-margin": 0.04,
        "hd95-margin-mm": 2.5,
        "resamples": 2000,
        "contrasts": [pair, ["box-fill", "gone"]],
    }
    says(
        dict(text_of(writer).paragraphs)["Statistics"],
        "a margin of 0.04 in DSC and 2.5 mm in HD95",
        "2,000 resamples",
        "1 contrast was planned in the study file: litemedsam-zero-shot.ct-only against box-fill.",
    )
    found = text_of(RunWriter(patients=1, structures=("GTV",), plans=(Plan("box-fill", "none", 0.6),)))
    assert dict(found.paragraphs)["Statistics"] == "One arm was scored; it is described, not compared."
    assert "wilcoxon1945" not in found.keys


def test_a_run_without_scores_or_provenance_says_less_and_breaks_nothing(text_of: TextOf) -> None:
    writer = RunWriter()
    writer.scores = writer.scores.iloc[:0]
    writer.provenance = {"subsets": None, "synthetic": False}
    writer.timing, writer.epochs = {}, {}
    found = text_of(writer)
    assert not {"Statistics", "Time"} & set(dict(found.paragraphs))
    says(_plain(found), "No score exists of box-ellipse")


def test_every_citation_has_its_reference_and_numbers_follow_the_text(text_of: TextOf) -> None:
    found = text_of(RunWriter(patients=20))
    keys = [key for _, text in found.paragraphs for marks in re.findall(r"\[([a-z]+\d{4}[a-z, 0-9]*)\]", text)
            for key in marks.split(", ")]  # fmt: skip
    assert tuple(dict.fromkeys(keys)) == found.keys == tuple(key for key, _ in found.references)
    assert set(found.keys) <= set(REFERENCES)
    numbers = [int(n) for marks in re.findall(r"\[([\d, ]+)\]", found.as_markdown) for n in marks.split(", ")]
    assert list(dict.fromkeys(numbers)) == list(range(1, len(found.keys) + 1))
    assert f"{len(found.keys)}. " in found.as_markdown
    cited = {key for marks in re.findall(r"\\cite\{([^}]+)\}", found.as_latex) for key in marks.split(",")}
    assert cited == set(found.keys)


def test_every_reference_is_whole_and_its_entry_balanced() -> None:
    for key, reference in REFERENCES.items():
        assert reference.key == key
        assert str(reference.year) in key
        assert reference.authors[0].split(",")[0].lower().replace("-", "").replace("š", "s") in key
        assert reference.bibtex.count("{") == reference.bibtex.count("}")
        assert reference.formatted.count("..") == 0
        assert not reference.doi or reference.doi.startswith("10.")


def test_hostile_names_stay_text_and_cite_nothing(text_of: TextOf) -> None:
    name = "[ren2024] \x02demsar2006\x03 <script>x</script> \\input{/etc/passwd} *a* \u202e|"
    writer = RunWriter(structures=("GTV-T", name), plans=(Plan("box-fill", "none", 0.6),))
    writer.provenance["hardware"]["cpu"] = "C:\\Users\\me\\cpu"
    found = text_of(writer)
    assert "demsar2006" not in found.keys
    html = " ".join(str(text) for _, text in found.html)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    for content in (found.as_latex, found.as_markdown, html):
        assert "\u202e" not in content
        assert not any(ord(char) < 32 and char != "\n" for char in content)
    assert "\\input{" not in found.as_latex
    assert "<script>" not in found.as_markdown.replace("\\<", "")
    assert "Users" not in found.as_latex


def test_the_section_of_the_page_links_each_number_to_its_reference(text_of: TextOf) -> None:
    found = text_of(RunWriter())
    folder = Path(build.__file__).parent / "templates"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    html = environment.get_template("methods.html.j2").render(methods=found)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets == set(re.findall(r'<li id="([^"]+)"', html)) == {f"ref-{key}" for key in found.keys}


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="LaTeX is not installed")
def test_text_and_bibliography_compile(text_of: TextOf, tmp_path: Path) -> None:
    found = text_of(RunWriter(patients=20))
    for name, content in found.files().items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\begin{document}\\input{methods}\\bibliographystyle{unsrt}"
        "\\bibliography{references}\\end{document}"
    )
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    for command in (latex, ["bibtex", "paper"], latex, latex):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Warning--" not in done.stdout
    assert "undefined" not in done.stdout
