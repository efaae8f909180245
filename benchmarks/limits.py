"""What a training step of deberta-v3-base may cost on a GPU, counted by `make trace`: fp16, dropout on, pairwise."""

SHAPES = ((4, 512), (2, 1024), (8, 256))  # pairs, tokens in each of a pair's two sequences
STOCK_GB = dict(zip(SHAPES, (62.5, 96.9, 46.1)))  # moved by the attention of transformers, as counted
MOST_GB = dict(zip(SHAPES, (39, 49, 32)))  # moved in a forward and backward pass
MOST_KERNELS = 1720  # of 4 pairs of 512
MOST_MEMORY_GB = 5.8  # of a step in parts of 4 pairs of 512
MOST_FROZEN_SHARE = 0.55  # of the backward pass's bytes, 6 of 12 layers frozen
MOST_COPIES = 0  # between host and card, in an encoder call, for which the host waits
