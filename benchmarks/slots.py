"""Do slots find the objects of Collisions? The object encoder of C-JEPA trained alone, with several seeds.

Slots are the paper's, or with ``--seen`` what is seen where they look (``slots_seen``), as in C-JEPAs that plan.

FG-ARI and mBO are those of whole validation clips of 8 frames, 2 environment steps apart; training sees 2 frames at a
time. Every seed leaves a folder in ``runs/slots`` that C-JEPA takes as ``encoder_weights``, and a picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from pathlib import Path

import torch
from harness import Benchmark, start

from jepakit.callbacks.object_discovery import draw_objects, restore_pixels
from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules import Collisions
from jepakit.datamodules.base import Generate
from jepakit.zoo import CJEPAConfig, CJEPAModel, save_pretrained
from jepakit.zoo.metrics import foreground_ari, mean_best_overlap
from jepakit.zoo.module import warmup_cosine

CLIPS, FRAME_SKIP, FOLDER = 16, 2, Path("runs/slots")


def clips(bench: Benchmark, frames: int) -> Collisions:
    """Windows of so many frames with their true masks."""
    generate = Generate(episodes=60, steps=40) if bench.quick else Generate()
    data = Collisions(
        generate=generate,
        image_size=64,
        history=frames - 1,
        frame_skip=FRAME_SKIP,
        columns=("mask",),
        batch_size=CLIPS,
    )
    data.prepare_data()
    data.setup()
    return data


def train(model: CJEPAModel, data: Collisions, steps: int, lr: float = 1e-3) -> None:
    """AdamW, warm-up and cosine, gradients clipped: what the first phase of a C-JEPA fit does."""
    optimizer = torch.optim.AdamW(model.objects.parameters(), lr=lr, weight_decay=1e-3, fused=True)
    batches = itertools.chain.from_iterable(data.train_dataloader() for _ in itertools.count())
    model.train()
    for step, batch in enumerate(itertools.islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup_cosine(step, steps=steps, warmup_fraction=0.05)
        loss = model.objects.losses(model.normalise_frames(batch["pixels"]), step).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.objects.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: reconstruction {loss.item():.4f}", flush=True)
    model.step_done(steps)


@torch.no_grad()
def score(model: CJEPAModel, data: Collisions, picture: Path) -> dict[str, float]:
    """Mean FG-ARI, mBO and reconstruction error of all validation clips; the first three are drawn."""
    model.eval()
    results = []
    for batch in data.val_dataloader():
        losses = model.objects.losses(model.normalise_frames(batch["pixels"]), step=0)
        found = losses.outputs["masks"].argmax(dim=2)
        scores = [foreground_ari(batch["mask"], found), mean_best_overlap(batch["mask"], found)]
        results.append(torch.stack([*scores, losses.total.double().expand(len(found))]))
        if len(results) == 1:
            rebuilt = restore_pixels(model, losses.outputs["reconstruction"])
            draw_objects(batch["pixels"][:3], batch["mask"][:3], found[:3], rebuilt[:3], picture)
    fg_ari, mbo, error = torch.cat(results, dim=1).mean(dim=1).tolist()
    return {"fg_ari": fg_ari, "mbo": mbo, "reconstruction": error}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seen", action="store_true", help="slots are what is seen where they look")
    bench = start("slots", __doc__, parser)
    keep_freed_memory()
    torch.set_num_threads(1)
    steps = 20 if bench.quick else 10_000
    sizes = {"slots": 7, "slot_motion": 0.0, "frame_skip": FRAME_SKIP, "encoder_steps": steps}
    config = dataclasses.replace(CJEPAConfig.nano(), **sizes, slots_seen=bench.options.seen)
    for seed in bench.options.seeds:
        torch.manual_seed(seed)
        model = CJEPAModel(config)
        begun = time.process_time()
        train(model, clips(bench, 2), steps)
        spent = time.process_time() - begun
        folder = FOLDER / f"seed{seed}"
        save_pretrained(model, folder)
        bench.row(seed=seed, steps=steps, **score(model, clips(bench, 8), folder / "objects.png"), cpu_s=spent)
    bench.ratio("best FG-ARI / goal of 0.8", max(row["fg_ari"] for row in bench.rows) / 0.8)
    bench.finish()


if __name__ == "__main__":
    main()
