"""From counted work to an estimated time: a roofline."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Rates that a card holds, not those of its data sheet.

    Attributes:
        operations: floating-point operations a second in fp16 matrix products.
        bandwidth: bytes a second between the cores and the card's memory.
        uncertainty: share by which an estimate may be wrong.
    """

    name: str
    operations: float
    bandwidth: float
    uncertainty: float

    def seconds(self, moved: float, operations: float) -> float:
        """Time of one kernel: whichever takes longer, to compute or to move `moved` bytes.

        Launches, the time in which the card waits for the host, and access patterns are not in it.
        """
        return max(operations / self.operations, moved / self.bandwidth)


# 24 TFLOP/s: what one user measured in a large fp16 product under the card's 70 W (its data sheet says 65). 250 GB/s:
# of 320 on the data sheet, the share that simple kernels usually reach. Assumed, not measured here: hence 30 %.
T4 = Card("T4", operations=24e12, bandwidth=250e9, uncertainty=0.3)
