// Renders chat templates with Go's own text/template, to compare Corral's rendering with it.
//
// Reads a JSON list of cases from standard input and writes a JSON list of results, each an output and an error.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// A testCase is a template with either a chat or any data.
type testCase struct {
	Template string `json:"template"`
	Chat     *chat  `json:"chat"`
	Data     any    `json:"data"`
}

type result struct {
	Output string `json:"output"`
	Error  string `json:"error,omitempty"`
}

type chat struct {
	Messages []message `json:"messages"`
	Tools    []tool    `json:"tools"`
	Think    any       `json:"think"`
	Prompt   string    `json:"prompt"`
	Suffix   string    `json:"suffix"`
}

var functions = template.FuncMap{
	"json":          asJSON,
	"currentDate":   func(...string) string { return "2026-11-29" },
	"yesterdayDate": func(...string) string { return "2026-11-28" },
	"toTypeScriptType": func(v any) string {
		if property, ok := v.(ToolProperty); ok {
			return property.ToTypeScriptType()
		}
		return "any"
	},
}

// The types have other names in Ollama, which errors show.
var names = strings.NewReplacer("main.template", "template.template", "main.", "api.")

func main() {
	var cases []testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := make([]result, len(cases))
	for i, c := range cases {
		output, err := run(c)
		results[i].Output = output
		if err != nil {
			results[i] = result{Error: names.Replace(err.Error())}
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(results); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(c testCase) (string, error) {
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(c.Template)
	if err != nil {
		return "", err
	}
	var output bytes.Buffer
	if c.Chat == nil {
		err = parsed.Execute(&output, c.Data)
	} else {
		err = render(&output, parsed, c.Chat)
	}
	return output.String(), err
}

// render does what Ollama does with a conversation.
func render(output io.Writer, parsed *template.Template, c *chat) error {
	used := identifiers(parsed)
	if !slices.Contains(used, "messages") && !slices.Contains(used, "response") {
		pipe := &parse.PipeNode{NodeType: parse.NodePipe, Cmds: []*parse.CommandNode{{
			NodeType: parse.NodeCommand,
			Args:     []parse.Node{&parse.FieldNode{NodeType: parse.NodeField, Ident: []string{"Response"}}},
		}}}
		parsed.Root.Nodes = append(parsed.Root.Nodes, &parse.ActionNode{NodeType: parse.NodeAction, Pipe: pipe})
	}
	with := func(variables map[string]any) map[string]any {
		level, isText := c.Think.(string)
		truth, _ := c.Think.(bool)
		if truth {
			level = "medium"
		}
		variables["Think"] = truth || isText
		variables["ThinkLevel"] = level
		variables["IsThinkSet"] = c.Think != nil
		return variables
	}
	if c.Prompt != "" && c.Suffix != "" {
		return parsed.Execute(output, with(map[string]any{"Prompt": c.Prompt, "Suffix": c.Suffix, "Response": ""}))
	}
	system, messages := collate(c.Messages)
	if slices.Contains(used, "messages") {
		return parsed.Execute(output, with(map[string]any{
			"System": system, "Messages": messages, "Tools": convertTools(c.Tools), "Response": "",
		}))
	}
	turn := map[string]any{"System": "", "Prompt": "", "Response": ""}
	next := func(t *template.Template) error {
		err := t.Execute(output, with(turn))
		turn = map[string]any{"System": "", "Prompt": "", "Response": ""}
		return err
	}
	for _, m := range messages {
		switch m.Role {
		case "system":
			if turn["Prompt"] != "" || turn["Response"] != "" {
				if err := next(parsed); err != nil {
					return err
				}
			}
			turn["System"] = m.Content
		case "user":
			if turn["Response"] != "" {
				if err := next(parsed); err != nil {
					return err
				}
			}
			turn["Prompt"] = m.Content
		case "assistant":
			turn["Response"] = m.Content
		}
	}
	last, err := parsed.Clone()
	if err != nil {
		return err
	}
	cut := false
	last.Root.Nodes = cutList(last.Root.Copy().(*parse.ListNode), &cut)
	return next(last)
}

func collate(messages []message) (string, []*templateMessage) {
	var system []string
	var collated []message
	for _, m := range messages {
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(collated); n > 0 && collated[n-1].Role == m.Role && m.Role != "tool" {
			collated[n-1].Content += "\n\n" + m.Content
		} else {
			collated = append(collated, m)
		}
	}
	converted := make([]*templateMessage, len(collated))
	for i, m := range collated {
		converted[i] = convertMessage(m)
	}
	return strings.Join(system, "\n\n"), converted
}

// cutList removes everything after the first use of .Response.
func cutList(list *parse.ListNode, cut *bool) []parse.Node {
	var kept []parse.Node
	for _, node := range list.Nodes {
		if *cut {
			break
		}
		switch n := node.(type) {
		case *parse.IfNode:
			cutBranch(&n.BranchNode, cut)
		case *parse.WithNode:
			cutBranch(&n.BranchNode, cut)
		case *parse.RangeNode:
			cutBranch(&n.BranchNode, cut)
		case *parse.ActionNode:
			if !cutPipe(n.Pipe, cut) {
				continue
			}
		}
		kept = append(kept, node)
	}
	return kept
}

func cutBranch(branch *parse.BranchNode, cut *bool) {
	branch.List.Nodes = cutList(branch.List, cut)
	if branch.ElseList != nil {
		branch.ElseList.Nodes = cutList(branch.ElseList, cut)
	}
}

func cutPipe(pipe *parse.PipeNode, cut *bool) bool {
	for _, command := range pipe.Cmds {
		var arguments []parse.Node
		for _, argument := range command.Args {
			if field, ok := argument.(*parse.FieldNode); ok && slices.Contains(field.Ident, "Response") {
				*cut = true
			} else if inner, ok := argument.(*parse.PipeNode); *cut || ok && !cutPipe(inner, cut) {
				continue
			}
			arguments = append(arguments, argument)
		}
		if len(arguments) == 0 {
			return false
		}
		command.Args = arguments
	}
	return len(pipe.Cmds) > 0
}

// identifiers are the names of fields and variables in lower case; fields of parenthesized pipelines do not count.
func identifiers(t *template.Template) []string {
	var found []string
	var visit func(parse.Node)
	branch := func(b *parse.BranchNode) {
		visit(b.Pipe)
		visit(b.List)
		if b.ElseList != nil {
			visit(b.ElseList)
		}
	}
	visit = func(node parse.Node) {
		switch n := node.(type) {
		case *parse.ListNode:
			for _, inner := range n.Nodes {
				visit(inner)
			}
		case *parse.TemplateNode:
			if n.Pipe != nil {
				visit(n.Pipe)
			}
		case *parse.ActionNode:
			visit(n.Pipe)
		case *parse.IfNode:
			branch(&n.BranchNode)
		case *parse.WithNode:
			branch(&n.BranchNode)
		case *parse.RangeNode:
			branch(&n.BranchNode)
		case *parse.PipeNode:
			for _, command := range n.Cmds {
				for _, argument := range command.Args {
					visit(argument)
				}
			}
		case *parse.FieldNode:
			found = append(found, n.Ident...)
		case *parse.VariableNode:
			found = append(found, n.Ident...)
		}
	}
	for _, inner := range t.Templates() {
		visit(inner.Root)
	}
	for i, name := range found {
		found[i] = strings.ToLower(name)
	}
	return found
}
