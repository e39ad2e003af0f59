"""The server that is probed, how fast it was so far, and how patient to be with it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running server: `model` is the name it must serve, lengths are in tokens.

    One that does not `speak` may write tokens without text, as dummy weights do. A `shared` one
    serves others meanwhile: it is not filled up, and is not blamed for what they do to it. Only
    where memory may have `spilled` from the GPU to the host is a slower server a failed one; on a
    CPU there is nowhere to spill to, and other programs slow it down. `deployed_len` is the context
    to prove where the server is to be deployed with a shorter one than it has now. `adapters` are
    the names of those that it serves too; one that `drafts` guesses tokens ahead. `swap` is the
    flag that gives requests that wait room in the host's memory. `images` is how many of them a
    prompt may have, None where it is not known to take any; `images_flag` is the flag that says so.
    `image_tokens` is what the largest image takes where images are made smaller.
    """

    url: str
    model: str
    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    deployed_len: int | None = None
    kv_tokens: int | None = None
    max_num_batched_tokens: int | None = None
    adapters: tuple[str, ...] = ()
    drafts: bool = False
    swap: str | None = None
    images: int | None = None
    images_flag: str | None = None
    image_tokens: float | None = None
    speaks: bool = True
    pooling: bool = False
    shared: bool = False
    spilled: bool = False
    api_key: str | None = field(default=None, repr=False)

    @property
    def full_context(self) -> int:
        return min(self.max_model_len, self.deployed_len or self.max_model_len)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass
class Throughput:
    """Seconds per token; `reading` is None until something was answered."""

    reading: float | None = None
    writing: float = 0.0

    def learn(self, reading: float, writing: float | None) -> None:
        """Keep the fastest reading and the slowest writing."""
        self.reading = min(reading, self.reading or reading)
        self.writing = max(writing or 0.0, self.writing)

    def seconds(self, read: int, written: int) -> float | None:
        """Return how long so many tokens should take, None before anything was measured."""
        return None if self.reading is None else read * self.reading + written * self.writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server's counters may stand still before it counts as hung, in seconds.

    They move once per step of the engine, and a CPU may compute minutes on one batch (seen: 90 s
    for 2048 tokens, five times what a prompt of 32 foretold). So wait `step_factor` times what the
    step should take by the speed measured so far, and at least `min_seconds`; before anything was
    measured, `first_seconds`. A request whose counters move may take `finish_factor` times as long
    as it should, or that many times `min_seconds`; before anything was measured, four times
    `first_seconds`. Counters are read every `poll_seconds`.
    """

    step_factor: float = 20.0
    min_seconds: float = 60.0
    first_seconds: float = 600.0
    finish_factor: float = 10.0
    poll_seconds: float = 1.0

    def stall_seconds(self, expected: float | None) -> float:
        """Return how long no counter may move in a step that should take `expected` seconds."""
        if expected is None:
            return self.first_seconds
        return max(self.min_seconds, self.step_factor * expected)

    def finish_seconds(self, expected: float | None) -> float:
        """Return how long requests may take that should take `expected` seconds."""
        if expected is None:
            return 4 * self.first_seconds
        return self.finish_factor * max(self.min_seconds, expected)
