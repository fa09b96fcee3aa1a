"""What a process of its own does with a key file; a module that a spawned process can import wherever it starts."""

from pathlib import Path
from typing import Any

from gtvbench.datasets.dicom.pseudonyms import Pseudonyms


def ask(path: Path, ids: list[str], barrier: Any, queue: Any) -> None:
    barrier.wait()
    queue.put(Pseudonyms.open(path).names(ids))
