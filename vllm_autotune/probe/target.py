"""The server that is probed, and how patient to be with it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running server: `model` is the name it must serve, lengths are in tokens.

    With dummy weights it need not `speak`: their tokens may stand for no text. A `shared` one
    serves others meanwhile: it is not filled up, and what they do to it is not held against it.
    One whose memory may have been `spilled` to the host by the driver is judged by its speed; on
    a CPU there is nowhere to spill to, and whatever else runs slows it. Where it is to be
    deployed with a shorter context than it serves now, `deployed_len` is what is proven. `adapter`
    is the name of one it serves besides.
    """

    url: str
    model: str
    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    deployed_len: int | None = None
    kv_tokens: int | None = None
    max_num_batched_tokens: int | None = None
    adapter: str | None = None
    speaks: bool = True
    pooling: bool = False
    shared: bool = False
    spilled: bool = False
    api_key: str | None = field(default=None, repr=False)

    @property
    def full_context(self) -> int:
        """Return the context to prove, in tokens."""
        return min(self.max_model_len, self.deployed_len or self.max_model_len)

    @property
    def headers(self) -> dict[str, str]:
        """Return what every request carries."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server's counters may stand still before it counts as hung, in seconds.

    They move once per step of the engine, and a CPU may compute minutes on one batch (seen: 90 s
    for 2048 tokens, five times what a prompt of 32 foretold): wait `factor` times what the step
    should take by the speed measured so far, but `least` at the least; `most` is for the time
    before anything was measured. What moves but never ends may take `endless` times as long as it
    should, or that many times `least`; before anything was measured, four times `most`. Counters
    are looked at every `every` seconds.
    """

    factor: float = 20.0
    least: float = 60.0
    most: float = 600.0
    endless: float = 10.0
    every: float = 1.0

    def still(self, expected: float | None) -> float:
        """Return how long nothing may move in a step that should take so many seconds."""
        return self.most if expected is None else max(self.least, self.factor * expected)

    def whole(self, expected: float | None) -> float:
        """Return how long work may take that should take so many seconds."""
        return 4 * self.most if expected is None else self.endless * max(self.least, expected)
