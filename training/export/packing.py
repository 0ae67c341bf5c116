"""What the operators of packed graphs mean, and a form of such a graph that runs on CPUs.

ONNX Runtime has kernels for RemovePadding, PackedMultiHeadAttention and RestorePadding on CUDA alone. Here each is a
function in the model (docs/IR.md of ONNX, "Functions"), made of operators that CPUs have too and written from
docs/ContribOperators.md of ONNX Runtime. It is the means of the gate and of tests: slower than a graph that is not
packed, and never served.

Rows are padded on the right. `places` [rows, tokens] holds where the tokens of all rows lie in rows * tokens, one after
another, and then where padding does; `row_starts` [rows + 1] where each row begins among the tokens alone, and at last
how many there are; both int32.
"""

import onnx
from onnx import helper, parser

from training.export.builder import OPSET

DOMAIN = "bertie.packing"
"""Of the functions."""
RUNTIME = "com.microsoft"
"""Of the operators that they stand for."""

# x [rows, tokens, size], lengths int32 [rows] -> packed [all tokens, size], places, row_starts, longest_row int32 [1]
_REMOVE_PADDING = """
RemovePadding (x, lengths) => (packed, places, row_starts, longest_row) {
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    flat = Constant <value_ints = [-1]> ()
    tokens_1d = Shape <start = 1, end = 2> (x)
    tokens = Squeeze (tokens_1d)
    positions = Range (zero, tokens, one)
    lengths_int64 = Cast <to = 7> (lengths)
    limits = Unsqueeze (lengths_int64, second)
    is_token_2d = Less (positions, limits)
    is_token = Reshape (is_token_2d, flat)
    is_padding = Not (is_token)
    of_tokens_2d = NonZero (is_token)
    of_tokens = Squeeze (of_tokens_2d, first)
    of_padding_2d = NonZero (is_padding)
    of_padding = Squeeze (of_padding_2d, first)
    places_int64 = Concat <axis = 0> (of_tokens, of_padding)
    places_1d = Cast <to = 6> (places_int64)
    shape = Shape <start = 0, end = 2> (x)
    places = Reshape (places_1d, shape)
    x_2d = Flatten <axis = 2> (x)
    packed = Gather (x_2d, of_tokens)
    nothing = Constant <value = int32[1] {0}> ()
    row_ends = CumSum (lengths, zero)
    row_starts = Concat <axis = 0> (nothing, row_ends)
    longest_row = ReduceMax (lengths)
}
"""

# packed [all tokens, size], places -> x [rows, tokens, size], zeros at padding
_RESTORE_PADDING = """
RestorePadding (packed, places) => (x) {
    first = Constant <value_ints = [0]> ()
    last = Constant <value_ints = [-1]> ()
    flat = Constant <value_ints = [-1]> ()
    shape = Shape (places)
    area = ReduceProd (shape)
    all_tokens = Shape <end = 1> (packed)
    size = Shape <start = 1> (packed)
    places_1d = Reshape (places, flat)
    of_tokens_int32 = Slice (places_1d, first, all_tokens)
    of_tokens = Cast <to = 7> (of_tokens_int32)
    indices = Unsqueeze (of_tokens, last)
    shape_2d = Concat <axis = 0> (area, size)
    zeros_float = ConstantOfShape (shape_2d)
    zeros = CastLike (zeros_float, packed)
    x_2d = ScatterND (zeros, indices, packed)
    shape_3d = Concat <axis = 0> (shape, size)
    x = Reshape (x_2d, shape_3d)
}
"""

# query, key, value [all tokens, hidden], bias [3 * hidden], places, row_starts -> attended [all tokens, hidden]; in a
# graph that has one, with an attention_bias [1, heads, tokens, tokens] behind them
_ATTENTION = """
PackedMultiHeadAttention <num_heads, scale> (query, key, value, bias, places, row_starts) => (attended) {
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    last = Constant <value_ints = [-1]> ()
    flat = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    starts = Slice (row_starts, first, last)
    ends = Slice (row_starts, second, end)
    lengths = Sub (ends, starts)
    query_3d = bertie.packing.RestorePadding (query, places)
    key_3d = bertie.packing.RestorePadding (key, places)
    value_3d = bertie.packing.RestorePadding (value, places)
    attended_3d = com.microsoft.MultiHeadAttention <num_heads: int = @num_heads, scale: float = @scale> (
        query_3d, key_3d, value_3d, bias, lengths
    )
    attended_2d = Flatten <axis = 2> (attended_3d)
    all_tokens = Shape <end = 1> (query)
    places_1d = Reshape (places, flat)
    of_tokens = Slice (places_1d, first, all_tokens)
    attended = Gather (attended_2d, of_tokens)
}
"""


def for_cpu(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A packed graph as one that CPUs run: the same nodes and weights, its three operators those functions."""
    opsets = f'"" : {OPSET}, "{RUNTIME}" : 1, "{DOMAIN}" : 1'
    attention = _ATTENTION
    if any(node.op_type == "PackedMultiHeadAttention" and len(node.input) > 6 for node in graph.graph.node):
        attention = attention.replace("row_starts) =>", "row_starts, attention_bias) =>")
        attention = attention.replace("bias, lengths\n", "bias, lengths, attention_bias\n")
    functions = [
        parser.parse_function(f'<domain: "{DOMAIN}", opset_import: [{opsets}]> {text}')
        for text in (_REMOVE_PADDING, _RESTORE_PADDING, attention)
    ]
    moved = onnx.ModelProto()
    moved.CopyFrom(graph)
    moved.functions.extend(functions)
    moved.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    names = {function.name for function in functions}
    for node in moved.graph.node:
        if node.domain == RUNTIME and node.op_type in names:
            node.domain = DOMAIN
    return moved
