package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
)

func asJSON(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// What a request contains.

type message struct {
	Role       string      `json:"role"`
	Content    string      `json:"content"`
	Thinking   string      `json:"thinking"`
	Images     []ImageData `json:"images"`
	ToolCalls  []toolCall  `json:"tool_calls"`
	ToolName   string      `json:"tool_name"`
	ToolCallID string      `json:"tool_call_id"`
}

type ImageData []byte

type toolCall struct {
	ID       string `json:"id"`
	Function struct {
		Index     int          `json:"index"`
		Name      string       `json:"name"`
		Arguments templateArgs `json:"arguments"`
	} `json:"function"`
}

type tool struct {
	Type     string `json:"type"`
	Items    any    `json:"items"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string             `json:"type"`
			Defs       any                `json:"$defs"`
			Items      any                `json:"items"`
			Required   []string           `json:"required"`
			Properties templateProperties `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type PropertyType []string

func (t *PropertyType) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = PropertyType{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func (t PropertyType) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t PropertyType) String() string {
	switch len(t) {
	case 0:
		return ""
	case 1:
		return t[0]
	}
	return fmt.Sprint([]string(t))
}

type ToolProperty struct {
	AnyOf       []ToolProperty     `json:"anyOf,omitempty"`
	Type        PropertyType       `json:"type,omitempty"`
	Items       any                `json:"items,omitempty"`
	Description string             `json:"description,omitempty"`
	Enum        []any              `json:"enum,omitempty"`
	Properties  *ToolPropertiesMap `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
}

func (p ToolProperty) ToTypeScriptType() string {
	var types []string
	for _, one := range p.AnyOf {
		types = append(types, one.ToTypeScriptType())
	}
	if len(types) == 0 {
		for _, name := range p.Type {
			switch name {
			case "string", "boolean", "null":
				types = append(types, name)
			case "number", "integer":
				types = append(types, "number")
			case "array":
				types = append(types, "any[]")
			case "object":
				types = append(types, "Record<string, any>")
			default:
				types = append(types, "any")
			}
		}
	}
	if len(types) == 0 {
		return "any"
	}
	return strings.Join(types, " | ")
}

// ToolPropertiesMap keeps the order of its properties.
type ToolPropertiesMap struct {
	om *orderedProperties
}

type orderedProperties struct {
	names  []string
	values map[string]ToolProperty
}

func (m *ToolPropertiesMap) UnmarshalJSON(data []byte) error {
	m.om = &orderedProperties{values: map[string]ToolProperty{}}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var value ToolProperty
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		if _, known := m.om.values[name.(string)]; !known {
			m.om.names = append(m.om.names, name.(string))
		}
		m.om.values[name.(string)] = value
	}
	return nil
}

func (m ToolPropertiesMap) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range m.om.names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(asJSON(name) + ":" + asJSON(m.om.values[name]))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (m *ToolPropertiesMap) Len() int {
	if m == nil {
		return 0
	}
	return len(m.om.names)
}

func (m *ToolPropertiesMap) All() iter.Seq2[string, ToolProperty] {
	return func(yield func(string, ToolProperty) bool) {
		if m == nil {
			return
		}
		for _, name := range m.om.names {
			if !yield(name, m.om.values[name]) {
				return
			}
		}
	}
}

func (m *ToolPropertiesMap) ToMap() map[string]ToolProperty {
	if m == nil {
		return nil
	}
	return m.om.values
}

// What templates see.

type templateMessage struct {
	Role       string
	Content    string
	Thinking   string
	Images     []ImageData
	ToolCalls  []templateToolCall
	ToolName   string
	ToolCallID string
}

type templateToolCall struct {
	ID       string
	Function templateToolCallFunction
}

type templateToolCallFunction struct {
	Index     int
	Name      string
	Arguments templateArgs
}

type templateArgs map[string]any

func (a templateArgs) String() string {
	if a == nil {
		return "{}"
	}
	return asJSON(a)
}

type templateTools []templateTool

func (t templateTools) String() string { return asJSON(t) }

type templateTool struct {
	Type     string               `json:"type"`
	Items    any                  `json:"items,omitempty"`
	Function templateToolFunction `json:"function"`
}

func (t templateTool) String() string { return asJSON(t) }

type templateToolFunction struct {
	Name        string                         `json:"name"`
	Description string                         `json:"description"`
	Parameters  templateToolFunctionParameters `json:"parameters"`
}

type templateToolFunctionParameters struct {
	Type       string             `json:"type"`
	Defs       any                `json:"$defs,omitempty"`
	Items      any                `json:"items,omitempty"`
	Required   []string           `json:"required,omitempty"`
	Properties templateProperties `json:"properties"`
}

type templateProperties map[string]ToolProperty

func (p templateProperties) String() string {
	if p == nil {
		return "{}"
	}
	return asJSON(p)
}

func convertTools(tools []tool) templateTools {
	if len(tools) == 0 {
		return nil
	}
	converted := make(templateTools, len(tools))
	for i, t := range tools {
		parameters := templateToolFunctionParameters(t.Function.Parameters)
		function := templateToolFunction{t.Function.Name, t.Function.Description, parameters}
		converted[i] = templateTool{t.Type, t.Items, function}
	}
	return converted
}

func convertMessage(m message) *templateMessage {
	var calls []templateToolCall
	for _, call := range m.ToolCalls {
		calls = append(calls, templateToolCall{call.ID, templateToolCallFunction(call.Function)})
	}
	return &templateMessage{m.Role, m.Content, m.Thinking, m.Images, calls, m.ToolName, m.ToolCallID}
}
