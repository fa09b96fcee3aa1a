"""An installed package of methods for tests."""

from pathlib import Path

PLUGIN = '''
"""Methods for tests: quick to import, without torch."""
import json, os, random, re, signal, sys, time
import numpy as np
from gtvbench.adapters.base import Needs, Options, VolumeMethod
from gtvbench.adapters.slices import SliceMethod
from gtvbench.bench.core.errors import BenchError

class Killing:
    """Kills this process, or its parent, in place of the n-th publication of what GTVBENCH_TEST_KILL names."""
    def __init__(self, what, times, victim):
        self.what, self.times, self.victim = what, int(times), victim
    def __call__(self, event, args):
        if event != "os.rename" or not re.search(self.what, str(args[1])):
            return
        self.times -= 1
        if self.times == 0:
            os.kill(os.getppid() if self.victim == "parent" else os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the death of the parent ends this process

if "GTVBENCH_TEST_KILL" in os.environ:
    sys.addaudithook(Killing(*os.environ["GTVBENCH_TEST_KILL"].split()))

class FitOptions(Options):
    epochs: int = 4
    seconds: float = 0.1

class Threshold(VolumeMethod):
    """Learns one CT threshold, an epoch at a time, slowly; predicts without prompts."""
    needs = Needs(trains=True, fusions=("ct-only",))
    Options = FitOptions
    def fit(self, training, validation, work, recorder):
        state = work / "state.json"
        done, value = json.loads(state.read_text()) if state.exists() else (0, 0.0)
        for epoch in range(done, self.context.options.epochs):
            time.sleep(self.context.options.seconds)
            case = training[epoch % len(training)]
            value += float(case.images.raw("CT")[case.label() > 0].mean()) / self.context.options.epochs
            recorder.epoch(epoch, 1.0 / (epoch + 1), 2.0 / (epoch + 1))
            part = work / "part"
            part.write_text(json.dumps([epoch + 1, value]))
            os.replace(part, state)
        return {"best_epoch": self.context.options.epochs - 1}
    def load(self, fit):
        self.value = json.loads((fit / "state.json").read_text())[1]
    def segment(self, images, prompts):
        time.sleep(self.context.options.seconds)
        assert not prompts.boxes
        return (images.raw("CT") > self.value).astype(np.uint8)

class Sleeper(SliceMethod):
    """Takes 50 ms a slice to encode, and prints which GPU it was given."""
    def load(self, fit):
        print(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    needs = Needs(prompts=("box",), fusions=("ct-only",))
    def encode(self, slices):
        time.sleep(0.05 * len(slices))
        return slices
    def decode(self, embeddings, boxes):
        return [np.zeros((len(b), *embeddings.shape[1:3]), np.float32) for b in boxes]

class OddError(BenchError):
    """Comes out of no pickle."""
    def __init__(self, why, number):
        super().__init__(f"{why}, {number} times")

class Broken(VolumeMethod):
    """Breaks in the way that its option names: in every case, or in one, or in one for the first time only."""
    needs = Needs(fusions=("ct-only",))
    class Options(Options):
        how: str = "crash"
        case: str = ""
        once: str = ""
    def load(self, fit):
        if self.context.options.how == "load":
            raise OSError("no such weights")
    def segment(self, images, prompts):
        how, case, once = self.context.options.how, self.context.options.case, self.context.options.once
        if case not in ("", images.case) or (once and os.path.exists(once)):
            return (images.raw("CT") > 0).astype(np.uint8)
        if once:
            open(once, "w").close()
        if how == "crash":
            os.abort()
        if how == "hang":
            time.sleep(600)
        if how == "grow":
            self.kept = np.ones(1 << 27)  # 1 GB
            time.sleep(600)
        if how == "shape":
            return np.zeros((1, 2, 3), np.uint8)
        if how == "label":
            return np.full(images.grid.shape, 77, np.uint8)
        if how == "nothing":
            return None
        if how == "odd":
            raise OddError("it is odd", 3)
        raise ValueError("no luck")

class Dice(VolumeMethod):
    """Draws its answer from torch, which it imports when it is loaded, and from nobody's seed but the harness's."""
    needs = Needs(fusions=("ct-only",))
    def load(self, fit):
        import torch
        self.rand = torch.rand
    def segment(self, images, prompts):
        shape = images.grid.shape
        drawn = self.rand(shape).numpy() + np.random.random(shape) + random.random()
        return (drawn > 1.5).astype(np.uint8)

class Clicked(VolumeMethod):
    """Takes what nobody draws."""
    needs = Needs(prompts=("click",), fusions=("ct-only",))
    def segment(self, images, prompts):
        raise AssertionError

class NeedsPet(VolumeMethod):
    """Cannot do without PET, nor with fewer than three patients to be trained on."""
    needs = Needs(modalities=("PET",), fusions=("ct-only",))
    @classmethod
    def skip(cls, options, cohort):
        return None if cohort.patients.get("train", 0) > 2 else "it needs three patients to be trained on"
    def segment(self, images, prompts):
        raise AssertionError
'''


def install(folder: Path) -> Path:
    """Make a folder that, on PYTHONPATH, is an installed package with six methods."""
    (folder / "gtvbench_test_methods.py").write_text(PLUGIN)
    info = folder / "gtvbench_test_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gtvbench-test-methods\nVersion: 1.0\n")
    names = {
        "learned-threshold": "Threshold", "sleeper": "Sleeper", "broken": "Broken", "dice": "Dice",
        "clicked": "Clicked", "needs-pet": "NeedsPet",
    }  # fmt: skip
    lines = [f"{name} = gtvbench_test_methods:{cls}" for name, cls in names.items()]
    (info / "entry_points.txt").write_text("[gtvbench.adapters]\n" + "\n".join(lines) + "\n")
    return folder
