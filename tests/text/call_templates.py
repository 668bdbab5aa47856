"""Chat templates of families, as small as they can be and still write calls as the published ones do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ingle.text import ChatTemplate, Tokenizer

CHATML_BEGIN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
CHATML_END = "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TOLD = "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"


@dataclass(frozen=True)
class Published:
    """A family's template and control tokens. spm: a SentencePiece vocabulary. two: what it makes of two calls."""

    template: str | None
    control: tuple[str, ...]
    two: str
    added: tuple[str, ...] = ()
    spm: bool = False

    def make(self, byte_level: Callable[..., dict[str, object]]) -> ChatTemplate:
        if self.spm:
            tokenizer = spm(self.control)
        else:
            merges = ('{ "', '" :', "t i", "ti m", "tim e", "n a", "na m", "nam e", "r e", "a r")
            n = 256 + len(merges) + len(self.added)
            ids = {"bos_token_id": n, "eos_token_id": n + 1}
            tokenizer = Tokenizer.from_metadata(byte_level(merges, self.control, self.added, **ids))
        if self.template is None:
            return ChatTemplate.from_metadata({}, tokenizer)
        return ChatTemplate(self.template, tokenizer)


def spm(control: tuple[str, ...]) -> Tokenizer:
    pieces = ["▁", "▁{", '▁{"', '{"', '":', '"}', "name", "▁time", '▁"', "▁t", *'abcdefghij{}":,.é[]']
    tokens = ["<unk>", *control, *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    n = len(control)
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * (n + 257) + [-float(i) for i in range(len(pieces))],
            "tokenizer.ggml.token_type": [2] + [3] * n + [6] * 256 + [1] * len(pieces),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_space_prefix": True,
        }
    )


F, G = '{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "arguments": {}}'
PUBLISHED = {
    "hermes": Published(
        TOLD
        + CHATML_BEGIN
        + '{% for c in m.tool_calls or [] %}{% set c = c.function %}{{ \'\n<tool_call>\n{"name": "\' + c.name + '
        "'\", \"arguments\": ' + c.arguments | tojson + '}\n</tool_call>' }}{% endfor %}" + CHATML_END,
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        f"<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{G}\n</tool_call>",
        added=("<tool_call>", "</tool_call>"),
    ),
    "qwen-coder": Published(
        TOLD
        + CHATML_BEGIN
        + "{% for c in m.tool_calls or [] %}{% set c = c.function %}{{ '\n<tool_call>\n<function=' + c.name + '>\n' }}"
        "{% for k, v in c.arguments | items %}{{ '<parameter=' + k + '>\n' }}{{ v if v is string else v | tojson }}"
        "{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}" + CHATML_END,
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=g>\n</function>\n</tool_call>",
    ),
    "llama": Published(
        "{{ bos_token }}{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
        "{{ raise_exception('one call at a time') }}{% endif %}{% set c = m.tool_calls[0].function %}"
        '{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + c.name + \'", "parameters": \' }}'
        "{{ c.arguments | tojson + '}<|eot_id|>' }}{% else %}{% set role = 'ipython' if m.role == 'tool' else m.role %}"
        "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}{% if tools and loop.first %}{{ tools | tojson }}"
        "{% endif %}{{ m.content + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>"),
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
    ),
    "mistral-list": Published(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools %}{{ '[AVAILABLE_TOOLS] ' }}"
        "{{ tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST] ' + m.content + '[/INST]' }}"
        "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        '{{ \'{"name": "\' + c.function.name + \'", "arguments": \' + c.function.arguments | tojson }}'
        "{{ ', \"id\": \"' + c.id + '\"}' + (']' + eos_token if loop.last else ', ') }}{% endfor %}"
        '{% elif m.role == \'tool\' %}{{ \'[TOOL_RESULTS] {"content": "\' + m.content + \'", "call_id": "\' }}'
        "{{ m.tool_call_id + '\"}[/TOOL_RESULTS]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
        ),
        f"[TOOL_CALLS][{F}, {G}]",
        spm=True,
    ),
    "mistral": Published(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools %}{{ '[AVAILABLE_TOOLS]' }}"
        "{{ tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}"
        "{% elif m.tool_calls %}{% for c in m.tool_calls %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' }}"
        "{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% elif m.role == 'tool' %}"
        "{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
        "{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[TOOL_RESULTS]"),
        '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}',
    ),
    "phi": Published(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if m.role == 'system' and m.tools %}"
        "{{ '<|tool|>' + m.tools + '<|/tool|>' }}{% endif %}{{ '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        f"<|tool_call|>[{F}, {G}]<|/tool_call|>",
        added=("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>"),
    ),
    "phi-object": Published(
        "{% if tools %}{{ '<|system|><|tool|>' + tools | tojson + '<|/tool|><|end|>' }}{% endif %}"
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% for c in m.tool_calls or [] %}"
        "{{ '<|tool_call|>' + c.function | tojson + '<|/tool_call|>' }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool_call|>", "<|/tool_call|>"),
        f"<|tool_call|>{F}<|/tool_call|><|tool_call|>{G}<|/tool_call|>",
    ),
    "gemma": Published(
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
        "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<end_of_turn>", "<start_of_turn>"),
        '```tool_code\n{"name": "f", "parameters": {"a": 1}}\n```\n```tool_code\n{"name": "g", "parameters": {}}\n```',
    ),
    "learnt": Published(
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if tools and loop.first %}{{ tools | tojson }}{% endif %}"
        "{{ m.content }}{% if m.tool_calls %}{{ '<calls>' }}{% for c in m.tool_calls %}"
        "{{ '<call>function<sep>' + c.function.name + '\n```json\n' + c.function.arguments | tojson + '\n```</call>' }}"
        "{% endfor %}{{ '</calls>' }}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}",
        ("<bos>", "<eos>", "<|user|>", "<|assistant|>", "<call>", "</call>", "<sep>", "<calls>", "</calls>"),
        '<calls><call>function<sep>f\n```json\n{"a": 1}\n```</call>'
        "<call>function<sep>g\n```json\n{}\n```</call></calls>",
    ),
    "generic": Published(
        None,
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        f"<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{G}\n</tool_call>",
    ),
}
