"""The environment that a result depends on besides the code: torch, Python, processor, threads."""

from __future__ import annotations

import platform

import torch


def environment(device: str = "cpu") -> dict[str, str | int | bool]:
    """A description of the environment on ``device``, which may be missing here, in plain values
    that JSON can hold."""
    described: dict[str, str | int | bool] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = properties.name
        described["compute_capability"] = f"{properties.major}.{properties.minor}"
        described["cuda"] = torch.version.cuda or ""
        described["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return described


def one_line(described: dict[str, str | int | bool]) -> str:
    """The description in one line: ``torch 2.13.0, python 3.11.7, ...``."""
    return ", ".join(f"{name} {value}" for name, value in described.items())
