"""What a server that takes images is asked about them."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..outcome import NO_EFFECT, Item
from ..probe.failure import RequestRefused, degraded, raise_if
from ..probe.prompt import Prompt
from ..probe.reply import Reply
from .image import ODD_SHAPES, SHAPES, SIDE, about, broken_images, png
from .server_under_test import ServerUnderTest
from .traffic import SECONDS, SHORT_OUTPUT, Sight

# Repeated, a word has as many tokens wherever it stands; so many of it tell how many these are.
WORD, WORDS = " 7", 64
# The next image has up to so many times the pixels of the one before, and may take as much longer.
LARGER = 4
# Where images were to be made smaller, one with more tokens than expected by this factor was not.
UNCHANGED = 1.2
# Why a server has no answer about an image, by a part of its refusal (vLLM 0.6.6 to 0.32).
WITHOUT = {
    "chat template": "the model has no chat template",
    "At most 0 image": "the server takes no images",
    "not a multimodal model": "the server takes no images",
    "maximum context length": "no image fits into the context",
}


@dataclass
class Vision:
    """Asks a server about images: the largest, odd ones, and more than it takes."""

    server: ServerUnderTest

    async def one(self, name: str) -> Item:
        """Ask about one image."""
        began = time.monotonic()
        try:
            reply = await self._ask(name, [(SIDE, SIDE)])
        except RequestRefused as refused:
            return self._without(name, refused)
        return self.server.count(name, [reply], began)

    async def beside_text(self, name: str) -> Item:
        """Ask about as many of the largest images as may be, beside text that fills the rest."""
        began, server = time.monotonic(), self.server
        try:
            sight, replies, cut_short = await self._largest(name)
        except RequestRefused as refused:
            return self._without(name, refused)
        self._expect_smaller(sight)
        album = server.traffic.album(sight)
        shapes = [(sight.width, sight.height)] * album.images
        replies.append(await self._ask(name, shapes, album.words))
        if album.at_once > 1:
            prompts = [await self._prompt(name, shapes, album.words) for _ in range(album.at_once)]
            replies += await server.endpoint.send(prompts)
        size = f"{sight.width} x {sight.height} pixels, {sight.tokens:,} tokens each"
        notes = (f"{album.images} of {size}", cut_short, album.note)
        return server.count(name, replies, began, "; ".join(filter(None, notes)))

    async def _largest(self, name: str) -> tuple[Sight, list[Reply], str | None]:
        """Return the accepted image that has the most tokens, and all replies on the way to it.

        The last part says if there was no time for larger ones. Raises RequestRefused where not
        even the smallest is accepted.
        """
        few, many = [await self._ask(name, [], words) for words in (1, 1 + WORDS)]
        word = max(1, many.prompt_tokens - few.prompt_tokens) / WORDS
        beside = math.ceil(few.prompt_tokens - word)
        replies, longest = [few, many], self.server.target.full_context

        async def look(width: int, height: int) -> Sight:
            began = time.monotonic()
            replies.append(await self._ask(name, [(width, height)]))
            return Sight(
                width=width,
                height=height,
                tokens=max(1, replies[-1].prompt_tokens - few.prompt_tokens),
                seconds=max(1e-3, time.monotonic() - began),
                beside=beside,
                word=word,
            )

        smallest, *larger = SHAPES
        best = await look(*smallest)
        for shape in larger:
            try:
                seen = await look(*shape)
            except RequestRefused:
                seen = None
            if seen is None or not seen.fits(longest):
                break
            # A smaller one of as many tokens takes no longer; the first had to warm the server up.
            faster = replace(best, seconds=min(best.seconds, seen.seconds))
            best = seen if seen.tokens > best.tokens else faster
            slow = LARGER * seen.seconds > SECONDS[self.server.workload.probe.effort]
            if slow and shape != larger[-1]:
                return best, replies, "larger ones would take too long"
        return best, replies, None

    def _expect_smaller(self, sight: Sight) -> None:
        """Raise if images were to be made smaller and are not."""
        expected = self.server.target.image_tokens
        if expected is not None and sight.tokens > UNCHANGED * expected:
            takes = f"an image still takes {sight.tokens:,} tokens, not {expected:,.0f}"
            reason = f"--mm-processor-kwargs had no effect: {takes}"
            raise_if(degraded(NO_EFFECT, reason))

    async def odd(self, name: str) -> Item:
        """Send odd and broken images: each gets an answer or a refusal, and harms no other."""
        began, server = time.monotonic(), self.server
        try:
            replies = [await self._ask(name, [(SIDE, SIDE)])]
        except RequestRefused as refused:
            return self._without(name, refused)
        odd = {f"{w} x {h} pixels": png(w, h, server.rng) for w, h in ODD_SHAPES}
        refusals = 0
        for what, image in (odd | broken_images(server.rng)).items():
            question = about([image], WORD)
            prompt = Prompt.chat(f"{name}: {what}", question, SHORT_OUTPUT, stream=True)
            try:
                replies += await server.endpoint.send([prompt])
            except RequestRefused:
                refusals += 1
        replies.append(await self._ask(name, [(SIDE, SIDE)]))
        return server.count(name, replies, began, f"{refusals} more were refused")

    async def one_too_many(self, name: str) -> Item:
        """Send more than the server takes, which it must refuse: by number, else by length."""
        began, target = time.monotonic(), self.server.target
        most = target.images or 0
        if target.images_flag:
            prompt = await self._prompt(name, [SHAPES[0]] * (most + 1))
            allowed = f"--{target.images_flag} had no effect: a prompt of {most + 1} images"
            await self.server.endpoint.expect_refusal(prompt, allowed, NO_EFFECT)
        else:
            prompt = await self._prompt(name, [(SIDE, SIDE)], target.max_model_len)
            beside = "an image beside text that is too long"
            await self.server.endpoint.expect_refusal(prompt, beside, "over_long_accepted")
        return Item(name=name, requests=1, seconds=time.monotonic() - began)

    async def _ask(self, name: str, shapes: Sequence[tuple[int, int]], words: int = 1) -> Reply:
        (reply,) = await self.server.endpoint.send([await self._prompt(name, shapes, words)])
        return reply

    async def _prompt(self, name: str, shapes: Sequence[tuple[int, int]], words: int = 1) -> Prompt:
        # Millions of pixels take a moment, in which the server must still be watched.
        images = [await asyncio.to_thread(png, *shape, self.server.rng) for shape in shapes]
        question = about(images, WORD * words)
        return Prompt.chat(name, question, SHORT_OUTPUT, stream=True)

    def _without(self, name: str, refused: RequestRefused) -> Item:
        """Return the item of a server that takes no images, where none were asked for."""
        said = " ".join(refused.outcome.evidence)
        note = next((why for words, why in WITHOUT.items() if words in said), None)
        if note is None or self.server.workload.probe.image:
            raise refused
        return Item(name=name, requests=0, seconds=0.0, note=note)
