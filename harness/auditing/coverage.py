"""Coverage: the layers of a model in whose forwards no attention call was seen."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.auditing.blame import few
from harness.auditing.recorder import Recorder

WHAT_TO_DO = (
    "attention that is written by hand, is another package's, or was compiled before the audit is"
    " not seen: mark the function with harness.auditing.observe.like_sdpa, compile within the"
    " audit or not at all, or give a function of its own to python -m harness check"
)


@dataclass
class Coverage:
    """The layers of ``model``: the elements, with modules of their own, of its outermost
    ModuleLists and Sequentials.

    ``ran`` counts their forwards that were watched, ``unseen`` has the numbers of those forwards of
    the model in which a layer ran without an attention call."""

    model: nn.Module
    ran: Counter[tuple[str, int]] = field(default_factory=Counter)
    unseen: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))

    def layers(self) -> Iterator[tuple[tuple[str, int], nn.Module]]:
        """Each layer with the name of its list and its index there."""
        lists: list[str] = []
        for name, module in self.model.named_modules():
            within = any(not outer or name.startswith(f"{outer}.") for outer in lists)
            if isinstance(module, (nn.ModuleList, nn.Sequential)) and not within:
                lists.append(name)
                for index, layer in enumerate(module):
                    if any(True for _ in layer.children()):
                        yield (name or type(self.model).__name__, index), layer

    @contextlib.contextmanager
    def hooked(self, recorder: Recorder, forward: list[int]) -> Iterator[None]:
        """Count in the block; ``forward`` has the number of the model's forward that runs."""
        met: list[int] = []
        with contextlib.ExitStack() as stack:
            for place, layer in self.layers():

                def starts(*_: object) -> None:
                    if not torch.compiler.is_compiling():
                        met.append(recorder.met)

                def ends(*_: object, place: tuple[str, int] = place) -> None:
                    if torch.compiler.is_compiling() or not met:
                        return
                    before = met.pop()
                    if not recorder.asleep:
                        self.ran[place] += 1
                        if recorder.met == before:
                            self.unseen[place].append(forward[0])

                stack.callback(layer.register_forward_pre_hook(starts).remove)
                stack.callback(layer.register_forward_hook(ends, always_call=True).remove)
            yield

    def lines(self) -> Iterator[str]:
        """Which layers were not looked at, in which forwards, with what they consist of."""
        kinds = {
            place: {type(m).__name__ for m in layer.children()} for place, layer in self.layers()
        }
        seen = {kind for place in self.ran for kind in kinds[place] if place not in self.unseen}
        groups: dict[tuple[str, tuple[int, ...], tuple[str, ...]], list[int]] = defaultdict(list)
        for (name, index), forwards in self.unseen.items():
            own = kinds[name, index]
            # What only the unseen layers have is what attends there, if anything does.
            what = tuple(sorted(own - seen or own))
            groups[name, tuple(forwards), what].append(index)
        for (name, when_unseen, what), indices in groups.items():
            forwards = list(when_unseen)
            ran = {self.ran[name, index] for index in indices}
            every = ran == {len(forwards)}
            when = "any" if every else f"{len(forwards)}, those of forward {few(forwards)},"
            when += f" of {'its' if len(indices) == 1 else 'their'} {max(ran)} forwards"
            total = sum(1 for place in kinds if place[0] == name)
            yield (
                f"{len(indices)} of {total} layers of {name}, {few(sorted(indices))}: no attention"
                f" call was seen in {when};"
                f" {'it consists' if len(indices) == 1 else 'they consist'} of {', '.join(what)}"
            )
