"""The tokenizer's own chat template: one message of the user, and the beginning of the answer, as text and as tokens.

transformers renders the template, in its sandbox. Three things are ours:

* **One date.** Some templates print the day (``strftime_now``), and a result must not change overnight. For all of them it is
  26 July 2024, which Llama's template itself takes where no clock is at hand.
* **No thinking aloud.** Templates that let a model think before it answers are told not to (``enable_thinking``): what is read
  is the beginning of the answer.
* **A message is data.** Where it has the string of a special token, such as ``<|im_end|>``, that stays text: an unprintable mark
  is put behind the string's first character, and the chat is encoded in pieces that end at the marks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lmntk.errors import UserError, one_line
from lmntk.prompts.tokenization import PieceEncoder, Space, valid_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = "26 July 2024"
_MARK = "\ufdd0"  # which Unicode reserves as "not a character"
_DATE_PARTS = {
    "%-d": "26", "%-m": "7", "%a": "Fri", "%A": "Friday", "%b": "Jul", "%h": "Jul", "%B": "July", "%d": "26", "%e": "26",
    "%m": "07", "%y": "24", "%Y": "2024", "%j": "208", "%F": "2024-07-26", "%D": "07/26/24", "%x": "07/26/24",
    "%H": "00", "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%S": "00", "%f": "000000", "%p": "AM", "%T": "00:00:00",
    "%X": "00:00:00", "%R": "00:00", "%c": "Fri Jul 26 00:00:00 2024", "%Z": "", "%z": "",
}  # fmt: skip
_CLOCK = "strftime_now"
# a macro goes before transformers' function of this name; the new line behind it is its own, and not printed
_STOPPED_CLOCK = (
    f"{{%- macro {_CLOCK}(format) -%}}{{{{- format"
    + "".join(f"|replace({directive!r}, {value!r})" for directive, value in _DATE_PARTS.items())
    + " -}}{%- endmacro %}\n"
)


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a tokenizer's chat template, as it has it.

    Raises:
        UserError: it has none.
    """
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError:
        raise UserError(
            f"chat: the tokenizer of {_shown(tokenizer)} has no chat template; leave chat out, or use a model that was "
            "trained on chats (often called Instruct or Chat)"
        ) from None
    return template


def _shown(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)


class ChatTemplate:
    """Put a message into a tokenizer's chat template, up to where the answer begins.

    Attributes:
        source: the template, as the tokenizer has it.
        has_date: whether it asks for the day, which is always the same one.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pieces: PieceEncoder) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        self.source = chat_template_of(tokenizer)
        self.has_date = _CLOCK in self.source
        self._template = _STOPPED_CLOCK + self.source if self.has_date else self.source
        control = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in self.source and not token.content.isspace())
        ]
        strings = "|".join(
            map(re.escape, sorted({*control, *tokenizer.all_special_tokens}, key=len, reverse=True))
        )
        self._control = re.compile(strings or "(?!)")
        self._beginning = re.compile(f"(?=(?:{strings})).", re.DOTALL) if strings else self._control

    def render(self, message: str) -> str:
        """Return the chat as text, the template's special tokens in it as strings.

        Raises:
            UserError: the template fails.
        """
        chat = [{"role": "user", "content": message}]
        settings: dict[str, Any] = {"chat_template": self._template, "enable_thinking": False}
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **settings
            )
        except ImportError as error:  # of Jinja, or of one that is old
            raise UserError(f"chat: {one_line(error)[:200]}") from error
        except Exception as error:  # a template raises what it likes, and so does the library that reads it
            raise UserError(
                f"chat: the chat template of {_shown(self._tokenizer)} does not take one message of the user ({one_line(error)[:160]}); "
                "leave chat out, or mend the template"
            ) from error
        return rendered

    def encode(self, message: str) -> list[int]:
        """Return the chat's ids; in those of the message there is no special token.

        Raises:
            UserError: the template fails, or the message is not valid Unicode.
        """
        if self._control.search(message):
            message = self._beginning.sub(rf"\g<0>{_MARK}", message.replace(_MARK, ""))
        with valid_unicode(message):
            return self._ids(self.render(message))

    def _ids(self, rendered: str) -> list[int]:
        first, *others = rendered.split(_MARK)
        ids = self._ids_of_chat(first)
        for piece in others:
            special = self._control.search(piece)  # the template's own: the message's are cut in two
            end = len(piece) if special is None else special.start()
            ids += self._pieces.encode(piece[:end], Space.GLUED) + self._ids_of_chat(piece[end:])
        return ids

    def _ids_of_chat(self, text: str) -> list[int]:
        encoded = (
            self._tokenizer(text, add_special_tokens=False, verbose=False) if text else {"input_ids": []}
        )
        return list(encoded["input_ids"])
