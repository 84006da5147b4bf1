"""From operations on activations and currents to layers: the rules of what may follow what."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from spikesep.spiking.folding import NORMS
from spikesep.spiking.from_torch.modules import (
    ARGUMENTS,
    AVERAGES,
    MAXIMA,
    RECTIFIERS,
    is_unsized,
    refusal,
    require_known,
    settled,
)
from spikesep.spiking.from_torch.moves import Move, move_of
from spikesep.spiking.from_torch.values import (
    Activation,
    Current,
    Term,
    addition,
    concatenation,
    folded,
    shortcut,
    with_norm_before,
)
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.levels.network import set_levels
from spikesep.spiking.network import READOUT, NotConvertibleError, SpikingNetwork, Wiring
from spikesep.spiking.readout import Readout
from spikesep.spiking.synapses.kinds import SYNAPSES
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.maps import Gate
from spikesep.spiking.wiring.wires import INPUT, Output

Value = Activation | Current
MUST_END = "the network must end in a Linear or Conv layer: the readout"


class Builder:
    """The layers found so far."""

    def __init__(self):
        self.layers: dict[str, SpikingLayer] = {}
        self.wiring: Wiring = {}
        self.seen: set[nn.Module] = set()

    def input(self) -> Activation:
        """The network's input."""
        return Activation(Output(INPUT))

    def module(self, path: str, module: nn.Module, value: Value) -> Value:
        """What a module makes of a value.

        Raises:
            NotConvertibleError: it has no spiking counterpart there.
        """
        if isinstance(module, Move):
            return self.move(path, module, value)
        kind = require_known(path, module)
        if kind in ARGUMENTS or kind in SYNAPSES:
            module = self._own(path, module, kind)
        if kind in SYNAPSES:
            return self._synapse(path, module, value)
        if kind in NORMS:
            return self._norm(path, module, value)
        if kind in RECTIFIERS:
            return self._rectify(path, module, value)
        if kind in MAXIMA:
            return self._max_pool(path, module, value)
        if kind is nn.Identity:
            return value
        move = move_of(path, module)
        if move is not None:
            return self.move(path, module, value)
        if isinstance(value, Activation):
            return value.behind(path, module)
        return replace(value, behind=(*value.behind, (path, module)))

    def move(self, path: str, module: nn.Module, value: Value) -> Value:
        """Apply a map that moves activations to other places."""
        move = move_of(path, module)
        assert move is not None
        if isinstance(value, Activation):
            return value.mapped(move, "a map that moves activations")
        return replace(value, maps=(*value.maps, (path, move)))

    def add(self, path: str, values: Sequence[Value]) -> Value:
        """The sum of values: of activations, or of currents and activations."""
        currents = [value for value in values if isinstance(value, Current)]
        if not currents:
            wires = [v.joined("an addition") for v in values if isinstance(v, Activation)]
            return addition(wires)
        terms = [term for current in currents for term in current.terms]
        for current in currents:
            for own, module in [*moved(current), *current.maps]:
                why = "stands between a synapse and an addition; move it behind the ReLU"
                raise refusal(own, module, why)
        for number, value in enumerate(values):
            if isinstance(value, Activation):
                terms.append(shortcut(f"{path}.{number}", value, terms[0]))
        return Current(tuple(terms), currents[0].behind)

    def concatenate(self, path: str, values: Sequence[Value], dim: int) -> Activation:
        """Activations side by side.

        Raises:
            NotConvertibleError: a ReLU is missing before.
        """
        for value in values:
            if isinstance(value, Current):
                term = value.terms[0]
                why = "is concatenated before its ReLU; put the ReLU before the concatenation"
                raise refusal(term.path, term.synapse, why)
        wires = [v.joined("a concatenation") for v in values if isinstance(v, Activation)]
        return concatenation(wires, dim)

    def finish(self, current: Current, tail: nn.Module | None) -> SpikingNetwork:
        """The network whose last current is the readout's potential."""
        for path, module in [*moved(current), *current.maps]:
            raise refusal(
                path, module, "stands between the synapses of the readout; move it behind"
            )
        if not self.layers:
            raise NotConvertibleError(
                "the network has only a readout; put a Linear or Conv layer with ReLU before it"
            )
        readout = folded(current.terms[0])
        shortcuts = self._shortcuts(current.terms[1:])
        synapse = readout.synapse
        part = self._made(readout, Readout, synapse, readout.map, shortcuts)
        self.wiring[READOUT] = tuple(term.wire for term in current.terms)
        return SpikingNetwork(self.layers, part, self.wiring, tail)

    def _own(self, path: str, module: nn.Module, kind: type[nn.Module]) -> nn.Module:
        """A synapse or norm that occurs once, with weights of its own."""
        if module in self.seen:
            raise refusal(path, module, "its weights are used twice; give each layer its own")
        self.seen.add(module)
        if is_unsized(module):
            raise refusal(path, module, "has no sizes yet; run the network once")
        return settled(module, kind)

    def _synapse(self, path: str, module: nn.Module, value: Value) -> Current:
        if isinstance(value, Current):
            before = f"follows synapse '{value.terms[0].path}' without a ReLU between"
            raise refusal(path, module, f"{before}; merge the two")
        for own, norm in value.norms:
            assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
            module = with_norm_before(own, norm, module, path)
        return Current((Term(path, module, value.wire, value.before),))

    def _norm(self, path: str, module: nn.Module, value: Value) -> Value:
        if isinstance(value, Activation):
            return replace(value, norms=(*value.norms, (path, module)))
        term = value.terms[0]
        if len(value.terms) > 1 or term.norm is not None or moved(value) or value.maps:
            why = "a batch norm must stand right behind its Linear or Conv layer"
            raise refusal(path, module, why)
        return Current((replace(term, norm=module),))  # dropout does nothing in inference

    def _max_pool(self, path: str, module: nn.Module, value: Value) -> Value:
        if getattr(module, "return_indices", False):
            raise refusal(path, module, "returns indices; set return_indices=False")
        if isinstance(value, Current):
            for own, other in moved(value):
                raise refusal(own, other, "move it behind the ReLU")
            return replace(value, maps=(*value.maps, (path, Gate(module))))
        try:
            return value.mapped(Gate(module), "max pooling")
        except ValueError as error:
            why = f"{error}; use average pooling, or put a Linear or Conv layer with ReLU before"
            raise refusal(path, module, why) from error

    def _rectify(self, path: str, module: nn.Module, value: Value) -> Activation:
        ceiling, levels = ceiling_of(path, module), module if isinstance(module, Levels) else None
        if isinstance(value, Activation):
            bounded = ceiling is not None or levels is not None
            if value.is_input or bounded or value.before or value.norms:
                raise refusal(path, module, "a ReLU must follow a Linear or Conv layer")
            return value  # spikes are not negative
        for own, culprit in moved(value):
            raise refusal(own, culprit, "move it behind the ReLU")
        out = Activation(self._layer(value, ceiling))
        if levels is not None:
            try:
                set_levels(self.layers[out.wire.names[0]], levels)
            except ValueError as error:
                raise refusal(path, module, str(error)) from error
        for _, move in value.maps:
            out = out.mapped(move, repr(move))
        return replace(out, before=value.behind)

    def _layer(self, current: Current, ceiling: float | None) -> Output:
        """Neurons for a current."""
        terms = sorted(current.terms, key=lambda term: term.norm is None)  # a norm may learn on
        main = terms[0]
        name = _layer_name(main.path, self.layers)
        shortcuts = self._shortcuts(terms[1:])
        layer = self._made(
            main, SpikingLayer, main.synapse, main.norm, main.map, shortcuts=shortcuts,
            ceiling=ceiling,
        )  # fmt: skip
        if any(INPUT in t.wire.names and len(set(t.wire.names)) > 1 for t in terms):
            why = "receives the network's input, which is analog, together with spikes"
            remedy = "put a Linear or Conv layer with ReLU on the path from the input"
            raise refusal(main.path, main.synapse, f"{why}; {remedy}")
        self.layers[name] = layer
        self.wiring[name] = tuple(term.wire for term in terms)
        return Output(name)

    def _shortcuts(self, terms: Sequence[Term]) -> list[Synaptic]:
        plain = [folded(term) for term in terms]
        return [self._made(term, Synaptic, term.synapse, term.map) for term in plain]

    def _made(self, term: Term, part, *arguments, **options):
        try:
            return part(*arguments, **options)
        except ValueError as error:
            raise refusal(term.path, term.synapse, str(error)) from error


def ceiling_of(path: str, module: nn.Module) -> float | None:
    """Upper bound of a ReLU, None if there is none.

    Raises:
        NotConvertibleError: its lower bound is not zero.
    """
    if not isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return None
    if module.min_val != 0 or module.max_val <= 0:
        why = f"clips to {module.min_val:g}..{module.max_val:g}; clip from 0 to a positive number"
        raise refusal(path, module, why)
    return float(module.max_val)


def moved(current: Current) -> list[tuple[str, nn.Module]]:
    """Maps that stand between a synapse and its ReLU and do not commute with it."""
    maps = (*AVERAGES, nn.Flatten)
    return [(path, module) for path, module in current.behind if isinstance(module, maps)]


def _layer_name(path: str, taken: dict[str, SpikingLayer]) -> str:
    """A name that an `nn.ModuleDict` takes: without dots, and none of its methods'."""
    name = path.replace(".", "/")
    while name in taken or hasattr(nn.ModuleDict, name) or name in (INPUT, READOUT):
        name += "_"
    return name
