"""Changes a template without ``.Messages`` for the turn that is to be answered: what follows the answer is cut off."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.go.templates.nodes import Action, Argument, Branch, Command, Field, Node, Pipeline

__all__ = ("cut_after_response", "with_response")

_RESPONSE = "Response"


def with_response(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The same, with the answer at its end."""
    answer = Field(position=0, names=(_RESPONSE,))
    pipeline = Pipeline(position=0, commands=(Command(position=0, arguments=(answer,)),))
    return (*nodes, Action(position=0, pipeline=pipeline))


def cut_after_response(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Everything up to the first use of ``.Response``.

    Conditions do not count, and what encloses it stays: an ``{{ else }}`` that follows is empty.
    """
    return _Cutting().nodes(nodes)


class _Cutting:
    def __init__(self) -> None:
        self._found = False

    def nodes(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        kept: list[Node] = []
        for node in nodes:
            if self._found:
                break
            changed = self._node(node)
            if changed is not None:
                kept.append(changed)
        return tuple(kept)

    def _node(self, node: Node) -> Node | None:
        if isinstance(node, Branch):
            body = self.nodes(node.body)
            otherwise = None if node.otherwise is None else self.nodes(node.otherwise)
            return msgspec.structs.replace(node, body=body, otherwise=otherwise)
        if isinstance(node, Action):
            pipeline = self._pipeline(node.pipeline)
            return None if pipeline is None else msgspec.structs.replace(node, pipeline=pipeline)
        return node

    def _pipeline(self, pipeline: Pipeline) -> Pipeline | None:
        """None if nothing is left of it."""
        commands: list[Command] = []
        for command in pipeline.commands:
            arguments = [changed for one in command.arguments if (changed := self._argument(one)) is not None]
            if not arguments:
                return None
            commands.append(msgspec.structs.replace(command, arguments=tuple(arguments)))
        return msgspec.structs.replace(pipeline, commands=tuple(commands))

    def _argument(self, argument: Argument) -> Argument | None:
        if isinstance(argument, Field) and _RESPONSE in argument.names:
            self._found = True
            return argument
        if self._found:
            return None
        return self._pipeline(argument) if isinstance(argument, Pipeline) else argument
