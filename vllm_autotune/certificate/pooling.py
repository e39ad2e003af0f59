"""The short certificate of models that embed, classify or rank."""

import time
from collections.abc import Iterator

from ..outcome import Check, Degraded, FailedOutcome
from ..probe import POOLING
from .examination import Item
from .examiner import Examiner


class PoolingExamination(Examiner):
    """The certificate of a model that pools."""

    def items(self) -> Iterator[tuple[str, Item]]:
        """Yield the items."""
        yield "first request", self.first
        yield "full context", self.full_context
        yield "many short prompts", self.short_prompts
        yield "over-long prompt", self.over_long
        yield "ordinary request", self.ordinary

    async def first(self, name: str) -> Check | FailedOutcome:
        """Find the endpoint this model is asked through."""
        result: Check | FailedOutcome | None = None
        for path in POOLING:
            self.endpoint.pooling = path
            result = await self.embedded(name, 1, sum(self.loads.first().requests[0]))
            if not (isinstance(result, Degraded) and result.cause == "request_refused"):
                break
        assert result is not None
        return result

    async def full_context(self, name: str) -> Check | FailedOutcome:
        """Send one prompt of exactly the context."""
        return await self.embedded(name, 1, self.target.max_model_len)

    async def short_prompts(self, name: str) -> Check | FailedOutcome:
        """Send as many short prompts as the server runs at once."""
        load = self.loads.short()
        length = sum(load.requests[0])
        return await self.embedded(name, len(load.requests), length, load.note)

    async def ordinary(self, name: str) -> Check | FailedOutcome:
        """Send one more ordinary prompt."""
        return await self.embedded(name, 1, sum(self.loads.first().requests[0]))

    async def embedded(
        self, name: str, count: int, length: int, note: str | None = None
    ) -> Check | FailedOutcome:
        """Have unique prompts embedded at once."""
        began = time.monotonic()
        replies = await self.endpoint.embed(name, [self.prompt(length) for _ in range(count)])
        if not isinstance(replies, list):
            return replies
        self.learn(replies, time.monotonic() - began, figures=False)
        return self.check(name, replies, began, note)
