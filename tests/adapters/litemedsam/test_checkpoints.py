"""LiteMedSAM's weights files: the official one and its relatives are read, everything else is refused."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gtvbench.adapters.litemedsam import checkpoints
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.bench.core.errors import BenchError, WeightsError

SIZE = 32
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def official() -> State:
    """A state dict of the official shape, every value random."""
    torch.manual_seed(0)
    model = LiteMedSAM(SIZE)
    state = checkpoints.flat_state(model)
    return {
        key: torch.rand_like(value) * 0.1 + 0.01 if value.is_floating_point() else value + 7
        for key, value in state.items()
    }


def outputs(model: LiteMedSAM) -> Tensor:
    torch.manual_seed(1)
    images = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        embedding = model.encode(images)
        return torch.cat([embedding.flatten(), model.decode(embedding, torch.tensor([[3.0, 4, 20, 25]]))[0].flatten()])


def refused(path: Path) -> str:
    """What is said of a file that is not taken."""
    with pytest.raises(WeightsError) as caught:
        checkpoints.load_model(path, image_size=SIZE)
    return str(caught.value)


def test_the_state_dict_has_the_official_435_keys_and_parameters(official: State) -> None:
    assert Counter(key.split(".")[0] for key in official) == {
        "image_encoder": 298,
        "mask_decoder": 120,
        "prompt_encoder": 17,
    }
    for key in (
        "image_encoder.patch_embed.seq.2.bn.num_batches_tracked",
        "image_encoder.layers.0.blocks.1.conv3.bn.running_var",
        "image_encoder.layers.2.downsample.conv3.bn.bias",
        "image_encoder.layers.1.blocks.0.attn.attention_biases",
        "image_encoder.layers.3.blocks.1.local_conv.c.weight",
        "image_encoder.layers.3.blocks.1.mlp.fc2.bias",
        "image_encoder.neck.3.weight",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
    ):
        assert key in official
    assert sum(parameter.numel() for parameter in LiteMedSAM(SIZE).parameters()) == 9_791_300


def test_flat_wrapped_prefixed_and_safetensors_files_give_one_model(official: State, tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        "flat.pth": lambda path: torch.save(official, path),
        "wrapped.pth": lambda path: torch.save({"model": official, "epoch": 3}, path),
        "prefixed.pt": lambda path: torch.save({f"module.{k}": v for k, v in official.items()}, path),
        "both.pth": lambda path: torch.save({"model": {f"module.{k}": v for k, v in official.items()}}, path),
        "flat.safetensors": lambda path: save_file(official, path),
    }
    results = []
    for name, write in writers.items():
        write(tmp_path / name)
        model, stem = checkpoints.load_model(tmp_path / name, image_size=SIZE)
        assert stem == "lite" and not model.training
        results.append(outputs(model))
    assert all(torch.equal(result, results[0]) for result in results)
    checkpoints.save_flat(model, tmp_path / "out.safetensors")  # and saving gives the same tensors back
    again = checkpoints.read_tensors(tmp_path / "out.safetensors")
    assert again.keys() == official.keys()
    assert all(torch.equal(again[key], official[key]) for key in official)


def test_a_mobilesam_file_loads_without_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(2)
    state = checkpoints.flat_state(LiteMedSAM(64, "mobile"))
    state["image_encoder.norm_head.weight"] = torch.ones(320)
    state["image_encoder.norm_head.bias"] = torch.ones(320)
    state["image_encoder.head.weight"] = torch.ones(1000, 320)
    state["image_encoder.head.bias"] = torch.ones(1000)
    assert state["image_encoder.patch_embed.seq.0.c.weight"].shape == (32, 3, 3, 3)
    torch.save(state, tmp_path / "mobile_sam.pt")
    model, stem = checkpoints.load_model(tmp_path / "mobile_sam.pt", image_size=64)
    assert stem == "mobile"
    with torch.no_grad():
        embedding = model.encode(torch.rand(1, 3, 64, 64))
        logits, iou = model.decode(embedding, torch.tensor([[1.0, 2, 30, 40]]))
    assert (embedding.shape, logits.shape, iou.shape) == ((1, 256, 4, 4), (1, 1, 64, 64), (1, 1))


def test_attention_biases_are_fresh_after_loading_into_a_model_that_ran(official: State) -> None:
    torch.manual_seed(3)
    used, fresh = LiteMedSAM(SIZE).eval(), LiteMedSAM(SIZE).eval()
    outputs(used)  # timm caches the biases of this forward
    for model in (used, fresh):
        checkpoints.load_state(model, official, Path("official.pth"))
    assert torch.equal(outputs(used), outputs(fresh))


def test_a_wrong_file_is_refused_with_its_first_differing_keys(official: State, tmp_path: Path) -> None:
    wrong = dict(official)
    del wrong["mask_decoder.iou_token.weight"]
    wrong["image_encoder.extra.weight"] = torch.zeros(3)
    wrong["image_encoder.neck.0.weight"] = torch.zeros(256, 200, 1, 1)
    path = tmp_path / "wrong.pth"
    torch.save(wrong, path)
    said = refused(path)
    for words in (
        "missing: mask_decoder.iou_token.weight",
        "not known: image_encoder.extra.weight",
        str(path),
        "remedy",
        "image_encoder.neck.0.weight (256, 200, 1, 1) instead of (256, 320, 1, 1)",
    ):
        assert words in said
    torch.save(torch.nn.Linear(3, 4).state_dict(), path)
    assert "and 432 more; not known: weight, bias" in refused(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, "SAM or MedSAM (ViT-B)"),
        ({"mask_decoder.iou_token.weight": torch.zeros(1, 256, dtype=torch.int8)}, "quantised to int8"),
        (
            {"mask_decoder.iou_token.weight": torch.full((1, 256), torch.nan)},
            "NaN or infinite values: mask_decoder.iou_token",
        ),
    ],
)
def test_a_file_of_medsam_of_integers_or_with_nan_is_called_what_it_is(
    official: State, tmp_path: Path, change: dict[str, Tensor], says: str
) -> None:
    save_file({**official, **change}, tmp_path / "w.safetensors")
    assert says in refused(tmp_path / "w.safetensors")


def test_a_half_precision_file_is_read_and_said_to_be_rounded(
    official: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(
        {key: v.half() if v.is_floating_point() else v for key, v in official.items()}, tmp_path / "w.safetensors"
    )
    model, _ = checkpoints.load_model(tmp_path / "w.safetensors", image_size=SIZE)
    assert all(value.dtype != torch.float16 for value in model.state_dict().values())
    assert "half precision" in caplog.text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_cut_or_holds_something_else_is_refused(official: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"page{suffix}"
    for content in (b"", b"not weights at all", b"<!DOCTYPE html><html>Too many users</html>"):
        path.write_bytes(content)
        assert "page" in refused(path)
    save_file(official, path) if suffix == ".safetensors" else torch.save(official, path)
    os.truncate(path, path.stat().st_size // 2)
    assert "page" in refused(path) and "again" in refused(path)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_and_never_run(official: State, tmp_path: Path, legacy: bool) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "pwned"
    bad = {"model": official, "payload": Malicious(target)}
    if legacy:
        path.write_bytes(pickle.dumps({"payload": Malicious(target)}, protocol=2))
    else:
        torch.save(bad, path)
    assert "wants to run code" in refused(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": torch.zeros(2), "note": "hello"}, "more than tensors: note"),
        ({}, "no state dict"),
        ([torch.zeros(2)], "no state dict"),
        (torch.zeros(3), "no state dict"),
    ],
)
def test_a_file_of_more_or_less_than_a_state_dict_is_refused(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    assert said in refused(path)


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.pth")
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "'.onnx' cannot be read safely" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize("size", [0, -4, 4, 30, 255])
def test_an_image_size_that_the_network_cannot_have_is_refused(size: int) -> None:
    with pytest.raises(BenchError, match=f"image_size {size}"):
        LiteMedSAM(size)
