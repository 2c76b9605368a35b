"""Chat templates: Hugging Face's dialect, and the sandbox."""

import json
from datetime import datetime

import pytest

from grainline.documents import GrainlineError
from grainline.serve.templates import PLAIN_STOPS, ChatTemplate, TemplateRefusal, UnsafeTemplate

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<Hi> & 'é'"}]


def render(source: str, messages=MESSAGES, **variables) -> str:
    return ChatTemplate(source, "test", {"bos_token": "<s>"}).render(messages, variables)


def test_plain_is_role_and_content_line_by_line():
    template = ChatTemplate.plain()
    assert template.render(MESSAGES) == "system: Be brief.\nuser: <Hi> & 'é'\nassistant:"
    assert template.stops == PLAIN_STOPS
    assert template.adds_bos


def test_a_chatml_template_as_models_have_it():
    source = """
    {%- for message in messages %}
        {%- if loop.first and message['role'] != 'system' %}
            {{- '<|im_start|>system\\nDefault.<|im_end|>\\n' }}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
    {%- endfor %}
    {%- if add_generation_prompt %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if enable_thinking is defined and enable_thinking is false %}
            {{- '<think>\\n\\n</think>\\n\\n' }}
        {%- endif %}
    {%- endif %}"""
    assert render(source) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<Hi> & 'é'<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(source, MESSAGES[1:], enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert "Default." in render(source, MESSAGES[1:])


def test_the_helpers_that_templates_expect():
    assert render("{{ bos_token }}{{ tools is none }}") == "<s>True"
    assert render("{{ messages[1] | tojson }}") == json.dumps(MESSAGES[1], ensure_ascii=False)
    assert render("{{ {'a': [1]} | tojson(indent=2) }}") == '{\n  "a": [\n    1\n  ]\n}'
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert (
        render("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}")
        == "system"
    )
    assert render("{% for m in messages %}\n  {% generation %}\n{{ m.role }}\n  {% endgeneration %}\n{% endfor %}") == (
        "system\nuser\n"
    )


def test_transformers_renders_the_same():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    source = (
        "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'user' %}\n  [U] {{ m.content }}\n"
        "{% else %}\n\t{{ m | tojson }}\n{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}[A]{% endif %}\n"
    )
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "x": 1}, unk_token="x"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", chat_template=source)
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert render(source) == expected


def test_what_a_template_refuses_is_said():
    with pytest.raises(TemplateRefusal, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateRefusal, match="tool"):
        render("{{ messages[0].tool.name }}")


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__base__'] }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__code__.co_consts }}",
    "{{ lipsum.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ ('' | attr('__class__')) }}",
    "{{ ('' | attr('__class__')).mro() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ namespace.__init__.__globals__ | tojson }}",
    "{{ self._TemplateReference__context.environment.globals }}",
    "{{ messages | map(attribute='__class__') | join }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_gives_nothing_away(source):
    try:
        told = render(source)
    except (UnsafeTemplate, TemplateRefusal):
        return
    assert told == ""


@pytest.mark.parametrize("change", ["append(1)", "pop()", "clear()", "insert(0, 1)"])
def test_what_a_template_is_given_stays_as_it_is(change):
    with pytest.raises(UnsafeTemplate):
        render("{{ messages." + change + " }}")
    with pytest.raises(UnsafeTemplate):
        render("{{ messages[0].update({'role': 'x'}) }}")


@pytest.mark.parametrize("source", ["{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'x' %}"])
def test_no_files_are_reached(source):
    with pytest.raises(TemplateRefusal):
        render(source)


def test_a_large_range_is_refused():
    with pytest.raises(TemplateRefusal, match="Range too big"):
        render("{% for i in range(10 ** 9) %}x{% endfor %}")


def test_a_broken_template_names_its_line():
    with pytest.raises(GrainlineError, match=r"chat\.jinja, line 2: .*endfor"):
        ChatTemplate("{% for m in messages %}\n{% endif %}", "chat.jinja")


def test_a_template_file(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text("{{ bos_token }}é")
    assert ChatTemplate.load(path, {"bos_token": "<s>"}).render(MESSAGES) == "<s>é"
    with pytest.raises(GrainlineError, match="no such file"):
        ChatTemplate.load(tmp_path / "none.jinja")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GrainlineError, match="no text file"):
        ChatTemplate.load(path)
