"""Everything that is worth knowing on a GPU, in one run: SIGReg, training steps, encoders, plans.

Paper-size models with random weights. ``--quick`` takes nano models and few repeats and runs anywhere, a CPU included,
so that nothing is found out on the GPU that could have been found out before. A part that fails is reported and the
others go on; the exit status says so.

Wall times after warm-up, the device waited for. MFU is the share of the device's own rate for large matrix products
of the same precision, measured in the same run; operations are those of the model's own matrix products, forward and
backward.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import Benchmark, median, seconds, start
from plain_lewm import make_pair
from planner import PAPER, fast_planner, planning, with_random_weights
from sigreg import FORMS, peak_bytes, value_and_gradient, wait
from train_step import make_batch, plain_loss, stepper

from jepakit.cli.runtime import keep_freed_memory
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning.evaluation import measure_latency
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import (
    CJEPAConfig,
    CJEPAModel,
    DINOWMConfig,
    DINOWMModel,
    LeWMConfig,
    LeWMModel,
    PLDMConfig,
    PLDMModel,
)
from jepakit.zoo.base import WorldModel
from jepakit.zoo.losses.sigreg import random_directions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def timed(call: Callable[[], object], repeats: int, warmup: int = 3) -> float:
    """Median seconds of a call, the device waited for."""
    return median(seconds(lambda: (call(), wait(DEVICE)), repeats=repeats, warmup=warmup))


def autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    """bf16 where matrix products allow it, or nothing."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def peaks(bench: Benchmark) -> dict[str, float]:
    """Operations per second of a large matrix product, by precision; float32 as fp32 and as TF32."""
    size = 512 if bench.quick else 8192
    found = {}
    for name, dtype in {**PRECISIONS, "tf32": torch.float32}.items():
        a = torch.randn(size, size, device=DEVICE, dtype=dtype)
        with tf32(name == "tf32"):
            found[name] = 2 * size**3 / timed(lambda a=a: a @ a, 3 if bench.quick else 20)
        bench.row(part="machine", precision=name, matmul_tflop_per_s=found[name] / 1e12)
    return found


@contextlib.contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let float32 matrix products and convolutions round their inputs to TF32, or neither.

    The two have switches of their own, and PyTorch lets convolutions round unless told.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def sigreg(bench: Benchmark, repeats: int) -> None:
    """Forward and backward of T = 4, B = 128, D = 192, 1024 directions."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(16 if bench.quick else 128, 4, 192, generator=generator).to(DEVICE)
    directions = random_directions(192, 1024, seed=0, step=0, device=DEVICE)
    forms = dict(FORMS)
    if not bench.quick:
        forms |= {f"{name}, compiled": torch.compile(form) for name, form in FORMS.items()}
    times = {}
    for name, form in forms.items():

        def call(form: Callable[[Tensor, Tensor], Tensor] = form) -> object:
            return value_and_gradient(form, z, directions)

        times[name] = timed(call, repeats)
        bench.row(part="sigreg", case=name, ms=1e3 * times[name], peak_mb=peak_bytes(call, DEVICE) / 2**20)
        if name != "textbook":
            bench.ratio(f"sigreg, textbook / {name}", times["textbook"] / times[name])


def families(quick: bool) -> dict[str, tuple[Callable[[], WorldModel], int]]:
    """Models to train, and windows per step."""
    if quick:
        small = {"cnn_channels": (4, 6), "encoder_size": 32, "encoder": "cnn", "image_size": 32}
        slots = CJEPAConfig(image_size=32, slots=2, slot_dim=16, predictor_depth=1)
        return {
            "LeWM": (lambda: LeWMModel(LeWMConfig(vit_depth=1, predictor_depth=1)), 2),
            "PLDM": (lambda: PLDMModel(PLDMConfig.nano()), 8),
            "DINO-WM": (lambda: DINOWMModel(DINOWMConfig(**small, predictor_depth=1)), 2),
            "C-JEPA, object encoder": (lambda: CJEPAModel(slots), 4),
            "C-JEPA, predictor": (lambda: with_trained_slots(slots), 4),
        }
    return {
        "LeWM": (lambda: LeWMModel(LeWMConfig()), 256),
        "PLDM": (lambda: PLDMModel(PLDMConfig()), 256),
        "DINO-WM": (lambda: DINOWMModel(DINOWMConfig()), 32),
        "C-JEPA, object encoder": (lambda: CJEPAModel(CJEPAConfig(image_size=64)), 256),
        "C-JEPA, predictor": (lambda: with_trained_slots(CJEPAConfig(image_size=64)), 256),
    }


def with_trained_slots(config: CJEPAConfig) -> CJEPAModel:
    """C-JEPA in its second phase: the object encoder counts as trained, the predictor is what learns."""
    model = CJEPAModel(config)
    model.objects.trained.fill_(True)
    model.objects.requires_grad_(False)  # gets no gradients either way, but torch's counter asks
    return model


def operations(model: torch.nn.Module, loss: Callable[[], Tensor]) -> int:
    """Operations of a training step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    model.zero_grad()
    return int(counter.get_total_flops())


def training(bench: Benchmark, peak: dict[str, float], repeats: int) -> None:
    """Steps of all families, fp32 and bf16, compiled or not; LeWM beside the plain one. Nothing is rounded to TF32."""
    for family, (build, windows) in families(bench.quick).items():
        torch.manual_seed(0)
        model = build().to(DEVICE).train()
        batch = make_batch(model.config, windows, DEVICE)
        cases: dict[str, tuple[torch.nn.Module, Callable[[], Tensor]]] = {
            "jepakit": (model, lambda model=model, batch=batch: model.losses(batch).total)
        }
        if family == "LeWM":
            plain = make_pair(model.config)[0].to(DEVICE)
            cases = {"plain": (plain, plain_loss(plain, model.config, batch)), **cases}
        flops = {name: operations(*case) for name, case in cases.items()}
        if not bench.quick:
            compiled = torch.compile(model.losses)
            cases["jepakit, compiled"] = (model, lambda losses=compiled, batch=batch: losses(batch).total)
            flops["jepakit, compiled"] = flops["jepakit"]
        times = {}
        for precision in PRECISIONS:
            for name, (trained, loss) in cases.items():

                def cast(loss: Callable[[], Tensor] = loss, precision: str = precision) -> Tensor:
                    with autocast(precision):
                        return loss()

                if DEVICE.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                with tf32(False):
                    times[name] = timed(stepper(trained, cast, fused=DEVICE.type == "cuda"), repeats)
                row = {"part": "training", "family": family, "precision": precision, "case": name, "windows": windows}
                bench.row(
                    **row,
                    ms=1e3 * times[name],
                    windows_per_s=windows / times[name],
                    mfu=flops[name] / times[name] / peak[precision],
                    peak_gb=torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None,
                )
                if "plain" in times and name != "plain":
                    bench.ratio(f"{family}, {precision}, plain / {name}", times["plain"] / times[name])


def plans(bench: Benchmark, repeats: int) -> None:
    """Encoding a frame, and whole plans: CEM 300×30 and the small budget, for several environments at once."""
    config = LeWMConfig.nano() if bench.quick else LeWMConfig()
    model = with_random_weights(config)
    dear = {**PAPER, "cem": {**PAPER["cem"], "iterations": 2}} if bench.quick else PAPER
    budgets = {"CEM 300×30": PlannerConfig.parse(dear, where="PAPER"), "fast.yaml": fast_planner()}
    for compiled in (False,) if bench.quick else (False, True):
        for rounded in (False, True):
            for environments in (1, 2) if bench.quick else (1, 16, 256):
                backend = TorchBackend(
                    model,
                    device=DEVICE,
                    compiled=compiled,
                    environments_per_call=min(environments, 16),
                    candidates_per_call=300,
                )
                case = {"compiled, CUDA graph": compiled, "tf32": rounded, "environments": environments}
                with tf32(rounded):
                    if environments == 1:
                        frame = np.zeros((1, 1, config.image_size, config.image_size, 3), np.uint8)
                        encode = measure_latency(lambda b=backend, f=frame: b.encode(f), repeats=repeats, warmup=3)
                        bench.row(part="encoder", **case, **dataclasses.asdict(encode))
                    for name, budget in budgets.items():
                        call = planning(backend, budget, environments)
                        few = max(3, repeats // environments)
                        found = measure_latency(call, repeats=few, warmup=1 if environments > 16 else 3)
                        bench.row(part="plan", budget=name, **case, **dataclasses.asdict(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    names = ("sigreg", "training", "plans")
    parser.add_argument("--parts", nargs="+", default=names, choices=names)
    bench = start("gpu", __doc__, parser)
    keep_freed_memory()
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(DEVICE)
        bench.row(
            part="machine", gpu=properties.name, memory_gb=properties.total_memory / 2**30, torch=torch.__version__
        )
    repeats = 2 if bench.quick else 30
    peak = peaks(bench)
    parts: dict[str, Callable[[], Any]] = {
        "sigreg": lambda: sigreg(bench, repeats),
        "training": lambda: training(bench, peak, repeats),
        "plans": lambda: plans(bench, repeats),
    }
    failed = []
    for name in bench.options.parts:
        try:
            parts[name]()
        except Exception:  # the other parts are worth having
            traceback.print_exc()
            failed.append(name)
        bench.finish()  # after every part: what is cut off is only what was not done
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
