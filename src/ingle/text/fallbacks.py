"""Chat templates for model files that have none, chosen by the control tokens that the vocabulary has.

A vocabulary with a family's turn markers belongs to a model that was taught to use them; without any, the conversation
is written as plain text, and generation stops where the model begins to speak for the person.
"""

from __future__ import annotations

from collections.abc import Container

__all__ = ["fallback_template"]

_CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content|trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_GEMMA = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
    {{- message.content|trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

_PHI3 = """\
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

_MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
    {%- if message.role == 'assistant' %}{{ ' ' + message.content|trim + eos_token }}
    {%- else %}{{ '[INST] ' + message.content|trim + ' [/INST]' }}{% endif %}
{%- endfor %}"""

_PLAIN = """\
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ message.content|trim + '\\n\\n' }}
    {%- elif message.role == 'assistant' %}{{ 'Assistant: ' + message.content|trim + '\\n' }}
    {%- else %}{{ 'User: ' + message.content|trim + '\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

_BY_MARKERS = (
    (("<|im_start|>", "<|im_end|>"), _CHATML),
    (("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), _LLAMA3),
    (("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    (("<|user|>", "<|assistant|>", "<|end|>"), _PHI3),
    (("[INST]", "[/INST]"), _MISTRAL),
)


def fallback_template(control_tokens: Container[str]) -> tuple[str, tuple[str, ...]]:
    """The template, and the strings that end an answer where no control token does.

    Llama 2 itself gets the plain form: its "[INST]" is ordinary text, so nothing tells chat models from base models.
    """
    for markers, template in _BY_MARKERS:
        if all(marker in control_tokens for marker in markers):
            return template, ()
    return _PLAIN, ("\nUser:",)
