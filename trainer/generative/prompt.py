"""The prompt of the generative route, the same in training and inference, as text and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PROMPT_VERSION = 1
INSTRUCTION = "你是一个场景分类助手。请从以下标签中选择一个最合适的输出，不要任何解释。"
# Between labels: no path needs it, and it reads alike in Chinese and English.
BETWEEN = " | "
TAIL = "\n[Output] 分类结果:"


class TokenizerUnusable(ValueError):
    """The bytes are no tokenizer that works without transformers."""


def prompt(paths: Sequence[str], text: str) -> str:
    """The whole prompt. `paths`: the candidates, each a label's levels joined by " > ", in the artifact's order."""
    return head(paths) + one_line(text) + TAIL


def head(paths: Sequence[str]) -> str:
    """What stands before the text; the same for all texts with these candidates."""
    labels = BETWEEN.join(map(one_line, paths))
    return f"[System] {INSTRUCTION}\n[Labels] 可选标签: {labels}\n[User] 文本: "


def one_line(text: str) -> str:
    """The text with each run of white space as one space: a text must not begin a line of the prompt by itself."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


class PromptTokens:
    """Turns the parts of a prompt into token ids, each part by itself, so that a text cannot melt into what frames it.

    A special token written out in a text or a label is read as the characters that it is made of.
    """

    def __init__(self, tokenizer: bytes, *, start: Sequence[int], end: int, max_text_tokens: int) -> None:
        """`start`: ids before every prompt, as the base's own tokenizer sets them; `end`: the id after an answer.

        Raises:
            TokenizerUnusable: `tokenizer` is no tokenizer.json.
        """
        self._tokenizer = open_tokenizer(tokenizer)
        self._start = list(start)
        self.end = end
        self._max_text_tokens = max_text_tokens
        self._tail = self._ids(TAIL)

    def head(self, paths: Sequence[str]) -> list[int]:
        """The ids of what stands before the text."""
        return [*self._start, *self._ids(head(paths))]

    def body(self, text: str) -> list[int]:
        """The ids of the text, cut to `max_text_tokens`, and of what follows it."""
        return [*self._ids(one_line(text))[: self._max_text_tokens], *self._tail]

    @property
    def longest_body(self) -> int:
        """Token ids that a body has at most."""
        return self._max_text_tokens + len(self._tail)

    def answer(self, path: str) -> list[int]:
        """The ids of a label as it is answered, without the end."""
        return self._ids(one_line(path))

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found


def open_tokenizer(content: bytes) -> Any:
    """A tokenizer that cuts and pads nothing, and reads special tokens as plain characters.

    Raises:
        TokenizerUnusable: the bytes are none.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
    except Exception as error:  # tokenizers raises bare Exception.
        raise TokenizerUnusable(f"it is no tokenizer.json ({type(error).__name__})") from error
    return tokenizer
