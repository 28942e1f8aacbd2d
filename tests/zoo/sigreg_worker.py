"""One of two processes that share a batch unevenly; rank 0 also computes the whole. Arguments: FOLDER RANK."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from jepakit.zoo.losses.sigreg import random_directions, sigreg

WINDOWS, FIRST = 24, 10


def main(folder, rank):
    torch.set_num_threads(1)
    x = torch.randn(WINDOWS, 3, 5, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    directions = random_directions(4, 16, seed=0, step=7, device=torch.device("cpu"))
    if rank == 0:
        value = sigreg(x @ weight, directions)
        (gradient,) = torch.autograd.grad(value, weight)
        torch.save({"value": value.detach(), "gradient": gradient}, folder / "whole.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    mine = x[:FIRST] if rank == 0 else x[FIRST:]
    value = sigreg(mine @ weight, directions, across_ranks=True)
    (gradient,) = torch.autograd.grad(value, weight)
    apart = sigreg(mine @ weight, directions).item()
    found = {"value": value.item(), "gradient": gradient.tolist(), "apart": apart}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
