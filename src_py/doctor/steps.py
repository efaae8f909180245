"""What becomes of every optimizer step: its rate, whether weights move, and whether gradients are set to zero."""

import torch

TENSORS, VALUES = 6, 4096  # biases and norms that are looked at, which every step moves; and values of each
RECENT, STILL_SHARE, LEAST_STILL = 50, 0.25, 10  # steps looked back at, and how many of them may change nothing
NEVER = 20  # first steps that all change nothing: nothing will
ZERO_RATES = 5  # in a row; a schedule that touches zero goes on from it
LEAST_RATE = 1e-9  # below, rounding may leave a weight where it is
LEFT_LOOKS = 10  # steps at whose beginning gradients are looked at


class Steps:
    """Looks at a few small tensors before and after every step; `notes` are sentences, `lost` why nothing can come."""

    def __init__(self, model: torch.nn.Module):
        trained = [p for p in model.parameters() if p.requires_grad]
        small = [p for p in trained if p.ndim < 2] or trained
        self.watched = small[:: max(1, len(small) // TENSORS)] + small[-1:]  # the head's at least
        self.rates: list[float] = []
        self.still: list[bool] = []
        self.lost: str | None = None
        self.notes: dict[str, str] = {}  # a kind is said once
        self._before: list[torch.Tensor] = []
        self._looks = 0

    def begin(self) -> None:
        """At the beginning of a step, when the last one's gradients should be gone."""
        if not self.rates or self._looks >= LEFT_LOOKS:
            return
        self._looks += 1
        if any(p.grad is not None and bool(p.grad.any()) for p in self.watched):
            self._note("left", "gradients are not set to zero between steps, so that they add up; call "
                               "model.zero_grad() after every step.")  # fmt: skip

    def before(self, optimizer) -> None:
        """Before the optimizer's step."""
        self.rates.append(max((float(group["lr"]) for group in optimizer.param_groups), default=0.0))
        self._before = [values.clone() for values in self._values()]

    def after(self, step: int, max_steps: int, scaled: bool = False) -> None:
        """After the optimizer's step, number `step`; with a scaled loss (fp16), steps are skipped for good reason."""
        if not self._before:
            return
        zero = [rate == 0 for rate in self.rates[-ZERO_RATES:]]
        if len(zero) == ZERO_RATES and all(zero) and step < 0.9 * max_steps:
            where = "the learning rate is zero"
            if not any(self.rates):
                self.lost = f"{where} in every step: is the scheduler never stepped, or the rate not set?"
            else:
                self._note("rate", f"{where} from step {step - ZERO_RATES + 1} of {max_steps} on: is the scheduler "
                                   "stepped more than once a step, or made for fewer steps?")  # fmt: skip
        if self.rates[-1] > LEAST_RATE and not scaled:
            self.still.append(all(map(torch.equal, self._before, self._values())))
        recent = self.still[-RECENT:]
        if len(self.still) == NEVER and all(self.still):
            self.lost = "no step has changed the weights: does the optimizer hold this model's parameters?"
        elif sum(recent) >= max(LEAST_STILL, STILL_SHARE * len(recent)):
            self._note("still", "many steps change no weight: is the loss scale too low, or are gradients removed?")

    def _note(self, kind: str, sentence: str) -> None:
        self.notes.setdefault(kind, sentence)

    def _values(self) -> list[torch.Tensor]:
        return [p.detach().reshape(-1)[:VALUES] for p in self.watched]
