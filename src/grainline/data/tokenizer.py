"""Byte-level BPE tokenizers: trained here, or read from any Hugging Face folder with a tokenizer.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from grainline.data.files import Found
from grainline.data.readers import read_text
from grainline.data.split import is_held_out
from grainline.data.token_bytes import bytes_of_tokens
from grainline.documents import GrainlineError, write_atomically

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
RESERVED = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")  # for chat tuning
SPECIAL = (END_OF_TEXT, PAD, *RESERVED)
SMALLEST_VOCABULARY = 256 + len(SPECIAL)

# GPT-4's split (cl100k) with Qwen's single digits, and with marks counted as letters: without \p{M} the words of
# Devanagari, Arabic with its vowels, or decomposed accents would fall apart.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"


class Tokenizer:
    """Text ↔ token ids. Encoding adds nothing by itself, and decoding gives back the very text (own tokenizers).

    Text is text: a special token's name in it is encoded letter by letter, so that no document can end itself, unless
    `special=True` asks for the token (rendered chats).
    """

    def __init__(self, definition: str, config: Mapping[str, Any] | None = None, where: str = "tokenizer.json") -> None:
        """`definition`: what is in tokenizer.json; `config`: what is in tokenizer_config.json."""
        from tokenizers import Tokenizer as Backend

        try:
            self._backend: tokenizers.Tokenizer = Backend.from_str(definition)
        except Exception as error:  # the library raises bare Exception for whatever it can't parse
            raise GrainlineError(f"{where}: isn't a tokenizer that can be read: {error}.") from None
        self._backend.no_padding()
        self._backend.no_truncation()
        self._definition: str = self._backend.to_str()
        self._plain: tokenizers.Tokenizer = Backend.from_str(self._definition)
        self._plain.encode_special_tokens = True
        self.config: dict[str, Any] = dict(config or {})
        self.vocab_size: int = 1 + max(self._backend.get_vocab(with_added_tokens=True).values())
        self.bos_token_id = self._id_of_role("bos_token")
        self.eos_token_id = self._id_of_role("eos_token")
        self.pad_token_id = self._id_of_role("pad_token")
        self.chat_template: str | None = self.config.get("chat_template")

    def _id_of_role(self, role: str) -> int | None:
        token = self.config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        return None if token is None else self._backend.token_to_id(token)

    # --- making, loading, saving --------------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn `vocab_size` tokens, among them the 256 bytes and six special ones. The same texts give the same.

        Texts too poor for so many merges give a smaller vocabulary: read `vocab_size` afterwards.
        """
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Backend

        if vocab_size < SMALLEST_VOCABULARY:
            raise GrainlineError(f"vocab_size {vocab_size}: must be at least {SMALLEST_VOCABULARY}.")
        backend = Backend(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(_batches(texts), trainer)
        roles = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
        return cls(backend.to_str(), roles)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From a folder with a tokenizer.json, or that file.

        Special tokens' roles come from tokenizer_config.json, or else as ids from config.json or
        generation_config.json; the chat template from chat_template.jinja or tokenizer_config.json.
        """
        path = Path(path).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise GrainlineError(
                f"{file}: no such file; a tokenizer's tokenizer.json is wanted.{_other_formats(file.parent)}"
            )
        folder = file.parent
        config = _json(folder / CONFIG_FILE)
        template = folder / TEMPLATE_FILE
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        elif isinstance(config.get("chat_template"), list):  # several by name
            named = {entry["name"]: entry["template"] for entry in config["chat_template"]}
            config["chat_template"] = named.get("default")
        tokenizer = cls(file.read_text(encoding="utf-8"), config, str(file))
        for name in ("generation_config.json", "config.json"):
            tokenizer._adopt_ids(_json(folder / name))
        return tokenizer

    def _adopt_ids(self, config: Mapping[str, Any]) -> None:
        """Take what tokenizer_config.json doesn't say from a model's configuration; of several ids, the first."""
        for role in ("bos_token", "eos_token", "pad_token"):
            found = config.get(f"{role}_id")
            found = found[0] if isinstance(found, list) and found else found
            if getattr(self, f"{role}_id") is None and isinstance(found, int) and 0 <= found < self.vocab_size:
                setattr(self, f"{role}_id", found)
                self.config.setdefault(role, self._backend.id_to_token(found))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and, if there is one, chat_template.jinja, for AutoTokenizer."""
        folder = Path(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | self.config
        config.pop("chat_template", None)
        write_atomically(folder / "tokenizer.json", self._definition)
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        if self.chat_template is not None:
            write_atomically(folder / TEMPLATE_FILE, self.chat_template)

    # --- text ↔ ids ---------------------------------------------------------------------------------------------------

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        """Ids of a text. `bos`: after the beginning-of-text token, if there is one; `special`: see the class."""
        (ids,) = self.encode_batch([text], special)
        return [self.bos_token_id, *ids] if bos and self.bos_token_id is not None else ids

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Ids of each text, on all cores."""
        backend = self._backend if special else self._plain
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of some ids; bytes that make no character become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for, its own even if they are half a character; a special token's are its name.

        A sentencepiece token's leading space is among them, also at a text's beginning, where `decode` drops it.
        """
        if not 0 <= id < self.vocab_size:
            raise GrainlineError(f"Token id {id} doesn't lie in the vocabulary of {self.vocab_size}.")
        return self._bytes[id]

    @cached_property
    def _bytes(self) -> list[bytes]:
        return bytes_of_tokens(self._definition, self.vocab_size)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def separator_id(self) -> int:
        """Stands before each document: the beginning-of-text token, or else the end-of-text token."""
        separator = self.eos_token_id if self.bos_token_id is None else self.bos_token_id
        if separator is None:
            raise GrainlineError(
                "The tokenizer has no beginning- or end-of-text token to separate documents with. "
                f'Name one in {CONFIG_FILE}, such as "eos_token": "</s>".'
            )
        return separator

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens' ids by name."""
        added = self._backend.get_added_tokens_decoder()
        return {token.content: id for id, token in sorted(added.items()) if token.special}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides how text is encoded and separated."""
        return hashlib.sha256(f"{self._definition}\0{self.bos_token_id}\0{self.eos_token_id}".encode()).hexdigest()


def train_tokenizer(
    sources: Sequence[str | Path] | Found,
    vocab_size: int,
    *,
    validation_fraction: float = 0.0,
    max_bytes: int | None = None,
) -> Tokenizer:
    """A tokenizer from text that `read_text` reads: from all of it up to 8 MB or 1 kB per token, whichever is more.

    Of more text an even share is read of every file and part: merges learnt from it code the rest just as short. A
    smaller `max_bytes` reads less. Documents that `pack` holds out at the same `validation_fraction` aren't looked at.
    """
    enough = max(8_000_000, 1000 * vocab_size)
    documents = read_text(sources, enough if max_bytes is None else min(enough, max_bytes))
    return Tokenizer.train((d.text for d in documents if not is_held_out(d.text, validation_fraction)), vocab_size)


def _batches(texts: Iterable[str], size: int = 256) -> Iterator[list[str]]:
    """The library crosses into Python for each item: less often for lists."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GrainlineError(f"{path}: isn't JSON: {error}.") from None
    return tables if isinstance(tables, dict) else {}


def _other_formats(folder: Path) -> str:
    if not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model")):
        return ""
    return (
        f" {folder} has a tokenizer in another format. With transformers, AutoTokenizer.from_pretrained(FOLDER)"
        ".save_pretrained(FOLDER) writes tokenizer.json."
    )
