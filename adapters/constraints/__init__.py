"""Grammars become token masks: JSON Schema, GBNF, Lark and regular expressions, through llguidance."""
