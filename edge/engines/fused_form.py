"""The canonical graph as ONNX Runtime runs it fastest on x86: each INT8 product and its bias are one node.

ONNX Runtime makes a MatMulIntegerToFloat of a quantised product by itself, on unsigned activations, and leaves the bias an
addition of its own; here the bias is that node's. The same integers are multiplied and the same floats added: over the 64 golden
images of bundle 0.4.0 no output differs by a bit. It saves 3 to 4 % of the time (docs/quantisation.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.engines.onnx_bytes import BYTES, fields, read_varint, write_bytes, write_int

# Field numbers of onnx.proto: in a model, a graph, a node, a tensor.
GRAPH, OPSETS = 7, 8
NODES, TENSORS, RESULTS = 1, 5, 12
INPUTS, OUTPUTS, NAME, OP, DOMAIN = 1, 2, 3, 4, 7
DIMS, TYPE, TENSOR_NAME, RAW = 1, 2, 8, 9
UINT8, INT8 = 2, 3  # TensorProto.DataType
CONTRIB = "com.microsoft"
MIDDLE = "zero_point.uint8"  # 128: where an unsigned grid has its zero


@dataclass(frozen=True)
class _Node:
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    raw: memoryview  # as it stands in the file


@dataclass(frozen=True)
class _Tensor:
    dims: tuple[int, ...]
    type: int
    data: bytes | memoryview
    raw: memoryview


def fuse_products(model: bytes) -> bytes:
    """Canonical graph -> the same for ONNX Runtime on x86. What is not a quantised product with a bias stays as it is. ValueError
    for what is no ONNX model."""
    parts = list(fields(model))
    graph = next((value for number, kind, value, _ in parts if (number, kind) == (GRAPH, BYTES)), None)
    if graph is None:
        raise ValueError("there is no graph in it")
    nodes, tensors, results = _read(graph)
    products = _Products(nodes, tensors, results)
    if not products.biased:
        return model
    new = b"".join(
        [
            *(products.written(node) for node in nodes),
            *(bytes(tensor.raw) for name, tensor in tensors.items() if name not in products.biases),
            *(_tensor(name, (tensors[name].dims[-1],), tensors[name]) for name in sorted(products.biases)),
            _tensor(MIDDLE, (), _Tensor((), UINT8, b"\x80", memoryview(b""))),
            *(bytes(raw) for number, _, _, raw in fields(graph) if number not in (NODES, TENSORS)),
        ]
    )
    opset = write_bytes(OPSETS, write_bytes(1, CONTRIB.encode()) + write_int(2, 1))
    others = [bytes(raw) for number, _, _, raw in parts if number != GRAPH]
    return b"".join([*others, opset, write_bytes(GRAPH, new)])


class _Products:
    """Which nodes of a graph become which: `biased` maps the name of a bias' sum to (product, activation, weight), the last two
    as their DequantizeLinear nodes; `biases` are the constants that lose their leading dimensions."""

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
        self._gone = {node.outputs[0] for node in gone}
        self.biases = {self._bias(self._makers[total]) for total in self.biased}

    def written(self, node: _Node) -> bytes:
        """A node of the new graph, as a field; b"" for one that is in another now."""
        output = node.outputs[0]
        if output in self._gone:
            return b""
        if output in self._unsigned:
            return _node("QuantizeLinear", node.name, [*node.inputs[:2], MIDDLE], output)
        if output in self.biased:
            product, activation, weight = self.biased[output]
            # a, b, their scales, their zero points ("": none), bias
            inputs = [
                activation.inputs[0], weight.inputs[0], activation.inputs[1], weight.inputs[1], MIDDLE, "", self._bias(node)
            ]  # fmt: skip
            return _node("MatMulIntegerToFloat", product.name, inputs, output, CONTRIB)
        return bytes(node.raw)

    def _match(self, product: _Node) -> tuple[_Node, _Node, _Node, _Node] | None:
        """(product, activation, weight, sum with the bias) of a quantised product that is nothing but summed with a bias."""
        activation, weight = (self._makers.get(name) for name in product.inputs)
        users = self._users.get(product.outputs[0], [])
        if activation is None or weight is None or len(users) != 1 or users[0].op != "Add":
            return None
        if not all(side.op == "DequantizeLinear" and self._is_zero(side) for side in (activation, weight)):
            return None
        bias = self._tensors.get(self._bias(users[0], product.outputs[0]))
        if weight.inputs[0] not in self._tensors or bias is None or any(d != 1 for d in bias.dims[:-1]):
            return None
        return product, activation, weight, users[0]

    def _bias(self, total: _Node, product: str = "") -> str:
        """The input of a sum that is the bias: the constant, or what is not the product."""
        return next(name for name in total.inputs if (name != product if product else name in self._tensors))

    def _is_zero(self, quantiser: _Node) -> bool:
        """Whether a quantiser has a zero-point of int8 zeros."""
        zero = self._tensors.get(quantiser.inputs[2]) if len(quantiser.inputs) == 3 else None
        return zero is not None and zero.type == INT8 and not any(zero.data)

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
            for field, _, text, _ in fields(value):
                if field in texts:
                    texts[field].append(bytes(text).decode())
            name, op = (("".join(texts[field])) for field in (NAME, OP))
            nodes.append(_Node(name, op, tuple(texts[INPUTS]), tuple(texts[OUTPUTS]), raw))
        elif (number, kind) == (TENSORS, BYTES):
            name, tensor = _read_tensor(value, raw)
            tensors[name] = tensor
        elif (number, kind) == (RESULTS, BYTES):
            results += [bytes(text).decode() for field, _, text, _ in fields(value) if field == 1]
    return nodes, tensors, _Node("", "", tuple(results), ("",), memoryview(b""))


def _read_tensor(message: memoryview, raw: memoryview) -> tuple[str, _Tensor]:
    dims: list[int] = []
    kind, name, data = 0, "", memoryview(b"")
    for number, wire, value, _ in fields(message):
        if number == DIMS:
            if wire == BYTES:  # packed
                at = 0
                while at < len(value):
                    dim, at = read_varint(value, at)
                    dims.append(dim)
            else:
                dims.append(read_varint(value)[0])
        elif number == TYPE:
            kind = read_varint(value)[0]
        elif number == TENSOR_NAME:
            name = bytes(value).decode()
        elif number == RAW:
            data = value
    return name, _Tensor(tuple(dims), kind, data, raw)


def _node(op: str, name: str, inputs: list[str], output: str, domain: str = "") -> bytes:
    message = b"".join(write_bytes(INPUTS, text.encode()) for text in inputs)
    for number, text in ((OUTPUTS, output), (NAME, name), (OP, op), (DOMAIN, domain)):
        message += write_bytes(number, text.encode()) if text else b""
    return write_bytes(NODES, message)


def _tensor(name: str, dims: tuple[int, ...], like: _Tensor) -> bytes:
    message = b"".join(write_int(DIMS, dim) for dim in dims)
    message += write_int(TYPE, like.type) + write_bytes(TENSOR_NAME, name.encode()) + write_bytes(RAW, like.data)
    return write_bytes(TENSORS, message)
