"""Where results come from: versions, hardware, seeds and digests; never names of people, hosts or folders."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "numpy", "scipy", "pandas", "SimpleITK", "surface-distance", "torch", "torchvision", "timm", "segment-anything",
    "nnunetv2",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions and hardware of this machine; torch is not imported for it."""
    return {
        "gtvbench": importlib.metadata.version("gtvbench"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "git": _git_commit(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": usable_cores(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "gpu": _gpu_name(),
        },
    }


def origin(device: str, devices: int = 1) -> dict[str, Any]:
    """Where a result is computed: device, its name, the machine (a digest that only tells machines apart), versions.

    `device` is "cpu", "cuda" or "mps"; where a fit uses several `devices`, their number is part of the name. torch is
    asked for a GPU's name where a method has imported it.
    """
    torch = sys.modules.get("torch")
    name = torch.cuda.get_device_name() if torch is not None and device == "cuda" else _cpu_name()
    name = name if devices == 1 else f"{devices} x {name}"
    machine = Path("/etc/machine-id")
    identity = f"{platform.node()} {machine.read_text() if machine.is_file() else uuid.getnode()}"
    return {
        "device": device,
        "device_name": name if device != "mps" else f"{name} (MPS)",
        "cores": usable_cores(),
        "host": hashlib.sha256(identity.encode()).hexdigest()[:8],
        "gtvbench": importlib.metadata.version("gtvbench"),
        "torch": None if torch is None else str(torch.__version__),
    }


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpu_name() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    return _output([tool, "--query-gpu=name", "--format=csv,noheader"])


def _git_commit() -> str | None:
    """Commit of the source tree where gtvbench runs from one (an editable install), else None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or "site-packages" in root.parts:
        return None
    return _output(["git", "-C", str(root), "rev-parse", "HEAD"])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def has_accelerator() -> bool:
    """Whether it is worth asking torch for a GPU; asked before torch is imported."""
    return sys.platform == "darwin" or Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
