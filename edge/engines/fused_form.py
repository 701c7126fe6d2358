"""The canonical graph as ONNX Runtime runs it fastest on x86: each INT8 product and its bias are one node, and so is attention
with the product that makes its queries, keys and values.

ONNX Runtime makes a MatMulIntegerToFloat of a quantised product by itself, on unsigned activations, and leaves the bias an
addition of its own; here the bias is that node's. Attention becomes a QAttention: its product writes each head where the scores'
product reads it, so that nothing is split or transposed. The same integers are multiplied and the same floats added: over the 64
golden images of bundle 0.4.0 no output differs by a bit. What each saves is in docs/notebook/quantisation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.onnx_bytes import (
    ATTRIBUTE_NAME,
    ATTRIBUTES,
    BYTES,
    DIMS,
    FLOAT32,
    GRAPH,
    INPUTS,
    INT,
    INT8,
    INT64,
    INTS,
    NAME,
    NODES,
    OP,
    OPSETS,
    OUTPUTS,
    RAW,
    RESULTS,
    TENSOR_NAME,
    TENSORS,
    TYPE,
    UINT8,
    fields,
    read_varint,
    write_bytes,
    write_float_attribute,
    write_int,
    write_int_attribute,
    write_node,
    write_tensor,
)

CONTRIB = "com.microsoft"
MIDDLE = "zero_point.uint8"  # 128: where an unsigned grid has its zero

# What attention is made of: operators and their integer attributes.
Step = tuple[str, dict[str, tuple[int, ...]]]
SPLIT: Step = ("Split", {"axis": (-1,)})
RESHAPE: Step = ("Reshape", {})
SWAP: Step = ("Transpose", {"perm": (0, 2, 1, 3)})  # [N,T,heads,D] <-> [N,heads,T,D]
COLUMNS: Step = ("Transpose", {"perm": (0, 2, 3, 1)})  # -> [N,heads,D,T]
MATMUL: Step = ("MatMul", {})
SOFTMAX: Step = ("Softmax", {"axis": (-1,)})


@dataclass(frozen=True)
class _Node:
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: dict[str, tuple[int, ...]]  # its integer attributes, one or several
    raw: memoryview  # as it stands in the file


@dataclass(frozen=True)
class _Tensor:
    dims: tuple[int, ...]
    type: int
    data: bytes | memoryview
    raw: memoryview


def fuse(model: bytes) -> bytes:
    """Canonical graph -> the same for ONNX Runtime on x86. What is no quantised product with a bias, nor attention of one, stays
    as it is. ValueError for what is no ONNX model."""
    parts = list(fields(model))
    graph = next((value for number, kind, value, _ in parts if (number, kind) == (GRAPH, BYTES)), None)
    if graph is None:
        raise ValueError("there is no graph in it")
    nodes, tensors, results = _read(graph)
    fusion = _Fusion(nodes, tensors, results)
    if not fusion.biased:
        return model
    new = b"".join(
        [
            *(fusion.written(node) for node in nodes),
            *(bytes(tensor.raw) for name, tensor in tensors.items() if name not in fusion.biases),
            *(_flat(name, tensors[name]) for name in sorted(fusion.biases)),
            write_tensor(MIDDLE, (), UINT8, b"\x80"),
            *(bytes(raw) for number, _, _, raw in fields(graph) if number not in (NODES, TENSORS)),
        ]
    )
    opset = write_bytes(OPSETS, write_bytes(1, CONTRIB.encode()) + write_int(2, 1))
    others = [bytes(raw) for number, _, _, raw in parts if number != GRAPH]
    return b"".join([*others, opset, write_bytes(GRAPH, new)])


def _flat(name: str, tensor: _Tensor) -> bytes:
    """The tensor without its leading dimensions, which are 1."""
    return write_tensor(name, (tensor.dims[-1],), tensor.type, tensor.data)


class _Fusion:
    """Which nodes of a graph become which: `biased` maps the name of a bias' sum to (product, activation, weight), the last two
    as their DequantizeLinear nodes; `attended` maps the name of what attention returns to (the sum that it is made from, heads);
    `biases` are the constants that lose their leading dimensions."""

    def __init__(self, nodes: list[_Node], tensors: dict[str, _Tensor], results: _Node) -> None:
        self._makers = {output: node for node in nodes for output in node.outputs}
        self._users: dict[str, list[_Node]] = {}
        for node in (*nodes, results):
            for name in node.inputs:
                self._users.setdefault(name, []).append(node)
        self._tensors = tensors
        found = {node.outputs[0]: match for node in nodes if node.op == "MatMul" and (match := self._match(node))}
        # A quantiser becomes unsigned for all its users or for none.
        self._unsigned = {
            quantiser.outputs[0]
            for quantiser in nodes
            if quantiser.op == "QuantizeLinear" and self._is_zero(quantiser) and self._feeds_only(quantiser, found)
        }
        self.biased = {
            total.outputs[0]: (product, activation, weight)
            for product, activation, weight, total in found.values()
            if activation.inputs[0] in self._unsigned
        }
        gone = [node for product, *sides in self.biased.values() for node in (product, *sides)]
        self.attended: dict[str, tuple[_Node, int]] = {}
        for total in (self._makers[name] for name in self.biased):
            if (inner := self._attention(total)) is not None:
                *others, join = inner
                self.attended[join.outputs[0]] = total, self._ints(others[1].inputs[1])[2]
                gone += [total, *others]
        self._gone = {node.outputs[0] for node in gone}
        self.biases = {self._bias(self._makers[total]) for total in self.biased}

    def written(self, node: _Node) -> bytes:
        """A node of the new graph, as a field; b"" for one that is in another now."""
        output = node.outputs[0]
        if output in self._gone:
            return b""
        if output in self._unsigned:
            return write_node("QuantizeLinear", node.name, [*node.inputs[:2], MIDDLE], output)
        if output in self.attended:
            total, heads = self.attended[output]
            product, (a, a_scale), (b, b_scale) = self._operands(total)
            # "": no mask. The scale is in the weights already.
            inputs = [a, b, self._bias(total), a_scale, b_scale, "", MIDDLE]
            attributes = write_int_attribute("num_heads", heads) + write_float_attribute("scale", 1.0)
            return write_node("QAttention", f"{product.name}.attention", inputs, output, CONTRIB, attributes)
        if output in self.biased:
            product, (a, a_scale), (b, b_scale) = self._operands(node)
            # "": b has no zero point
            inputs = [a, b, a_scale, b_scale, MIDDLE, "", self._bias(node)]
            return write_node("MatMulIntegerToFloat", product.name, inputs, output, CONTRIB)
        return bytes(node.raw)

    def _operands(self, total: _Node) -> tuple[_Node, tuple[str, str], tuple[str, str]]:
        """(product, its activation and that one's scale, its weight and that one's scale) of a sum in `biased`."""
        product, activation, weight = self.biased[total.outputs[0]]
        return product, (activation.inputs[0], activation.inputs[1]), (weight.inputs[0], weight.inputs[1])

    def _match(self, product: _Node) -> tuple[_Node, _Node, _Node, _Node] | None:
        """(product, activation, weight, sum with the bias) of a quantised product that is nothing but summed with a bias."""
        activation, weight = (self._makers.get(name) for name in product.inputs)
        users = self._users.get(product.outputs[0], [])
        if activation is None or weight is None or len(users) != 1 or users[0].op != "Add":
            return None
        if not all(side.op == "DequantizeLinear" and self._is_zero(side) for side in (activation, weight)):
            return None
        bias = self._tensors.get(self._bias(users[0], product.outputs[0]))
        stored = self._tensors.get(weight.inputs[0])
        if stored is None or len(stored.dims) != 2 or weight.ints.get("axis", (1,)) not in ((1,), (-1,)):
            return None  # a scale belongs to a column there
        if bias is None or bias.type != FLOAT32 or not bias.data or bias.dims != (1,) * (len(bias.dims) - 1) + stored.dims[1:]:
            return None
        return product, activation, weight, users[0]

    def _attention(self, total: _Node) -> list[_Node] | None:
        """The nodes that make attention [N,T,W] of queries, keys and values [N,T,3W], first to last; None where anything else is
        made of them, or something else reads what lies between."""
        split = self._chain(total.outputs[0], SPLIT)
        if not split or len(split[0].outputs) != 3:
            return None
        q, k, v = split[0].outputs
        query = self._chain(q, RESHAPE, SWAP, MATMUL, SOFTMAX, MATMUL, SWAP, RESHAPE)
        key, value = self._chain(k, RESHAPE, COLUMNS, MATMUL), self._chain(v, RESHAPE, SWAP, MATMUL)
        if not (query and key and value):
            return None
        _, q_heads, scores, softmax, mix, _, join = query
        if scores.inputs != (q_heads.outputs[0], key[1].outputs[0]):
            return None
        if mix.inputs != (softmax.outputs[0], value[1].outputs[0]):
            return None
        *_, heads, size = shape = self._ints(query[0].inputs[1]) or (0, 0)
        width = heads * size
        shapes = [self._ints(node.inputs[1]) for node in (split[0], query[0], key[0], value[0], join)]
        if width < 1 or len(shape) != 4 or shapes != [(width,) * 3, *[(0, -1, heads, size)] * 3, (0, -1, width)]:
            return None
        return [split[0], *query[:2], *key[:2], *value[:2], *query[2:]]

    def _chain(self, name: str, *steps: Step) -> list[_Node]:
        """The nodes that read `name` one after another, each the only reader of the one before; empty if they are not these."""
        found: list[_Node] = []
        for op, ints in steps:
            users = self._users.get(name, [])
            if len(users) != 1 or (users[0].op, users[0].ints) != (op, ints):
                return []
            found.append(users[0])
            name = users[0].outputs[0]
        return found

    def _ints(self, name: str) -> tuple[int, ...]:
        """A constant of int64; empty for anything else."""
        tensor = self._tensors.get(name)
        return tuple(np.frombuffer(tensor.data, "<i8").tolist()) if tensor is not None and tensor.type == INT64 else ()

    def _bias(self, total: _Node, product: str = "") -> str:
        """The input of a sum that is the bias: the constant, or what is not the product."""
        return next(name for name in total.inputs if (name != product if product else name in self._tensors))

    def _is_zero(self, quantiser: _Node) -> bool:
        """Whether a quantiser has a zero-point of int8 zeros."""
        zero = self._tensors.get(quantiser.inputs[2]) if len(quantiser.inputs) == 3 else None
        # without raw bytes its numbers stand in a field that is not read here
        return zero is not None and zero.type == INT8 and len(zero.data) > 0 and not any(zero.data)

    def _feeds_only(self, quantiser: _Node, found: dict[str, tuple[_Node, _Node, _Node, _Node]]) -> bool:
        dequantisers = self._users.get(quantiser.outputs[0], [])
        users = [(side, self._users.get(side.outputs[0], [])) for side in dequantisers]
        return all(own and all(found.get(u.outputs[0], (None, None))[1] is side for u in own) for side, own in users)


def _read(graph: memoryview) -> tuple[list[_Node], dict[str, _Tensor], _Node]:
    """-> (nodes, constants by name, a node that takes the graph's outputs)."""
    nodes, tensors, results = [], {}, []
    for number, kind, value, raw in fields(graph):
        if (number, kind) == (NODES, BYTES):
            texts: dict[int, list[str]] = {INPUTS: [], OUTPUTS: [], NAME: [], OP: []}
            ints: dict[str, tuple[int, ...]] = {}
            for field, _, text, _ in fields(value):
                if field in texts:
                    texts[field].append(bytes(text).decode())
                elif field == ATTRIBUTES:
                    ints |= _read_ints(text)
            name, op = (("".join(texts[field])) for field in (NAME, OP))
            nodes.append(_Node(name, op, tuple(texts[INPUTS]), tuple(texts[OUTPUTS]), ints, raw))
        elif (number, kind) == (TENSORS, BYTES):
            name, tensor = _read_tensor(value, raw)
            tensors[name] = tensor
        elif (number, kind) == (RESULTS, BYTES):
            results += [bytes(text).decode() for field, _, text, _ in fields(value) if field == 1]
    return nodes, tensors, _Node("", "", tuple(results), ("",), {}, memoryview(b""))


def _read_ints(message: memoryview) -> dict[str, tuple[int, ...]]:
    """{name: values} of an attribute; empty unless it holds integers."""
    name, values = "", []
    for number, _, value, _ in fields(message):
        if number == ATTRIBUTE_NAME:
            name = bytes(value).decode()
        elif number in (INT, INTS):
            values += _numbers(value)
    return {name: tuple(values)} if values else {}


def _numbers(value: memoryview) -> list[int]:
    """The integers of a field's value: one, or several packed."""
    found, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        found.append(number - (1 << 64) if number >> 63 else number)  # a negative one's complement
    return found


def _read_tensor(message: memoryview, raw: memoryview) -> tuple[str, _Tensor]:
    dims: list[int] = []
    kind, name, data = 0, "", memoryview(b"")
    for number, _, value, _ in fields(message):
        if number == DIMS:
            dims += _numbers(value)
        elif number == TYPE:
            kind = read_varint(value)[0]
        elif number == TENSOR_NAME:
            name = bytes(value).decode()
        elif number == RAW:
            data = value
    return name, _Tensor(tuple(dims), kind, data, raw)
