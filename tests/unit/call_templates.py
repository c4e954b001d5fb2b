"""A chat template of each family of models with its own way of writing tool calls, reduced to what tells them apart."""

from __future__ import annotations

from corral.core.models.model import TemplateText

__all__ = ("TEMPLATES",)

_JINJA = {
    "hermes": """<|im_start|>system
For each function call, return a json object within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.tool_calls %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endfor %}""",
    "qwen3_coder": """<|im_start|>system
<tools>{% for t in tools %}<function><name>{{ t.function.name }}</name></function>{% endfor %}</tools>
<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
</function>
</tool_call>{% for m in messages %}{% for c in m.tool_calls %}{{ '<tool_call>\\n<function=' + c.name + '>\\n' }}
{% for k, v in c.arguments | items %}{{ '<parameter=' + k + '>\\n' }}{{ v }}{{ '\\n</parameter>\\n' }}{% endfor %}
{{ '</function>\\n</tool_call>' }}{% endfor %}{% endfor %}""",
    "seed": """{{ bos_token }}system
<seed:tool_call>
<function=example_function_name>
<parameter=example_parameter_1>value_1</parameter>
</function>
</seed:tool_call>
{% for m in messages %}{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>{% endif %}
{% endfor %}""",
    "glm": """[gMASK]<sop><|system|>
For each function call, output the function name and arguments within the following XML format:
<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
</tool_call>{% for m in messages %}<|{{ m.role }}|>
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{% endfor %}""",
    "llama3_json": """<|begin_of_text|>{% if builtin_tools %}Environment: ipython{% endif %}
Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.
{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
{% if m.tool_calls %}{% if builtin_tools %}<|python_tag|>{% endif %}
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}
{% endif %}{% endfor %}""",
    "pythonic": """<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
If you decide to invoke any of the function(s), you MUST put it in the format of
[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]
{{ m.content }}<|eot_id|>{% endfor %}""",
    "lfm2": """{{ bos_token }}List of tools: <|tool_list_start|>{{ tools | tojson }}<|tool_list_end|>
{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.tool_calls %}<|tool_call_start|>[{{ m.tool_calls }}]<|tool_call_end|>{% endif %}{% endfor %}""",
    "tool_code": """{{ bos_token }}<start_of_turn>user
At each turn, if you decide to invoke any of the function(s), wrap it in ```tool_code```:
```tool_code
name(argument=value)
```
{% for m in messages %}<start_of_turn>{{ m.role }}{{ m.content }}<end_of_turn>{% endfor %}""",
    "mistral_list": """{{ bos_token }}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]
{% for m in messages %}{% if m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments }}, "id": "{{ c.id }}"}{% endfor %}]{% endif %}
[INST] {{ m.content }}[/INST]{% endfor %}""",
    "mistral": """{{ bos_token }}[SYSTEM_PROMPT]# HOW YOU SHOULD THINK
[THINK]Your thoughts[/THINK]Here, provide a self-contained response.[/SYSTEM_PROMPT]
{% for m in messages %}{% for c in m.tool_calls %}
{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments }}{% endfor %}{% endfor %}""",
    "deepseek": """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% endif %}
{% for tool in m.tool_calls %}{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool.type + '<｜tool▁sep｜>' }}
{{ tool.function.name + '\\n```json\\n' + tool.function.arguments + '\\n```<｜tool▁call▁end｜>' }}
{{ '<｜tool▁calls▁end｜>' }}{% endfor %}{% endfor %}
{{ '<｜Assistant｜><think>\\n' }}{% if '</think>' in x %}{% endif %}""",
    "deepseek_v31": """{{ bos_token }}{% for m in messages %}{% for tool in m.tool_calls %}
{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool.function.name + '<｜tool▁sep｜>' + tool.function.arguments }}
{{ '<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}{% endfor %}{% endfor %}
{% if thinking %}<｜Assistant｜><think>{% else %}<｜Assistant｜></think>{% endif %}""",
    "deepseek_v32": """{% set dsml_token = "｜DSML｜" %}{% set thinking_start_token = "<think>" %}
{{ bos_token }}You can invoke functions by writing a "<{{ dsml_token }}function_calls>" block:
<{{ dsml_token }}function_calls>
<{{ dsml_token }}invoke name="$FUNCTION_NAME">
<{{ dsml_token }}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{{ dsml_token }}parameter>
</{{ dsml_token }}invoke>
</{{ dsml_token }}function_calls>{% for m in messages %}<｜User｜>{{ m.content }}<｜Assistant｜></think>{% endfor %}""",
    "kimi": """{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}
{% for m in messages %}<|im_user|>{{ m.role }}<|im_middle|>{{ m.content }}
{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}
<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>
{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}""",
    "minimax": """{% set toolcall_begin_token = '<minimax:tool_call>' %}
{% set toolcall_end_token = '</minimax:tool_call>' %}]~b]system
When making tool calls, use XML format to invoke tools and pass parameters:
{{ toolcall_begin_token }}
<invoke name="tool-name-1">
<parameter name="param-key-1">param-value-1</parameter>
</invoke>
{{ toolcall_end_token }}[e~[
{% for m in messages %}]~b]{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}[e~[{% endfor %}""",
    "gemma4": """{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}
{% for c in m.tool_calls %}{{ '<|tool_call>call:' + c.function.name + '{' }}<|"|>{{ '}<tool_call|>' }}{% endfor %}
{% for part in m.content.split('<channel|>') %}{% if '<|channel>' in part %}{% endif %}{% endfor %}<turn|>{% endfor %}
{% if not enable_thinking %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}""",
    "function_gemma": """{{ bos_token }}<start_of_turn>developer
{% for t in tools %}<start_function_declaration>declaration:{{ t.name }}<end_function_declaration>{% endfor %}
{% for m in messages %}{% for c in m.tool_calls %}{{ '<start_function_call>call:' + c.function.name + '{' }}<escape>
{{ '}<end_function_call>' }}{% endfor %}{% endfor %}""",
    "harmony": """<|start|>system<|message|># Valid channels: analysis, commentary, final.<|end|>
{% for m in messages %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>
{% endif %}{% for c in m.tool_calls %}
{{ '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' }}<|call|>{% endfor %}
{% endfor %}<|start|>assistant""",
    "cohere": """{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{% for m in messages %}
{% if m.tool_calls %}<|START_THINKING|>{{ m.tool_plan }}<|END_THINKING|><|START_ACTION|>[
{% for c in m.tool_calls %}{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}",
 "parameters": {{ c.function.arguments | tojson }}}{% endfor %}]<|END_ACTION|>{% endif %}
<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endfor %}""",
    "command_r": """{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ tools }}<|END_OF_TURN_TOKEN|>
{% for m in messages %}<|START_OF_TURN_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% endfor %}
<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Write 'Action:' followed by a json-formatted list of actions:
```json
[{"tool_name": title of the tool, "parameters": a dict of parameters}]```<|END_OF_TURN_TOKEN|>""",
    "granite": """<|start_of_role|>system<|end_of_role|>When a tool is required to answer the user's query, respond with
<|tool_call|> followed by a JSON list of tools used.
Write your thoughts after 'Here is my thought process:' and write your response after 'Here is my response:'.
{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>{% endfor %}""",
    "phi4": """{% for m in messages %}{% if m.role == 'system' and m.tools %}
{{ '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|>' + '<|end|>' }}{% endif %}
{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}<|assistant|>""",
}

_GO = {
    "go_tag": """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
""",
}

TEMPLATES = {name: TemplateText(kind="jinja", text=text) for name, text in _JINJA.items()} | {
    name: TemplateText(kind="go", text=text) for name, text in _GO.items()
}
