"""Cut a batch of sequences into groups of about equal length, so that little padding is computed."""

# Tokens of padding for which another call of the encoder is worth while. Measured on 2,838 real pairs: 128 leaves 4 %
# padding at 2.2 calls a batch of 4,096 tokens, 512 leaves 12 % at 1.2.
CALL = 128


def length_groups(lengths: list[int], call: int = CALL) -> list[tuple[list[int], int]]:
    """Groups (positions in `lengths`, their greatest length) with the least padding and calls, longest first.

    The cheapest of all cuts of the sorted lengths, by dynamic programming; a group costs its tokens, padding included,
    and `call`.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    least, begins = [0.0], [0]
    for end in range(1, len(order) + 1):
        costs = [least[start] + (end - start) * lengths[order[start]] + call for start in range(end)]
        begins.append(min(range(end), key=costs.__getitem__))
        least.append(costs[begins[-1]])
    groups, end = [], len(order)
    while end:
        groups.append((order[begins[end] : end], lengths[order[begins[end]]]))
        end = begins[end]
    return groups[::-1]
