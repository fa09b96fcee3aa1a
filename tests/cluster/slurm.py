"""A SLURM of one machine for tests: munged, slurmctld and slurmd, as root, with two partitions.

    python tests/cluster/slurm.py FOLDER      start, print `export SLURM_CONF=...`, and stay until it is interrupted

Debian: apt-get install slurm-wlm munge. The node claims eight cores and one GPU that is not there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
SlurmctldPort=16817
SlurmdPort=16818
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def available() -> str | None:
    """Why no SLURM can be started here, or None."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return None if os.geteuid() == 0 else "slurmd wants to be root"


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Start the daemons in a folder; yields the configuration file that SLURM_CONF must name."""
    folder = folder.resolve()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    host = os.uname().nodename.partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder))
    (folder / "gpu0").touch()
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu0\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(conf)}
    socket = folder / "munge.socket"
    commands = [
        ["munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            deadline = time.monotonic() + 20
            while command[0] == "munged" and not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        _wait_until_idle(environment)
        yield conf
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--user=root"], env=environment, timeout=10, check=False)
            time.sleep(1)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        told = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True, check=False
        )
        if "idle" in told.stdout:
            return
        time.sleep(0.5)
    raise RuntimeError(f"SLURM did not become ready: {told.stdout}{told.stderr}")


def main() -> None:
    """Command line."""
    reason = available()
    if reason is not None:
        sys.exit(reason)
    with slurm(Path(sys.argv[1])) as conf, suppress(KeyboardInterrupt):
        sys.stdout.write(f"export SLURM_CONF={conf}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
