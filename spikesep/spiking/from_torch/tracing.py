"""From a torch module to convertible layers, by tracing what its `forward` calls.

Torch's symbolic tracing records the calls of modules, functions and methods. They are walked in
order; each turns activations into currents or currents into activations (see `building`). What
follows the last synapse is the network's tail, which stays as it is.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from spikesep.spiking.folding import NORMS
from spikesep.spiking.from_torch import moves
from spikesep.spiking.from_torch.building import MUST_END, Builder, Value, moved
from spikesep.spiking.from_torch.equivalence import first_line, inference, misfit, require_same
from spikesep.spiking.from_torch.functions import ADDITIONS, CONCATENATIONS, module_of
from spikesep.spiking.from_torch.modules import (
    ADAPTIVE,
    KINDS,
    LEAVES,
    refusal,
    remedy_of,
    remedy_of_function,
    require_known,
    require_no_hooks,
)
from spikesep.spiking.from_torch.moves import Move, fixed_window
from spikesep.spiking.from_torch.values import Activation, Current
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.synapses.kinds import NO_OPS, SYNAPSES
from spikesep.spiking.wiring.maps import Rearrangement

UNTRACEABLE = (
    TraceError,
    *(TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError),
)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def from_module(network: nn.Module, example: Tensor | None = None) -> SpikingNetwork:
    """Make a spiking network, still analog, of a torch module.

    Its last Linear or Conv layer becomes the readout; what follows stays analog. Weights are taken
    as they are, not copied. Copies are made of weights that are computed (weight norm, pruning
    masks), at their present value, and of those that take up a norm before them or on a shortcut.
    Both networks are run once to check that they compute the same.

    Args:
        network: takes one tensor and returns one. It may hold Linear, convolutions and transposed
            convolutions of one or two dimensions, batch norm, ReLU and clipped ReLU, pooling,
            additions, concatenations, reshapes, and modules that do nothing in inference; modules
            or functions, in a Sequential or a `forward` of its own.
        example: an input for that run, [batch, ...]; None makes one up that fits the layers, for
            layers in a row.

    Raises:
        NotConvertibleError: a module or function has no spiking counterpart; the message names it
            by its path.
    """
    graph = _trace(network)
    if example is not None:
        _record_shapes(network, graph, example.detach())
    walk = _Walk(network, graph)
    spiking = walk.run()
    spiking.require_float32()
    spiking.train(network.training)
    require_same(network, spiking, example)
    return spiking


class _Tracer(fx.Tracer):
    """Records calls of torch's own modules, and traces through all others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, LEAVES):
            return True
        return type(m).__module__.startswith("torch.nn") and not isinstance(m, CONTAINERS)


def _trace(network: nn.Module) -> fx.Graph:
    is_network = isinstance(network, nn.Module)
    own = type(network).__module__.startswith("torch.") and not isinstance(network, nn.Sequential)
    if not is_network or own:
        if is_network and isinstance(network, KINDS):
            raise refusal("", network, f"is a single layer; {MUST_END}, after layers with ReLU")
        raise refusal("", network, remedy_of(network))
    require_no_hooks(network)
    try:
        return _Tracer().trace(network)
    except UNTRACEABLE as error:
        why = f"its forward() cannot be traced ({first_line(error)})"
        remedy = "leave out what depends on the values of the input, or convert a part of it"
        raise refusal("", network, f"{why}; {remedy}") from error


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of each result."""

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if isinstance(out, Tensor):
            n.meta["shape"] = tuple(out.shape)
        return out


def _record_shapes(network: nn.Module, graph: fx.Graph, example: Tensor) -> None:
    weight = next(network.parameters(), example)
    x = example.to(device=weight.device, dtype=weight.dtype)
    with inference(network):
        try:
            _Shapes(fx.GraphModule(network, graph)).run(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            _Walk(network, graph).run()  # a part that cannot be converted is named first
            raise misfit(example, error) from error


class _Number:
    """A size or another number that depends on the input."""


class _Walk:
    """One pass over a traced graph."""

    def __init__(self, network: nn.Module, graph: fx.Graph):
        self.network = network
        self.graph = graph
        self.builder = Builder()
        self.found: dict[fx.Node, Any] = {}

    def run(self) -> SpikingNetwork:
        """The network that the graph describes."""
        behind = self._behind_all_synapses()
        for node in self.graph.nodes:
            if node.op == "output":
                continue
            if node in behind and not self._continues(node):
                continue
            self.found[node] = self._value(node)
        return self._finish(behind)

    def _behind_all_synapses(self) -> set[fx.Node]:
        """Nodes behind which there is no synapse, and that are none."""
        behind: set[fx.Node] = set()
        for node in reversed(list(self.graph.nodes)):
            is_synapse = node.op == "call_module" and isinstance(self._module(node), SYNAPSES)
            if not is_synapse and all(user in behind for user in node.users):
                behind.add(node)
        return behind

    def _continues(self, node: fx.Node) -> bool:
        """Whether a node behind all synapses still belongs to the readout."""
        if node.op in ("placeholder", "get_attr"):
            return True
        values = [self.found.get(n) for n in node.all_input_nodes]
        if None in values or not any(isinstance(v, Current) for v in values):
            return False
        if any(isinstance(v, Current) and _is_moved(v) for v in values):
            return False
        if node.op == "call_module":
            return isinstance(self._module(node), (*NO_OPS, *NORMS))
        return _name(node) in ADDITIONS and len(values) > 1

    def _finish(self, behind: set[fx.Node]) -> SpikingNetwork:
        (out,) = [node for node in self.graph.nodes if node.op == "output"]
        (returned,) = out.args
        if not isinstance(returned, fx.Node):
            raise NotConvertibleError(
                f"{type(self.network).__name__}: returns {type(returned).__name__} instead of one "
                "tensor; convert a part that returns one"
            )
        needed = _needed(returned)
        rest = [n for n in self.graph.nodes if n in needed and n in behind - self.found.keys()]
        entries = {n for node in rest for n in node.all_input_nodes if n in self.found}
        entries = entries or {returned}
        values = [self.found[node] for node in entries]
        currents = [value for value in values if isinstance(value, Current)]
        if len(currents) != len(values) or len(currents) != 1:
            for node in rest:  # what cannot be converted is named first
                self._value(node)
            raise NotConvertibleError(
                f"{MUST_END}; found {len(currents)} such ends among {len(values)} values behind "
                "the last layers"
            )
        (entry,) = entries
        tail = self._tail(rest, entry, returned) if rest else None
        return self.builder.finish(currents[0], tail)

    def _tail(self, rest: list[fx.Node], entry: fx.Node, returned: fx.Node) -> nn.Module:
        """Return the operations behind the potential as a module."""
        graph, copies = fx.Graph(), {}
        copies[entry] = graph.placeholder("potential")
        for node in rest:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(copies[returned])
        return fx.GraphModule(self.network, graph, "Tail")

    def _value(self, node: fx.Node) -> Any:
        """Evaluate a node to a value, or to a number that depends on the input."""
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            return _Number()
        given = [self.found.get(n) for n in node.all_input_nodes]
        if node.op == "call_module":
            return self._called(node, str(node.target), self._module(node), given[0])
        if not any(isinstance(v, (Activation, Current, _Parts)) for v in given):
            return _Number()
        return self._function(node)

    def _input(self, node: fx.Node) -> Any:
        if any(isinstance(v, Activation) for v in self.found.values()):
            if node.args:
                return _Number()
            raise NotConvertibleError(
                f"{type(self.network).__name__}: takes several inputs; convert a part with one"
            )
        return self.builder.input()

    def _called(self, node: fx.Node, path: str, module: nn.Module, value: Any) -> Value:
        if not isinstance(value, (Activation, Current)):
            raise refusal(path, module, "receives something other than one activation")
        if isinstance(module, ADAPTIVE):
            require_known(path, module)
            shape = node.all_input_nodes[0].meta.get("shape")
            module = fixed_window(path, module, shape)
        return self.builder.module(path, module, value)

    def _function(self, node: fx.Node) -> Any:
        name, path = _name(node), self._caller(node)
        first, *others = node.args if node.args else (node.kwargs.get("input"),)
        options = {key: value for key, value in node.kwargs.items() if key != "input"}
        if name in ("shape", "size", "dim", "len", "numel", "device", "dtype", "getattr"):
            return _Number()
        if name in ("chunk", "split") and isinstance(first, fx.Node):
            return self._parts(node, self.found[first], others, options)
        if isinstance(first, fx.Node) and isinstance(self.found[first], _Parts):
            return self._part(node, self.found[first], others)
        if name in ADDITIONS:
            return self.builder.add(path, self._values(node, _flat(node.args)))
        if name in CONCATENATIONS and isinstance(first, (tuple, list)):
            dim = others[0] if others else options.get("dim", options.get("axis", 0))
            if not isinstance(dim, int) or dim == 0:
                raise self._refusal(node)
            return self.builder.concatenate(path, self._values(node, first), dim)
        if name == "mean":
            return self._mean(node, others, options)
        given = [self.found[a] if isinstance(a, fx.Node) else a for a in others]
        given = [_resolved(a, self.found) for a in given]
        options = {k: _resolved(v, self.found) for k, v in options.items()}
        module = module_of(name, given, options)
        if module is None or not isinstance(first, fx.Node):
            raise self._refusal(node)
        return self._called(node, path, module, self.found[first])

    def _mean(self, node: fx.Node, others: list, options: dict) -> Value:
        """The mean over all positions: average pooling of the whole, flattened."""
        first, shape = node.all_input_nodes[0], node.all_input_nodes[0].meta.get("shape")
        dims = others[0] if others else options.get("dim")
        keeps = others[1] if len(others) > 1 else options.get("keepdim", False)
        dims = [dims] if isinstance(dims, int) else dims
        if shape is None or dims is None or len(shape) not in (3, 4):
            raise self._refusal(node)
        if sorted(d % len(shape) for d in dims) != list(range(2, len(shape))):
            raise self._refusal(node)
        pool = (nn.AvgPool1d if len(shape) == 3 else nn.AvgPool2d)(shape[2:])
        value = self.builder.module(self._caller(node), pool, self.found[first])
        return value if keeps else self.builder.module(self._caller(node), nn.Flatten(), value)

    def _parts(self, node: fx.Node, value: Any, others: list, options: dict) -> "_Parts":
        size = others[0] if others else options.get("chunks")
        dim = others[1] if len(others) > 1 else options.get("dim", 0)
        if _name(node) != "chunk" or not isinstance(size, int) or not dim:
            raise self._refusal(node)
        return _Parts(value, size, dim)

    def _part(self, node: fx.Node, parts: "_Parts", others: list) -> Value:
        if _name(node) != "getitem" or not isinstance(others[0], int):
            raise self._refusal(node)
        options = {"number": others[0], "chunks": parts.chunks, "dim": parts.dim}
        module = Move(Rearrangement(moves.chunk, f"chunk {others[0]}", **options))
        return self.builder.move(self._caller(node), module, parts.value)

    def _values(self, node: fx.Node, arguments: Any) -> list[Value]:
        values = [self.found[a] if isinstance(a, fx.Node) else a for a in arguments]
        if not all(isinstance(value, (Activation, Current)) for value in values):
            raise self._refusal(node)
        return values

    def _module(self, node: fx.Node) -> nn.Module:
        return self.network.get_submodule(str(node.target))

    def _caller(self, node: fx.Node) -> str:
        """The path of the module whose `forward` calls a function, and the function's name."""
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return ".".join([*(stack[-1:] if stack and stack[-1] else []), _name(node)])

    def _refusal(self, node: fx.Node) -> NotConvertibleError:
        name, path = _name(node), self._caller(node).rpartition(".")[0]
        module = self.network.get_submodule(path) if path else self.network
        return refusal(path, module, f"its forward() calls {name}: {remedy_of_function(name)}")


class _Parts:
    """The parts of a value, of which one is taken."""

    def __init__(self, value: Value, chunks: int, dim: int):
        self.value, self.chunks, self.dim = value, chunks, dim


def _is_moved(current: Current) -> bool:
    return bool(current.maps or moved(current))


def _name(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without marks of in-place ones."""
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name.removesuffix("_")


def _flat(arguments: Any) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, (tuple, list)):
            yield from _flat(argument)
        elif not isinstance(argument, int) or argument:  # sum() begins with zero
            yield argument


def _resolved(argument: Any, found: dict[fx.Node, Any]) -> Any:
    """An argument with the numbers that nodes stand for."""
    if isinstance(argument, (tuple, list)):
        return type(argument)(_resolved(a, found) for a in argument)
    return found.get(argument, argument) if isinstance(argument, fx.Node) else argument


def _needed(node: fx.Node) -> set[fx.Node]:
    """All nodes that a node depends on, and itself."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += each.all_input_nodes
    return seen
