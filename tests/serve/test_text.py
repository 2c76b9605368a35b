"""Stop strings and characters over token borders, held against brute force."""

import codecs
import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from grainline.models.generate import GeneratedToken
from grainline.serve.text import StopMatcher, TextStream


def cut_by_brute_force(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: the first stop string to be complete ends the text, the longest of those."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def split(text: str | bytes, borders: list[int]) -> list:
    edges = [0, *sorted({b % (len(text) + 1) for b in borders}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


few_letters = st.text("ab", max_size=24)


@given(
    few_letters, st.lists(st.text("ab", min_size=1, max_size=6), max_size=4), st.lists(st.integers(0, 30), max_size=12)
)
@example("aab", ["ab", "aab"], [1, 2])
@example("xabc", ["abc", "b"], [])
@settings(max_examples=600, deadline=None)
def test_a_stop_string_ends_the_text_wherever_the_pieces_end(text, stops, borders):
    matcher = StopMatcher(stops)
    out = [matcher.push(piece) for piece in split(text, borders)]
    stopped = matcher.matched is not None
    out.append(matcher.finish())
    expected, expected_stop = cut_by_brute_force(text, stops)
    assert "".join(out) == expected
    assert stopped == expected_stop


@given(few_letters, st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_no_part_of_a_stop_string_is_let_out_before_it_is_certain(text, stops):
    matcher, out = StopMatcher(stops), ""
    for end, character in enumerate(text, 1):
        out += matcher.push(character)
        if matcher.matched is not None:
            break
        # Whatever could still become a stop string is held; everything before it is out.
        held = text[len(out) : end]
        begun = [n for n in range(1, end + 1) for stop in stops if len(stop) > n and text[:end].endswith(stop[:n])]
        assert len(held) == max(begun, default=0)


def whole_characters(data: bytes) -> str:
    """Everything decoded at once, an unfinished character at the end left out."""
    _, finished = codecs.utf_8_decode(data, "replace", False)
    return data[:finished].decode("utf-8", "replace")


def stream(pieces: list[bytes], stops: list[str] = ()) -> tuple[list, TextStream]:
    text = TextStream(lambda id: pieces[id], stops)
    out = []
    for id in range(len(pieces)):
        out.append(text.push(GeneratedToken(id, -float(id))))
        if text.stopped:
            break
    return [*out, text.finish()], text


@given(st.text(max_size=20) | st.text("aé€😀", max_size=20), st.lists(st.integers(0, 90), max_size=30))
@settings(max_examples=400, deadline=None)
def test_characters_split_over_tokens_come_whole(text, borders):
    told, _ = stream(split(text.encode("utf-8", "replace"), borders))
    assert "".join(piece.text for piece in told) == text.encode("utf-8", "replace").decode()
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece.text for piece in told)


@given(st.binary(max_size=24) | st.lists(st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"a"])).map(b"".join),
       st.lists(st.integers(0, 30), max_size=12))  # fmt: skip
@settings(max_examples=600, deadline=None)
def test_bytes_that_are_no_text_come_as_in_decoding_at_once(data, borders):
    told, _ = stream(split(data, borders))
    assert "".join(piece.text for piece in told) == whole_characters(data)


@given(st.text("ab€😀", max_size=16), st.lists(st.text("ab€", min_size=1, max_size=3), max_size=2),
       st.lists(st.integers(0, 60), max_size=20))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_each_token_of_the_text_is_told_once_with_its_offset(text, stops, borders):
    data = split(text.encode(), borders)
    told, streamed = stream(data, stops)
    out = "".join(piece.text for piece in told)
    tokens = [token.id for piece in told for token in piece.tokens]
    offsets = [offset for piece in told for offset in piece.offsets]
    starts = [len(codecs.utf_8_decode(b"".join(data[:id]), "replace", False)[0]) for id in range(len(data))]
    kept = [id for id in range(len(data)) if not streamed.stopped or starts[id] < len(out)]
    assert tokens == kept
    assert offsets == [starts[id] for id in kept]


def test_a_prompt_put_before_finishes_its_open_character_and_moves_the_offsets():
    euro = "€".encode()
    pieces = [b"ab", euro[:1], euro[1:], b"c"]
    text = TextStream(lambda id: pieces[id], ["ab"])
    prompt, offsets = text.prime(pieces[:2])
    assert (prompt, offsets) == ("ab", (0, 2))
    told = [text.push(GeneratedToken(2, 0.0)), text.push(GeneratedToken(3, 0.0)), text.finish()]
    assert "".join(piece.text for piece in told) == "€c"
    assert [offset for piece in told for offset in piece.offsets] == [2, 3]
