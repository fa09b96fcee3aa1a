"""Pseudonyms of patients: what a study calls them, and the key file that alone leads back to their IDs.

A pseudonym is "P-" and eight characters of HMAC-SHA256(secret, ID), so that nobody without the key file can try out
IDs, and a patient who is left out, or comes later, changes no other's name. The secret is drawn when the key file is
made. Whoever has the key file has the patients: it is the owner's alone (mode 0600) and lies outside every run folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtvbench.bench.core.errors import DataError, why

#: Digits and letters without I, L, O, U (Crockford's base 32): none is taken for another, and no word comes of it.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 8
_SECRET_BYTES = 32
_PSEUDONYM = re.compile(rf"P-[{ALPHABET}]{{{LENGTH}}}")
_DO_NOT_REPLACE = (
    "put it back from a copy; do not make a new one: every patient would get another name, and what was made under the "
    "old ones could not be told apart any more"
)


@dataclass
class Pseudonyms:
    """The names of one key file. Instances in several processes may share a file; it is read again before it grows."""

    file: Path
    _secret: bytes
    _patients: dict[str, str]

    @classmethod
    def open(cls, key_file: Path) -> Pseudonyms:
        """Read a key file, or make it where it is missing.

        Raises DataError where it is damaged, where others may read it, where it lies in a run folder, and where it can
        be neither read nor made.
        """
        path = key_file.expanduser().resolve()
        _refuse_run_folder(path)
        if not path.exists():
            _make(path)
        secret, patients = _read(path)
        return cls(path, secret, patients)

    def of(self, patient_id: str) -> str:
        """The pseudonym of a patient; one not seen before is written to the key file. See `names`."""
        return self.names([patient_id])[patient_id]

    def names(self, patient_ids: Iterable[str]) -> dict[str, str]:
        """The pseudonym of each patient, by ID; all that are new are written to the key file at once.

        Raises DataError where an ID is empty or the key file cannot be written.
        """
        wanted = list(dict.fromkeys(patient_ids))
        if not all(patient_id.strip() for patient_id in wanted):
            raise DataError(
                "a patient without an ID can have no pseudonym",
                remedy="give the patient an ID where the data come from, or leave the patient out",
            )
        found = {patient_id: name for name, patient_id in self._patients.items()}
        if any(patient_id not in found for patient_id in wanted):
            self._add(wanted)
            found = {patient_id: name for name, patient_id in self._patients.items()}
        return {patient_id: found[patient_id] for patient_id in wanted}

    def patient_id(self, pseudonym: str) -> str | None:
        """The patient of a pseudonym, None where the key file does not have it."""
        return self._patients.get(pseudonym)

    def _add(self, patient_ids: Iterable[str]) -> None:
        with _locked(self.file):
            # Another process may have added its patients since.
            self._secret, patients = _read(self.file)
            known = set(patients.values())
            # Sorted: whoever comes second in a collision does so whatever the order of the files.
            for patient_id in sorted(set(patient_ids) - known):
                patients[_free_name(self._secret, patient_id, patients)] = patient_id
            if len(patients) > len(known):
                _write(self.file, self._secret, patients)
        self._patients = patients


def pseudonym(secret: bytes, patient_id: str, attempt: int = 0) -> str:
    """The name of an ID under a secret; a later `attempt` is for an ID whose name another patient has already."""
    digest = hmac.new(secret, f"{attempt}:{patient_id}".encode(), hashlib.sha256).digest()
    number = int.from_bytes(digest[:8], "big")
    return "P-" + "".join(ALPHABET[number >> 5 * place & 31] for place in range(LENGTH))


def _free_name(secret: bytes, patient_id: str, taken: dict[str, str]) -> str:
    attempt = 0
    while (name := pseudonym(secret, patient_id, attempt)) in taken:
        attempt += 1
    return name


def _refuse_run_folder(path: Path) -> None:
    for folder in path.parents:
        if (folder / "run.json").exists():
            raise DataError(
                "the key file of the pseudonyms lies in a run folder, which is there to be shown and sent",
                file=path,
                remedy="move it to a folder of its own",
            )


def _make(path: Path) -> None:
    try:
        fresh = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if fresh:  # the folder lies beside a study file, one `git add` away from a commit
            (path.parent / ".gitignore").write_text("*\n")
    except OSError as error:
        raise _not_writable(path, error) from error
    with _locked(path):
        if not path.exists():
            _write(path, secrets.token_bytes(_SECRET_BYTES), {})


def _read(path: Path) -> tuple[bytes, dict[str, str]]:
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read()
    except OSError as error:
        raise DataError(
            f"the key file of the pseudonyms cannot be read: {why(error)}",
            file=path,
            remedy="let its owner run the study",
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise DataError(
            "others than its owner may use the key file of the pseudonyms", file=path, remedy=f"chmod 600 {path}"
        )
    try:
        return _parsed(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError("the key file of the pseudonyms is damaged", file=path, remedy=_DO_NOT_REPLACE) from error


def _parsed(record: Any) -> tuple[bytes, dict[str, str]]:
    secret = bytes.fromhex(record["secret"])
    patients = {str(name): patient_id for name, patient_id in record["patients"].items()}
    if len(secret) != _SECRET_BYTES or len(set(patients.values())) < len(patients):
        raise ValueError
    if not all(_PSEUDONYM.fullmatch(name) and isinstance(value, str) for name, value in patients.items()):
        raise ValueError
    return secret, patients


def _write(path: Path, secret: bytes, patients: dict[str, str]) -> None:
    """Whole or not at all, and at no moment for others to read."""
    record = {"secret": secret.hex(), "patients": dict(sorted(patients.items()))}
    part = None
    try:
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)  # mode 0600
        part = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes or adds to a key file; readers need no lock, since it is replaced whole."""
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _not_writable(path, error) from error
        yield
    finally:
        os.close(descriptor)


def _not_writable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the key file of the pseudonyms cannot be written: {why(error)}",
        file=path,
        remedy="make its folder writable for you, or name another key file if none was in use before",
    )
