"""What a run must remember of its input and must not tell: the study as it was given, paths and all, for exports.

It lies in RUN/private (owner only, mode 0700), apart from everything that may be shown or sent to others.
"""

from __future__ import annotations

import json
from pathlib import Path

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.files.store import write_atomically
from gtvbench.bench.study.file import Study, read_study

FOLDER = "private"


def write_private(run: Path, study: Study, base: Path) -> None:
    """Write RUN/private/study.json, readable by its owner alone; raises StoreError where it cannot be written."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    write_atomically(folder / ".gitignore", "*\n")
    record = {"base": str(base.resolve()), "study": study.model_dump(mode="json", by_alias=True, exclude_none=True)}
    path = folder / "study.json"
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    path.chmod(0o600)


def read_private(run: Path, study_file: Path | None = None) -> tuple[Study, Path]:
    """The study of a run and the folder that its relative paths start from.

    `study_file` is read instead where the private part of the run folder was left behind. Raises StoreError where
    neither is there.
    """
    if study_file is not None:
        return read_study(study_file), study_file.resolve().parent
    path = run / FOLDER / "study.json"
    try:
        record = json.loads(path.read_text())
        return Study.model_validate(record["study"]), Path(record["base"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "the run folder does not tell where its input lies",
            file=path,
            remedy="give the study file that it was made with: --study FILE",
        ) from error
