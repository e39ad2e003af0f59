"""How many requests of which length: all that the server must bear, as far as there is time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..probe.target import Target
from ..workload import Workload

# At most so many requests in one item; each is a connection, and a process may have 1024.
MAX_LONG = 8
MAX_SHORT = 512
MAX_MIXED = 8
MAX_SESSIONS = 4
# What each turn of a session adds, as a share of the context: tools return much at once.
TURNS = (1 / 64, 1 / 4, 1 / 64, 1 / 64, 3 / 8, 1 / 64, 1)
SHORT_PROMPT = 32
SHORT_OUTPUT = 8
# So many short requests make a round.
ROUND = 8
# The client that leaves takes this fraction of the KV cache.
ABANDONED = 8
# What images and text may fill: a template may count images, or break the lines of a text.
FILLED = 0.98
# So many short requests are sent to a server that others use, or in a hurry; otherwise at least.
FEW_SHORT = 4
# Seconds that one item may take by the speed measured, by effort.
SECONDS = {"quick": 1.5, "standard": 8.0, "soak": 8.0}
# To fill the KV cache kills more servers than anything else and may take longer: 5 prompts of
# 32,768 tokens on a 72B model in fp8 that reads 5,200 tokens a second (H200).
FILLING_SECONDS = {**SECONDS, "standard": 32.0, "soak": 32.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Requests sent together, each with the tokens of its prompt and of its answer.

    `staggered`, each is sent when the one before it has its first token. `note` says what was
    shortened, or why nothing is sent.
    """

    requests: tuple[tuple[int, int], ...]
    staggered: bool = False
    note: str | None = None

    @property
    def tokens(self) -> int:
        return sum(prompt + output for prompt, output in self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Conversations `at_once`: at each turn the tokens of all the prompt so far, and of the answer.

    `note` says what was shortened, or why there is no turn.
    """

    turns: tuple[tuple[int, int], ...]
    at_once: int = 1
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the largest image of a server costs: tokens, and the seconds until it is answered.

    `beside` are the tokens of a chat without image and text, `word` those of a word.
    """

    width: int
    height: int
    tokens: int
    seconds: float
    beside: int
    word: float

    def fits(self, length: int) -> bool:
        return self.tokens + self.beside + SHORT_OUTPUT <= length


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """A request of so many images and words, and how many of it are sent at once.

    `note` says what was shortened.
    """

    images: int
    words: int
    at_once: int
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The bursts for one server; `tokens_per_second` is the speed measured so far.

    `room` is how many tokens others leave in the KV cache, None where there are no others.
    """

    target: Target
    workload: Workload
    tokens_per_second: float = math.inf
    room: int | None = None

    def full_context(self) -> Burst:
        """Return one request of exactly the context, shortened only if others need the room."""
        longest = self.target.full_context
        if self.room is None or self.room >= longest:
            return Burst(requests=(self._split(longest, self.workload.output_tokens),))
        note = f"{self.room:,} of {longest:,} tokens: other requests use the KV cache"
        return Burst(requests=(self._split(self.room, self.workload.output_tokens),), note=note)

    def one_short(self) -> Burst:
        return Burst(requests=(self._short(),))

    def short_round(self) -> Burst:
        return Burst(requests=(self._short(),) * ROUND)

    def long_prompts(self) -> Burst:
        """Return prompts that fill the KV cache, at full length at least the wanted concurrency."""
        longest, asked = self.target.full_context, self.workload.concurrency
        tokens = self._cache
        fits = min(max(2, asked, tokens // longest), self.target.max_num_seqs)
        wanted = min(fits, max(asked, MAX_LONG))
        filling = self._affordable(wanted, min(longest, tokens), FILLING_SECONDS)
        count = min(wanted, max(asked, filling))
        if count < 2 and asked < 2:
            return Burst(requests=(), note=self._too_long(2 * longest))
        # Fewer that are at least as long as what fits fill the cache as well.
        length = longest if asked >= count else min(longest, max(2, tokens // count))
        request = self._split(length, self.workload.output_tokens)
        return Burst(requests=(request,) * count, note=self._fewer(count, fits))

    def short_prompts(self) -> Burst:
        """Return as many short requests as run at once."""
        prompt, output = self._short()
        gentle = self.target.shared or self.workload.probe.effort == "quick"
        wanted = min(FEW_SHORT if gentle else MAX_SHORT, self.target.max_num_seqs)
        count = max(min(wanted, FEW_SHORT), self._affordable(wanted, prompt + output))
        note = self._fewer(count, self.target.max_num_seqs)
        return Burst(requests=((prompt, output),) * count, note=note)

    def batch_plus(self, more: int) -> Burst:
        """Return prompts that together have `more` tokens than one step of the engine takes."""
        batch, longest = self.target.max_num_batched_tokens, self.target.full_context
        if not batch or batch < 2:
            return Burst(requests=(), note="the batch size is unknown")
        _, output = self._split(min(longest, batch), self.workload.output_tokens)
        count = math.ceil((batch + more) / max(1, longest - output))
        whole = batch + more + count * output
        if count > self.target.max_num_seqs or whole > self._cache:
            return Burst(requests=(), note=f"a batch of {batch:,} tokens does not fit at once")
        if not self._affordable(1, whole):
            return Burst(requests=(), note=self._too_long(whole))
        share, rest = divmod(batch + more, count)
        return Burst(requests=tuple((share + (n < rest), output) for n in range(count)))

    def mixed_lengths(self) -> Burst:
        """Return long and short requests in turn, which fit into the KV cache together."""
        short, cache = self._short(), self._cache * 8 // 9  # the last block of each is not full
        wanted = max(1, min(MAX_MIXED // 2, cache // (2 * sum(short))))
        length = min(self.target.full_context, cache // wanted - sum(short), self._budget // 2)
        pairs = max(1, self._affordable(wanted, max(2, length) + sum(short)))
        requests = (self._split(length, 4 * self.workload.output_tokens), short) * pairs
        wanted = min(MAX_MIXED, self.target.max_num_seqs)
        note = self._fewer(min(len(requests), wanted), wanted)
        return Burst(requests=requests[: self.target.max_num_seqs], staggered=True, note=note)

    def session(self) -> Session:
        """Return turns that grow to the full context, as often at once as that fits."""
        longest = self.target.full_context
        last, output = self._split(longest, SHORT_OUTPUT)
        lengths, length = [], 0
        for share in TURNS:
            length = min(last, length + max(1, int(share * longest)))
            lengths.append(length)
        turns = tuple((length, output) for length in dict.fromkeys(lengths))
        tokens = sum(lengths)  # if no prefix is cached
        fits = min(max(self.workload.concurrency, self._cache // longest), MAX_SESSIONS)
        wanted = max(1, min(fits, self.target.max_num_seqs))
        count = self._affordable(wanted, tokens, FILLING_SECONDS)
        if not count:
            return Session(turns=(), note=self._too_long(tokens))
        return Session(turns=turns, at_once=count, note=self._fewer(count, wanted))

    def album(self, sight: Sight) -> Album:
        """Return as many of the largest images as are allowed, with words that fill the rest."""
        longest, seconds = self.target.full_context, SECONDS[self.workload.probe.effort]
        room = int(FILLED * (longest - SHORT_OUTPUT)) - sight.beside
        allowed = max(1, min(self.target.images or 1, room // max(1, sight.tokens)))
        images = max(1, min(allowed, int(seconds / sight.seconds)))
        words = max(0, int((room - images * sight.tokens) / sight.word))
        fits = min(max(self.workload.concurrency, self._cache // longest), MAX_SESSIONS)
        wanted = max(1, min(fits, self.target.max_num_seqs))
        seen = max(2, int(seconds / (images * sight.seconds)))
        at_once = max(1, min(seen, self._affordable(wanted, longest, FILLING_SECONDS)))
        fewer = None if images == allowed else f"{images} of {allowed} images"
        notes = [note for note in (fewer, self._fewer(at_once, wanted)) if note]
        return Album(images=images, words=words, at_once=at_once, note="; ".join(notes) or None)

    def drafted(self) -> Burst:
        """Return as many requests as run at once, with answers long enough for guesses."""
        prompt, output = self._split(min(4 * SHORT_PROMPT, self.target.full_context), SHORT_PROMPT)
        wanted = min(MAX_SHORT, self.target.max_num_seqs)
        count = max(1, self._affordable(wanted, 2 * (prompt + output)))
        note = self._fewer(count, self.target.max_num_seqs)
        return Burst(requests=((prompt, output),) * count, note=note)

    def abandoned(self) -> Burst:
        """Return a request that takes enough of the KV cache for a leak to be seen."""
        length = min(self.target.full_context, self._cache // ABANDONED, self._budget // 4)
        return Burst(requests=(self._split(max(2, length), ABANDONED * SHORT_OUTPUT),))

    def _short(self) -> tuple[int, int]:
        return self._split(min(SHORT_PROMPT + SHORT_OUTPUT, self.target.full_context), SHORT_OUTPUT)

    def _split(self, length: int, output: int) -> tuple[int, int]:
        """Return a request of `length` tokens, at most `output` and half of them in its answer."""
        output = 0 if self.target.pooling else max(1, min(output, length // 2))
        return max(1, length - output), output

    @property
    def _cache(self) -> int:
        tokens = self.target.kv_tokens or self.target.full_context
        return tokens if self.room is None else min(tokens, self.room)

    def _affordable(self, wanted: int, tokens: int, limits: Mapping[str, float] = SECONDS) -> int:
        """Return how many requests of so many tokens there is time for."""
        seconds = limits[self.workload.probe.effort]
        return int(min(wanted, seconds * self.tokens_per_second / tokens))

    @property
    def _budget(self) -> int:
        """Return the tokens there is time for: at least those of a short request."""
        if math.isinf(self.tokens_per_second):
            return self.target.full_context
        seconds = SECONDS[self.workload.probe.effort]
        return max(SHORT_PROMPT + SHORT_OUTPUT, int(seconds * self.tokens_per_second))

    def _too_long(self, tokens: int) -> str:
        return f"skipped: would take about {tokens / self.tokens_per_second:.0f} s"

    def _fewer(self, count: int, wanted: int) -> str | None:
        return None if count == wanted else f"{count} at once instead of {wanted}"
