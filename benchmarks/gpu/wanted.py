"""What the attention on a GPU should reach, as counted on a fake CUDA device: fp16, v3-base, forward and backward."""

# GB moved by the best way against the stock one, by (pairs, tokens): what the time should follow.
TIME = {(4, 512): 39 / 62.5, (2, 1024): 49 / 96.9, (8, 256): 32 / 46.1}
KERNELS = 1720  # of an encoder call, 4 pairs × 512
PEAK_GB = 5.8  # of a step, micro-batch 4 × 512
FROZEN = 0.55  # backward pass with six frozen layers against none
COPIES = 0  # blocking host-device copies in an encoder call
