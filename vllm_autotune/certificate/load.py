"""How many requests of which length: what a server is said to bear, and what there is time for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..probe import Target
from ..workload import Workload

# The most requests of one item; each is a connection, and a process may have 1024.
MOST_LONG = 8
MOST_SHORT = 512
MOST_MIXED = 8
SHORT_PROMPT = 32
SHORT_OUTPUT = 8
# A client leaves with this fraction of the KV cache in use.
LEAVER = 8
# What is sent to a server that others use, or in a hurry.
FEW = 4
# Seconds one item should take by the speed measured: what there is time for, by effort.
SECONDS = {"quick": 1.5, "standard": 8.0, "soak": 8.0}
# A full KV cache is what kills most and may take longer: 5 prompts of 32,768 tokens on a 72B model
# in fp8 that reads 5,200 tokens a second (H200).
FILLING_SECONDS = {**SECONDS, "standard": 32.0, "soak": 32.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests sent together: how many tokens each has, and how many of them are answered.

    `note` says what was shortened, or why nothing is sent.
    """

    requests: tuple[tuple[int, int], ...]
    note: str | None = None

    @property
    def tokens(self) -> int:
        """Return the tokens of all prompts and answers."""
        return sum(prompt + output for prompt, output in self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """The loads for one server; `tokens_per_second` is the speed measured so far.

    `room` is how many tokens others leave in the KV cache, None where there are no others.
    """

    target: Target
    workload: Workload
    tokens_per_second: float = math.inf
    room: int | None = None

    def full(self) -> Load:
        """Return one request of exactly the context, shortened only where others need the room."""
        longest = self.target.full_context
        if self.room is None or self.room >= longest:
            return Load(requests=(self._split(longest),))
        note = f"{self.room:,} of {longest:,} tokens: others use the KV cache"
        return Load(requests=(self._split(self.room),), note=note)

    def first(self) -> Load:
        """Return one short request."""
        return Load(requests=(self._short(),))

    def long(self) -> Load:
        """Return prompts that fill the KV cache, as many at full length as are asked for."""
        longest, asked = self.target.full_context, self.workload.concurrency
        tokens = self._cache
        fits = min(max(2, asked, tokens // longest), self.target.max_num_seqs)
        wanted = min(fits, max(asked, MOST_LONG))
        filling = self._affordable(wanted, min(longest, tokens), FILLING_SECONDS)
        count = min(wanted, max(asked, filling))
        if count < 2 and asked < 2:
            return Load(requests=(), note=self._too_long(2 * longest))
        # Fewer that are at least as long as what fits fill the cache as well.
        length = longest if asked >= count else min(longest, max(2, tokens // count))
        note = self._fewer(count, fits)
        return Load(requests=(self._split(length),) * count, note=note)

    def short(self) -> Load:
        """Return as many short requests as run at once."""
        prompt, output = self._short()
        most = FEW if self._gentle else MOST_SHORT
        wanted = min(most, self.target.max_num_seqs)
        count = max(min(wanted, FEW), self._affordable(wanted, prompt + output))
        note = self._fewer(count, self.target.max_num_seqs)
        return Load(requests=((prompt, output),) * count, note=note)

    def batch(self, more: int) -> Load:
        """Return prompts that together have `more` tokens than one step of the engine takes."""
        batch, longest = self.target.max_num_batched_tokens, self.target.full_context
        if not batch or batch < 2:
            return Load(requests=(), note="the size of a batch is not known")
        output = self._output(min(longest, batch))
        count = math.ceil((batch + more) / max(1, longest - output))
        whole = batch + more + count * output
        if count > self.target.max_num_seqs or whole > self._cache:
            return Load(requests=(), note=f"a batch of {batch:,} tokens cannot come together")
        if not self._affordable(1, whole):
            return Load(requests=(), note=self._too_long(whole))
        share, rest = divmod(batch + more, count)
        prompts = [share + (number < rest) for number in range(count)]
        return Load(requests=tuple((prompt, output) for prompt in prompts))

    def mixed(self) -> Load:
        """Return long and short requests in turn; all of them fit into the KV cache at once."""
        short, cache = self._short(), self._cache * 8 // 9  # the last block of each is not full
        wanted = max(1, min(MOST_MIXED // 2, cache // (2 * sum(short))))
        length = min(self.target.full_context, cache // wanted - sum(short), self._in_time // 2)
        pairs = max(1, self._affordable(wanted, max(2, length) + sum(short)))
        output = max(1, min(4 * self.workload.output_tokens, length // 2))
        requests = ((max(1, length - output), output), short) * pairs
        wanted = min(MOST_MIXED, self.target.max_num_seqs)
        note = self._fewer(min(len(requests), wanted), wanted)
        return Load(requests=requests[: self.target.max_num_seqs], note=note)

    def leaver(self) -> Load:
        """Return a request that takes enough of the KV cache to be missed, if it stays there."""
        length = max(2, min(self.target.full_context, self._cache // LEAVER, self._in_time // 4))
        output = min(LEAVER * SHORT_OUTPUT, max(1, length // 2))
        return Load(requests=((length - output, output),))

    def over_long(self) -> int:
        """Return the length of a prompt that does not fit by one token."""
        return self.target.max_model_len + 1

    def _short(self) -> tuple[int, int]:
        length = min(SHORT_PROMPT + SHORT_OUTPUT, self.target.full_context)
        output = max(1, min(SHORT_OUTPUT, length // 2))
        return max(1, length - output), output

    def _split(self, length: int) -> tuple[int, int]:
        output = self._output(length)
        return max(1, length - output), output

    def _output(self, length: int) -> int:
        return max(1, min(self.workload.output_tokens, length // 2))

    @property
    def _cache(self) -> int:
        tokens = self.target.kv_tokens or self.target.full_context
        return tokens if self.room is None else min(tokens, self.room)

    @property
    def _gentle(self) -> bool:
        return self.target.shared or self.workload.probe.effort == "quick"

    def _affordable(
        self, wanted: int, tokens: int, by_effort: Mapping[str, float] = SECONDS
    ) -> int:
        """Return how many requests of so many tokens there is time for."""
        seconds = by_effort[self.workload.probe.effort]
        if math.isinf(self.tokens_per_second):
            return wanted
        return min(wanted, int(seconds * self.tokens_per_second / tokens))

    @property
    def _in_time(self) -> int:
        """Return the tokens there is time for: at least those of a short request."""
        if math.isinf(self.tokens_per_second):
            return self.target.full_context
        seconds = SECONDS[self.workload.probe.effort]
        return max(SHORT_PROMPT + SHORT_OUTPUT, int(seconds * self.tokens_per_second))

    def _too_long(self, tokens: int) -> str:
        return f"it would take about {tokens / self.tokens_per_second:.0f} s"

    def _fewer(self, count: int, wanted: int) -> str | None:
        return None if count == wanted else f"{count} at once instead of {wanted}"
