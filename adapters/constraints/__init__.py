"""Turns grammars into token masks: JSON Schema, GBNF, Lark and regular expressions, with llguidance."""
