"""Mutants: what cosmic-ray's operators make of a place in a subject."""

from __future__ import annotations

import functools
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from parso.tree import NodeOrLeaf

# Most leaves of a tree: no operator without arguments takes them, and looking takes most seconds.
UNTOUCHED = ("name", "string", "newline", "endmarker")


@dataclass(frozen=True)
class Mutant:
    """The ``occurrence``-th place in ``module`` where ``operator`` applies, at ``line``."""

    module: str
    line: int
    operator: str
    occurrence: int


@functools.cache
def mutated(mutant: Mutant, text: str) -> str | None:
    """The text of the module with the mutation, or None where it is no longer Python, as a
    keyword-only ``*`` that became ``+``."""
    operator = plugins.get_operator(mutant.operator)()
    source = mutate_code(text, operator, mutant.occurrence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # as for `is` with a literal
            compile(source, mutant.module, "exec")
    except SyntaxError:
        return None
    return str(source)


def places(root: Path, modules: tuple[str, ...]) -> list[list[Mutant]]:
    """The mutants of each place: those of one span of text and one kind of operator.

    A place counts once, since ``+`` has eleven replacements and ``if`` has one. Annotations are
    left out: nothing evaluates them.
    """
    found: dict[tuple[object, ...], list[Mutant]] = defaultdict(list)
    for module in modules:
        tree = get_ast((root / module).read_text(encoding="utf-8"))
        nodes = [node for node in ast_nodes(tree) if node.type not in UNTOUCHED]
        for name, operator in operators():
            positions = ((n, *span) for n in nodes for span in operator.mutation_positions(n))
            for occurrence, (node, start, end) in enumerate(positions):
                if not annotates(node):
                    place = module, start, end, name.partition("_")[0]
                    found[place].append(Mutant(module, start[0], name, occurrence))
    return [found[place] for place in sorted(found)]


def operators() -> Iterator[tuple[str, plugins.Operator]]:
    """cosmic-ray's operators that need no arguments."""
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        if not kind.arguments():
            yield name, kind()


def annotates(node: NodeOrLeaf) -> bool:
    """Whether a node lies in the annotation of an argument, a result or a variable."""
    while (parent := node.parent) is not None:
        place = {
            "funcdef": lambda: parent.annotation,
            "tfpdef": lambda: parent.children[-1],
            "annassign": lambda: parent.children[1],
        }.get(parent.type)
        if place is not None and place() is node:
            return True
        node = parent
    return False


def sample(root: Path, modules: tuple[str, ...], count: int, seed: int) -> list[Mutant]:
    """``count`` places drawn evenly, one mutant of each, in the order drawn: a larger sample of a
    seed begins with a smaller one."""
    chosen: list[Mutant] = []
    generator = random.Random(seed)
    drawn = places(root, modules)
    generator.shuffle(drawn)
    texts = {module: (root / module).read_text(encoding="utf-8") for module in modules}
    for mutants in drawn:
        if len(chosen) == count:
            break
        mutant = generator.choice(mutants)
        if mutated(mutant, texts[mutant.module]) is not None:
            chosen.append(mutant)
    return chosen
