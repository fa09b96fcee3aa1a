from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest

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


@pytest.fixture
def text_of(tmp_path: Path) -> Callable[[Any], MethodsText]:
    """The methods text of a run that a writer writes."""
    return lambda writer: methods_text(read_run(writer.write(tmp_path / "run")))


def _plain(found: MethodsText) -> str:
    return "\n".join(f"{heading}. {text}" for heading, text in found.paragraphs)


def _arm(writer: Any, name: str) -> dict[str, Any]:
    return next(arm for arm in writer.arms if arm["arm"] == name)


def _plan(writer_class: Any, *args: Any, **kwargs: Any) -> Any:
    return type(writer_class().plans[0])(*args, **kwargs)


def test_patients_and_split_are_counted_and_the_structures_of_the_test_set_too(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.study["split"] = {"counts": {"train": 16, "validation": 2, "test": 8}, "fold": 0}
    text = dict(text_of(writer).paragraphs)["Patients"]
    assert (
        "26 patients were split by patient at random (seed 1): 16 to train on, 2 for validation and 8 to test" in text
    )
    assert "(digest 1e1e1e1e1e1e)" in text
    assert "GTV-T in 8 of 8 test cases and GTV-N in 6 of 8 test cases" in text
    assert "synthetic" in text


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"lists": {"test": ["a"]}}, "split by patient as listed in the study file:"),
        ({"file": "/home/x/splits_final.json", "fold": 3}, "split by patient as in a split file of nnU-Net (fold 3):"),
        ({}, "split by patient:"),
    ],
)
def test_the_way_of_the_split_is_told_without_a_path(
    split: dict[str, Any], words: str, new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.study["split"] = split
    text = _plain(text_of(writer))
    assert words in text
    assert "/home" not in text


def test_scaling_and_fusion_are_of_the_modalities_that_the_data_have(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    whole = dict(text_of(new_run()).paragraphs)["Images"]
    assert "level 40, width 400 HU" in whole
    assert "SUV 0 to 6" in whole
    assert "the red channel is CT, the green PET and the blue the mean of T1w and T2w" in whole
    assert "In ct-only images all three colour channels are CT" in whole
    assert "24 slices 4 mm apart, with pixels of 3 mm" in whole
    assert "In 1 case the field of view of PET covers only part of the grid, at least 93 % (PET)" in whole
    assert "resampled" not in whole


def test_without_t2_the_blue_channel_is_t1_and_a_source_of_files_is_resampled(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.provenance["modalities"] = list(MODALITIES[:3])
    writer.study["dataset"] = {"source": "folders", "path": "/srv/secret", "crop": {"margin-mm": [5, 50]}}
    found = text_of(writer)
    text = dict(found.paragraphs)["Images"]
    assert "the blue T1w." in text
    assert "resampled to it with SimpleITK [lowekamp2013]" in text
    assert "5 to 50 mm beyond the reference" in text
    assert "T2w" not in text
    assert "secret" not in _plain(found)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("random-margin(0, 20)", "independently and uniformly between 0 and 20 mm"),
        ("fixed-margin(5)", "a margin of 5 mm on each side"),
        ("tight", "Its prompt is its tight bounding box."),
        ("of-the-future(3)", "a box by the policy of-the-future(3)"),
    ],
)
def test_prompts_are_told_in_mm_with_their_digest(
    policy: str, words: str, new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.study["prompts"] = {"policy": policy, "minimum-area-mm2": 30.0}
    text = dict(text_of(writer).paragraphs)["Prompts"]
    assert words in text
    assert "(digest 2f2f2f2f2f2f)" in text
    assert "given unchanged to every arm that takes a prompt" in text
    assert "below 30 mm²" in text
    assert "84 boxes in 48 slices" in text


def test_only_methods_that_ran_are_told_and_only_what_they_need_is_cited(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    plans = tuple(_plan(new_run, method, "none", 0.6) for method in ("box-fill", "box-ellipse"))
    found = text_of(new_run(plans=plans))
    text = _plain(found)
    for word in (
        "LiteMedSAM",
        "nnU-Net",
        "PyTorch",
        "published weights",
        "Training",
        "colour channels",
        "scaled to 0 to 255",
    ):
        assert word not in text
    assert not {"isensee2021", "wu2022", "kirillov2023", "paszke2019", "ma2024medsam"} & set(found.keys)
    assert set(re.findall(r"@\w+\{([a-z0-9]+),", found.bibtex)) == set(found.keys)
    assert "the box itself (box-fill)" in text


def test_fine_tuning_is_told_as_it_was_done(new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]) -> None:
    writer = new_run()
    for name in ("litemedsam-fine-tuned.ct-only", "litemedsam-fine-tuned.multimodal"):
        _arm(writer, name)["options"] = _TUNED
        _arm(writer, name)["weights"] = {"name": "/home/me/w/lite_medsam.pth", "sha256": "ab" * 32}
    _arm(writer, "litemedsam-fine-tuned.ct-only")["best_epoch"] = 3
    text = dict(text_of(writer).paragraphs)["Segmentation"]
    assert "started from the weights lite_medsam.pth (SHA-256 abababababab" in text
    assert "trained for 8 epochs in batches of 8" in text
    assert "AdamW (learning rate 0.0003, weight decay 0.01)" in text
    assert "times 0.9 after 5 epochs without a lower validation Dice loss" in text
    assert "epoch 3 (litemedsam-fine-tuned.ct-only) and 6 (litemedsam-fine-tuned.multimodal), counted from 0" in text
    assert "The protocol is that of Ren et al. [ren2024] but for its length." in text
    assert "resized to 256 pixels" in text


def test_the_training_of_the_decoder_alone_is_told_and_nothing_of_flips(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    for name in ("litemedsam-fine-tuned.ct-only", "litemedsam-fine-tuned.multimodal"):
        _arm(writer, name)["options"] = {**_TUNED, "train": "decoder", "flips": None}
    text = dict(text_of(writer).paragraphs)["Segmentation"]
    assert "lite_medsam.pth (published weights, verified; SHA-256 79d8c9dca6db…)" in text
    assert "only the mask decoder was trained: the image encoder was frozen and each slice embedded once" in text
    assert "flipped" not in text
    assert "The protocol is that of" not in text


def test_another_protocol_is_not_called_the_study_s(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    for arm in writer.arms:
        arm["options"] = {**_TUNED, "learning-rate": 1e-4}
    writer.provenance["subsets"]["validation"] = []
    text = dict(text_of(writer).paragraphs)["Segmentation"]
    assert "The protocol is that of" not in text
    assert "The epoch of the lowest training loss was kept" in text


def test_nnunet_is_told_with_its_schedule_and_its_box_channel(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    plans = (
        _plan(new_run, "nnunet", "multimodal", 0.7, prompted=False, trains=True),
        _plan(new_run, "nnunet-box", "multimodal", 0.9, trains=True),
    )
    writer = new_run(plans=plans)
    _arm(writer, "nnunet.multimodal")["options"] = _NNUNET
    _arm(writer, "nnunet-box.multimodal")["options"] = {**_NNUNET, "boxes": "one-channel", "fresh-boxes": False}
    writer.provenance["packages"]["nnunetv2"] = "2.8.1"
    found = text_of(writer)
    text = _plain(found)
    assert "nnU-Net [isensee2021] (nnunetv2 2.8.1)" in text
    assert "nnunet.multimodal was trained for 8 epochs of 250 iterations, from a learning rate of 0.01" in text
    assert "(3d_fullres, ExperimentPlanner, nnUNetTrainer); the last epoch's weights predict, with test-time" in text
    assert "nnunet.multimodal got no prompt" in text
    assert "nnunet-box.multimodal got one more channel that is 1 inside a box" in text
    assert "nnunet-box.multimodal against nnunet.multimodal" in text
    assert "Without a prompt, nnunet.multimodal had to find the target" in text
    assert "8 of 20 epochs" in text
    assert "LiteMedSAM" not in text


def test_a_trained_arm_without_a_record_of_its_training_is_not_said_to_be_trained(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.epochs = {}
    text = dict(text_of(writer).paragraphs)["Segmentation"]
    assert "to be trained for 8 epochs, of which none is recorded" in text
    assert "Training was timed" not in text


def test_methods_of_others_and_masks_made_elsewhere_are_told_by_name(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    plans = (_plan(new_run, "our-unet", "none", 0.8, prompted=False), _plan(new_run, "their-net", "ct-only", 0.7))
    writer = new_run(plans=plans)
    writer.arms[0]["adapter"] = "predictions"
    writer.arms[1]["adapter"] = "their-adapter"
    text = dict(text_of(writer).paragraphs)["Segmentation"]
    assert "our-unet: masks made elsewhere, scored as they are." in text
    assert "their-net.ct-only (adapter their-adapter) is a third-party method that was not trained here" in text


def test_limitations_name_what_the_reader_must_not_conclude(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.fail("litemedsam-zero-shot.ct-only", writer.cases[:2], "crashed")
    _arm(writer, "litemedsam-zero-shot.ct-only")["status"] = "failed"
    _arm(writer, "litemedsam-zero-shot.multimodal")["weights"]["published"] = None
    writer.arms.append({"arm": "nnunet.multimodal", "method": "nnunet", "status": "skipped", "reason": "no nnunetv2"})
    found = text_of(writer)
    text = dict(found.paragraphs)["Limitations"]
    for words in (
        "no result says anything of real patients", "oracle localisation",
        "The weights of litemedsam-zero-shot.multimodal are not the published ones",
        "shorter than the protocol: litemedsam-fine-tuned.ct-only (8 of 20 epochs)",
        "Steps of litemedsam-zero-shot.ct-only failed.", "litemedsam-zero-shot.ct-only (4)",
        "Planned but not run: nnunet.multimodal.", "trained once", "one split",
    ):  # fmt: skip
        assert words in text
    assert "isensee2021" not in found.keys
    assert "Not recorded" not in dict(found.paragraphs)


def test_of_real_patients_the_authors_are_told_what_to_add(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.provenance["synthetic"] = False
    text = _plain(text_of(writer))
    assert "Authors must add what the run does not record" in text
    assert "synthetic" not in text


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
    patients: int, said: list[str], unsaid: list[str], new_run: Callable[..., Any],
    text_of: Callable[[Any], MethodsText],
) -> None:  # fmt: skip
    text = dict(text_of(new_run(patients=patients)).paragraphs)["Statistics"]
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text


def test_margins_resamples_and_contrasts_are_those_of_the_study_file(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    pair = ["litemedsam-zero-shot.ct-only", "box-fill"]
    writer.study["statistics"] = {
        "dsc-margin": 0.04, "hd95-margin-mm": 2.5, "resamples": 2000, "contrasts": [pair, ["box-fill", "gone"]],
    }  # fmt: skip
    text = dict(text_of(writer).paragraphs)["Statistics"]
    assert "a margin of 0.04 in DSC and 2.5 mm in HD95" in text
    assert "2,000 resamples" in text
    assert "1 contrast was planned in the study file: litemedsam-zero-shot.ct-only against box-fill." in text


def test_one_arm_is_described_and_not_compared(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    found = text_of(new_run(patients=1, structures=("GTV",), plans=(_plan(new_run, "box-fill", "none", 0.6),)))
    assert dict(found.paragraphs)["Statistics"] == "One arm was scored; it is described, not compared."
    assert "wilcoxon1945" not in found.keys


def test_a_run_without_scores_or_provenance_says_less_and_breaks_nothing(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    writer = new_run()
    writer.scores = writer.scores.iloc[:0]
    writer.provenance = {"subsets": None, "synthetic": False}
    writer.timing, writer.epochs = {}, {}
    found = text_of(writer)
    assert "Statistics" not in dict(found.paragraphs)
    assert "Time" not in dict(found.paragraphs)
    assert "No score exists of box-ellipse" in _plain(found)


def test_every_citation_has_its_reference_and_numbers_follow_the_text(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    found = text_of(new_run(patients=20))
    keys = [key for _, text in found.paragraphs for marks in re.findall(r"\[([a-z]+\d{4}[a-z, 0-9]*)\]", text)
            for key in marks.split(", ")]  # fmt: skip
    assert tuple(dict.fromkeys(keys)) == found.keys == tuple(key for key, _ in found.references)
    assert set(found.keys) <= set(REFERENCES)
    numbers = [int(n) for marks in re.findall(r"\[([\d, ]+)\]", found.as_markdown) for n in marks.split(", ")]
    assert list(dict.fromkeys(numbers)) == list(range(1, len(found.keys) + 1))
    assert f"{len(found.keys)}. " in found.as_markdown
    cited = {key for marks in re.findall(r"\\cite\{([^}]+)\}", found.as_latex) for key in marks.split(",")}
    assert cited == set(found.keys)


@pytest.mark.parametrize("key", sorted(REFERENCES))
def test_every_reference_is_whole_and_its_entry_balanced(key: str) -> None:
    reference = REFERENCES[key]
    assert reference.key == key
    assert str(reference.year) in key
    assert reference.authors[0].split(",")[0].lower().replace("-", "").replace("š", "s") in key
    assert reference.bibtex.count("{") == reference.bibtex.count("}")
    assert reference.formatted.count("..") == 0
    assert not reference.doi or reference.doi.startswith("10.")


def test_hostile_names_stay_text_and_cite_nothing(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    name = "[ren2024] \x02demsar2006\x03 <script>x</script> \\input{/etc/passwd} *a* \u202e|"
    writer = new_run(structures=("GTV-T", name), plans=(_plan(new_run, "box-fill", "none", 0.6),))
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


def test_the_section_of_the_page_links_each_number_to_its_reference(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText]
) -> None:
    found = text_of(new_run())
    folder = Path(build.__file__).parent / "templates"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    html = environment.get_template("methods.html.j2").render(methods=found)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets == set(re.findall(r'<li id="([^"]+)"', html)) == {f"ref-{key}" for key in found.keys}


def test_the_same_run_gives_the_same_text(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert methods_text(run).files() == methods_text(run).files()


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="LaTeX is not installed")
def test_text_and_bibliography_compile(
    new_run: Callable[..., Any], text_of: Callable[[Any], MethodsText], tmp_path: Path
) -> None:
    found = text_of(new_run(patients=20))
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
