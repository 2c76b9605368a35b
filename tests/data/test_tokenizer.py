"""Tokenizers: lossless on any text, equal in transformers, exact in bytes, and other people's are understood."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from grainline.data.readers import read_text
from grainline.data.split import is_held_out
from grainline.data.tokenizer import END_OF_TEXT, PAD, SPECIAL, Tokenizer, train_tokenizer
from grainline.documents import GrainlineError

HARD = (
    "It's 2024: l'été à Zürich — naïve cafés, ½ €5.00!\r\n\r\n\tdef f(x):\n        return x  \n\n\n"
    "Привет, мир. 日本語のテキスト。中文文本，没有空格。 فارسی: سلام‌ها ۱۲۳ हिन्दी पाठ ไทย e\u0301 "
    "👩\u200d👩\u200d👧 \U0001f600 \ufeff\u200b\x00 <|endoftext|>"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train((d.text for d in read_text(["builtin"], max_bytes=600_000)), 1000)


@given(st.text(max_size=200))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


def test_hard_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(HARD)) == HARD


def test_its_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {name: id for id, name in enumerate(SPECIAL)}
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.separator_id == 0
    assert tokenizer.pad_token_id == 1
    assert tokenizer.vocab_size == 1000
    assert tokenizer.encode("a", bos=True) == [0, *tokenizer.encode("a")]
    assert tokenizer.encode(f"a{END_OF_TEXT}", special=True) == [*tokenizer.encode("a"), 0]
    assert tokenizer.decode([0, *tokenizer.encode("a"), 1]) == "a"
    assert tokenizer.decode([0, 1], skip_special=False) == END_OF_TEXT + PAD
    assert tokenizer.token_bytes(0) == END_OF_TEXT.encode()


def test_digits_and_scripts_are_split_as_meant(tokenizer: Tokenizer) -> None:
    def pieces(text: str) -> list[str]:
        split = pre_tokenizers.Split(Regex(_split_regex(tokenizer)), "isolated")
        return [piece for piece, _ in split.pre_tokenize_str(text)]

    assert pieces("year 2024") == ["year", " ", "2", "0", "2", "4"]
    assert pieces("we'll go") == ["we", "'ll", " go"]
    assert pieces("हिन्दी e\u0301t\u0301") == ["हिन्दी", " e\u0301t\u0301"]
    assert pieces("x = f(y)\n\n  z") == ["x", " =", " f", "(y", ")\n\n", " ", " z"]


def _split_regex(tokenizer: Tokenizer) -> str:
    pre = json.loads(tokenizer._definition)["pre_tokenizer"]["pretokenizers"]
    return str(pre[0]["pattern"]["Regex"])


def test_training_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "from grainline.data.tokenizer import train_tokenizer\n"
        "from grainline.data.readers import read_text\n"
        "from grainline.data.tokenizer import Tokenizer\n"
        "print(Tokenizer.train((d.text for d in read_text(['builtin'], 300_000)), 700).fingerprint)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_training_looks_at_no_held_out_document(tmp_path: Path) -> None:
    rare = [f"{i} zqzqzq zqzqzq" for i in range(50)]
    common = [f"{i} common words" for i in range(50)]
    lines = [text for text in rare if is_held_out(text, 0.5)] + common
    assert 10 < len(lines) - len(common) < 40
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    assert b"zq" not in _tokens(train_tokenizer([tmp_path], 400, validation_fraction=0.5))
    assert b"zqzq" in _tokens(train_tokenizer([tmp_path], 400))


def _tokens(tokenizer: Tokenizer) -> set[bytes]:
    return {tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)}


def test_poor_text_gives_a_smaller_vocabulary() -> None:
    tokenizer = Tokenizer.train(["abab"], 1000)
    assert 262 < tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode(HARD)) == HARD
    with pytest.raises(GrainlineError, match="vocab_size 100: must be at least 262"):
        Tokenizer.train(["abab"], 100)


def test_transformers_encodes_and_decodes_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for document in [*read_text(["builtin"], max_bytes=200_000)]:
        ids = tokenizer.encode(document.text)
        assert theirs.encode(document.text) == ids
        assert theirs.decode(ids) == document.text
    plain = HARD.replace(END_OF_TEXT, "")
    assert theirs(plain)["input_ids"] == tokenizer.encode(plain)
    assert theirs.encode(HARD) == tokenizer.encode(HARD, special=True)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 1)
    assert len(theirs) == tokenizer.vocab_size


def test_saving_keeps_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    once = Tokenizer.load(tmp_path / "a")
    assert once.fingerprint == tokenizer.fingerprint
    once.chat_template = "{{ messages }}"
    once.save(tmp_path / "b")
    twice = Tokenizer.load(tmp_path / "b" / "tokenizer.json")
    assert twice.chat_template == "{{ messages }}"
    assert twice.encode(HARD) == tokenizer.encode(HARD)
    assert twice.eos_token_id == 0


def sentencepiece_like(prefix: bool = True) -> Backend:
    """Llama's kind: ▁ for a space, bytes for what the vocabulary lacks."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "l", "o", "▁h", "el"]
    backend = Backend(
        models.BPE(
            {word: id for id, word in enumerate(words)},
            [("▁", "h"), ("e", "l")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")]
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def test_sentencepiece_tokens_have_their_bytes() -> None:
    tokenizer = Tokenizer(sentencepiece_like().to_str(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    ids = tokenizer.encode("hello hello é", bos=True)
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == 2
    spelled = b"".join(map(tokenizer.token_bytes, ids[1:]))
    assert spelled == " hello hello é".encode()
    assert tokenizer.decode(ids) == "hello hello é"
    assert tokenizer.token_bytes(tokenizer.encode("é")[-1]) == "é".encode()[-1:]


def test_unigram_vocabularies_are_lists() -> None:
    backend = Backend(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], 0, False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = Tokenizer(backend.to_str())
    assert [tokenizer.token_bytes(id) for id in tokenizer.encode("ab a")] == [b" a", b"b", b" a"]


def test_ids_and_templates_come_from_wherever_a_folder_has_them(tmp_path: Path) -> None:
    sentencepiece_like().save(str(tmp_path / "tokenizer.json"))
    bare = Tokenizer.load(tmp_path)
    assert (bare.bos_token_id, bare.eos_token_id, bare.pad_token_id, bare.chat_template) == (None, None, None, None)
    with pytest.raises(GrainlineError, match="no beginning- or end-of-text token"):
        _ = bare.separator_id

    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 9999}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    configured = Tokenizer.load(tmp_path)
    assert (configured.bos_token_id, configured.eos_token_id, configured.pad_token_id) == (0, 2, None)

    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": named}))
    stated = Tokenizer.load(tmp_path)
    assert (stated.bos_token_id, stated.eos_token_id, stated.chat_template) == (1, 2, "D")
    (tmp_path / "chat_template.jinja").write_text("J")
    assert Tokenizer.load(tmp_path).chat_template == "J"


def test_folders_that_hold_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        GrainlineError, match=r"tokenizer\.json: no such file; a tokenizer's tokenizer\.json is wanted\.$"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(GrainlineError, match="in another format"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(GrainlineError, match=r"tokenizer\.json: isn't a tokenizer"):
        Tokenizer.load(tmp_path)
    sentencepiece_like().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GrainlineError, match=r"config\.json: isn't JSON"):
        Tokenizer.load(tmp_path)


def test_ids_and_decoders_that_have_no_bytes(tokenizer: Tokenizer) -> None:
    with pytest.raises(GrainlineError, match="id 1000 doesn't lie in the vocabulary of 1000"):
        tokenizer.token_bytes(1000)
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(GrainlineError, match="WordPiece"):
        Tokenizer(backend.to_str()).token_bytes(1)
