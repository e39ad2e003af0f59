"""The short certificate of models that embed, classify or rank."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..outcome import Item
from ..probe.failure import RequestRefused
from ..probe.prompt import POOLING, Prompt
from . import items
from .server_under_test import Send, ServerUnderTest
from .traffic import Burst


@dataclass
class PoolingServer(ServerUnderTest):
    """A server of a model that pools; `path` is where it is asked."""

    path: str = POOLING[0]

    def items(self) -> Iterator[tuple[str, Send]]:
        full_context = Burst(requests=((self.target.max_model_len, 0),))
        ways: tuple[Send, ...] = (
            self.first,
            lambda name: self.send(name, full_context),
            lambda name: self.send(name, self.traffic.short_prompts()),
            self.over_long,
            lambda name: self.send(name, self.traffic.one_short()),
        )
        return zip(items.POOLING, ways, strict=True)

    async def first(self, name: str) -> Item:
        """Find the path that this model is asked through."""
        *others, last = POOLING
        for path in others:
            self.path = path
            with suppress(RequestRefused):
                return await self.send(name, self.traffic.one_short())
        self.path = last
        return await self.send(name, self.traffic.one_short())

    def prompts(self, name: str, burst: Burst, **_: Any) -> list[Prompt]:
        prompt = partial(Prompt, item=name, path=self.path, output_tokens=0)
        lengths = [length for length, _ in burst.requests]
        return [prompt(body={"input": self.token_ids(n)}, prompt_tokens=n) for n in lengths]
