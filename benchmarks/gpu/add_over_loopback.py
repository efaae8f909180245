"""One of two processes: it adds its rank plus one to the other's, and the first says the sum (3)."""

import torch
from torch import distributed

from src_py.training.worker import die_with_parent, join_group


def main() -> None:
    die_with_parent()
    join_group()
    own = torch.full((), distributed.get_rank() + 1.0, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.all_reduce(own)
    if distributed.get_rank() == 0:
        print(f"sum {int(own)}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
