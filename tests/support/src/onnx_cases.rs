//! Named ONNX models that test cases refer to: `; build NAME`.

use crate::onnx::{OnnxBuilder, attr, external, raw, tensor_f32, tensor_i64};
use lockstep_onnx_protobuf::DataType;

/// A builder of a model and its name.
pub type Case = (&'static str, fn() -> OnnxBuilder);

/// Every named model.
pub const CASES: &[Case] = &[
    ("conv_classifier", conv_classifier),
    ("conv_pad_same", conv_pad_same),
    ("dynamic_reshape", dynamic_reshape),
    ("external_weight", external_weight),
    ("function_call", function_call),
    ("if_const", if_const),
    ("loop_unrolled", loop_unrolled),
    ("lstm_state", lstm_state),
    ("mlp", mlp),
    ("quantized_linear", quantized_linear),
    ("shape_arithmetic", shape_arithmetic),
    ("symbolic_dims", symbolic_dims),
    ("unsupported_ops", unsupported_ops),
];

/// The bytes of a named model.
pub fn build(name: &str) -> Option<Vec<u8>> {
    CASES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, build)| build().build())
}

/// Two layers with relu and softmax.
fn mlp() -> OnnxBuilder {
    OnnxBuilder::new("mlp")
        .input_f32("x", &["1", "8"])
        .init_ramp("fc1.w", &[8, 16])
        .init_ramp("fc1.b", &[16])
        .init_ramp("fc2.w", &[4, 16])
        .init_ramp("fc2.b", &[4])
        .node("MatMul", &["x", "fc1.w"], &["h"])
        .node("Add", &["h", "fc1.b"], &["hb"])
        .node("Relu", &["hb"], &["a"])
        .node_with("Gemm", &["a", "fc2.w", "fc2.b"], &["z"], vec![attr::int("transB", 1)])
        .node("Softmax", &["z"], &["y"])
        .output("y")
}

/// Convolution, batch norm, depthwise convolution with hard swish, pools, classifier.
fn conv_classifier() -> OnnxBuilder {
    OnnxBuilder::new("conv_classifier")
        .input_f32("x", &["1", "3", "12", "12"])
        .init_ramp("stem.w", &[8, 3, 3, 3])
        .init_ramp("bn.scale", &[8])
        .init_ramp("bn.bias", &[8])
        .init_ramp("bn.mean", &[8])
        .init_f32("bn.var", &[8], &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
        .init_ramp("dw.w", &[8, 1, 3, 3])
        .init_ramp("dw.b", &[8])
        .init_ramp("fc.w", &[8, 4])
        .node_with(
            "Conv",
            &["x", "stem.w"],
            &["c1"],
            vec![attr::ints("strides", &[2, 2]), attr::ints("pads", &[1, 1, 1, 1])],
        )
        .node(
            "BatchNormalization",
            &["c1", "bn.scale", "bn.bias", "bn.mean", "bn.var"],
            &["b1"],
        )
        .node("HardSwish", &["b1"], &["s1"])
        .node_with(
            "Conv",
            &["s1", "dw.w", "dw.b"],
            &["c2"],
            vec![attr::int("group", 8), attr::ints("pads", &[1, 1, 1, 1])],
        )
        .node_with(
            "MaxPool",
            &["c2"],
            &["p"],
            vec![
                attr::ints("kernel_shape", &[3, 3]),
                attr::ints("strides", &[2, 2]),
                attr::int("ceil_mode", 1),
            ],
        )
        .node("GlobalAveragePool", &["p"], &["g"])
        .node("Flatten", &["g"], &["f"])
        .node("MatMul", &["f", "fc.w"], &["y"])
        .output("y")
}

/// `auto_pad` with an uneven total.
fn conv_pad_same() -> OnnxBuilder {
    let same = |mode: &str| vec![attr::string("auto_pad", mode), attr::ints("strides", &[2])];
    OnnxBuilder::new("conv_pad_same")
        .input_f32("x", &["1", "2", "7"])
        .init_ramp("w", &[2, 2, 4])
        .node_with("Conv", &["x", "w"], &["upper"], same("SAME_UPPER"))
        .node_with("Conv", &["x", "w"], &["lower"], same("SAME_LOWER"))
        .output("upper")
        .output("lower")
}

/// A bidirectional LSTM with defaults, whose last state is an output.
fn lstm_state() -> OnnxBuilder {
    OnnxBuilder::new("lstm_state")
        .input_f32("x", &["5", "1", "4"])
        .input_f32("h", &["2", "1", "3"])
        .init_ramp("w", &[2, 12, 4])
        .init_ramp("r", &[2, 12, 3])
        .node_with(
            "LSTM",
            &["x", "w", "r", "", "", "h"],
            &["y", "hn"],
            vec![attr::int("hidden_size", 3), attr::string("direction", "bidirectional")],
        )
        .output("y")
        .output("hn")
}

/// An `If` on a rate that must be fixed at import; the branch uses a value from outside.
fn if_const() -> OnnxBuilder {
    let branch = |name: &str, factor: f32| {
        OnnxBuilder::new(name)
            .init_f32("factor", &[], &[factor])
            .node("Mul", &["x", "factor"], &["scaled"])
            .output("scaled")
            .graph()
    };
    OnnxBuilder::new("if_const")
        .input_f32("x", &["4"])
        .input_i64("sr", &[])
        .init_i64("rate", &[], &[16000])
        .node("Equal", &["sr", "rate"], &["wide"])
        .node_with(
            "If",
            &["wide"],
            &["y"],
            vec![
                attr::graph("then_branch", branch("then", 2.0)),
                attr::graph("else_branch", branch("else", 0.5)),
            ],
        )
        .output("y")
}

/// Three iterations that add the counter and collect the sums.
fn loop_unrolled() -> OnnxBuilder {
    let body = OnnxBuilder::new("body")
        .input_i64("i", &[])
        .input("go", DataType::Bool, &[])
        .input_f32("sum", &["2"])
        .node_with("Cast", &["i"], &["step"], vec![attr::int("to", 1)])
        .node("Add", &["sum", "step"], &["next"])
        .node("Identity", &["go"], &["still"])
        .node("Identity", &["next"], &["seen"])
        .output("still")
        .output("next")
        .output("seen")
        .graph();
    OnnxBuilder::new("loop_unrolled")
        .input_f32("x", &["2"])
        .init_i64("trips", &[], &[3])
        .node_with(
            "Loop",
            &["trips", "", "x"],
            &["last", "all"],
            vec![attr::graph("body", body)],
        )
        .output("last")
        .output("all")
}

/// A local function with an attribute, called twice.
fn function_call() -> OnnxBuilder {
    let body = OnnxBuilder::new("leaky")
        .opset(16)
        .input_f32("t", &[])
        .node_with(
            "LeakyRelu",
            &["t"],
            &["u"],
            vec![attr::reference("alpha", "slope", attr::float("", 0.0))],
        )
        .output("u");
    OnnxBuilder::new("function_call")
        .input_f32("x", &["3"])
        .function("example", "Leaky", &["slope"], body)
        .node_of("example", "Leaky", &["x"], &["a"], vec![attr::float("slope", 0.5)])
        .node_of("example", "Leaky", &["a"], &["b"], vec![attr::float("slope", 0.25)])
        .output("b")
}

/// The head split of an attention layer: Shape, Gather, Concat, Reshape; all of it goes at import.
fn shape_arithmetic() -> OnnxBuilder {
    OnnxBuilder::new("shape_arithmetic")
        .input_f32("x", &["batch", "sequence", "8"])
        .init_i64("zero", &[], &[0])
        .init_i64("one", &[], &[1])
        .init_i64("axis0", &[1], &[0])
        .init_i64("tail", &[2], &[2, 4])
        .init_i64("half", &[], &[2])
        .node("Shape", &["x"], &["shape"])
        .node("Gather", &["shape", "zero"], &["b"])
        .node("Gather", &["shape", "one"], &["s"])
        .node("Unsqueeze", &["b", "axis0"], &["b1"])
        .node("Unsqueeze", &["s", "axis0"], &["s1"])
        .node_with("Concat", &["b1", "s1", "tail"], &["split"], vec![attr::int("axis", 0)])
        .node("Reshape", &["x", "split"], &["heads"])
        .node_with(
            "Transpose",
            &["heads"],
            &["turned"],
            vec![attr::ints("perm", &[0, 2, 1, 3])],
        )
        .node("Div", &["s", "half"], &["middle"])
        .node("Unsqueeze", &["middle", "axis0"], &["end"])
        .node("Slice", &["turned", "axis0", "end", "tail_axis"], &["y"])
        .init_i64("tail_axis", &[1], &[-2])
        .output("y")
}

/// Symbols in two inputs, and a dimension without a name in a third.
fn symbolic_dims() -> OnnxBuilder {
    OnnxBuilder::new("symbolic_dims")
        .input_f32("a", &["batch", "width"])
        .input_f32("b", &["batch", "1"])
        .input_f32("c", &["?", "3"])
        .node("Mul", &["a", "b"], &["y"])
        .node("Relu", &["c"], &["z"])
        .output("y")
        .output("z")
}

/// Operators that cannot be imported, one of them twice, one in a branch, and one behind another.
fn unsupported_ops() -> OnnxBuilder {
    let branch = |op: &str| {
        OnnxBuilder::new("branch")
            .node(op, &["u"], &["out"])
            .named("inner")
            .output("out")
            .graph()
    };
    OnnxBuilder::new("unsupported_ops")
        .input_f32("x", &["4"])
        .input("c", DataType::Bool, &[])
        .node("NonZero", &["x"], &["p"])
        .named("find")
        .node("Unique", &["x"], &["u"])
        .named("distinct")
        .node("Relu", &["u"], &["r"])
        .node_of("com.example", "Fancy", &["r"], &["f1"], Vec::new())
        .named("fancy1")
        .node_of("com.example", "Fancy", &["x"], &["f2"], Vec::new())
        .named("fancy2")
        .node_with(
            "If",
            &["c"],
            &["y"],
            vec![
                attr::graph("then_branch", branch("Relu")),
                attr::graph("else_branch", branch("StringNormalizer")),
            ],
        )
        .node_with(
            "If",
            &["f2"],
            &["z"],
            vec![
                attr::graph("then_branch", branch("Relu")),
                attr::graph("else_branch", branch("StringSplit")),
            ],
        )
        .output("p")
        .output("f1")
        .output("y")
        .output("z")
}

/// A reshape to a shape that is computed from an input's values.
fn dynamic_reshape() -> OnnxBuilder {
    OnnxBuilder::new("dynamic_reshape")
        .input_f32("x", &["12"])
        .input_i64("n", &["1"])
        .init_i64("rest", &[1], &[-1])
        .node_with("Concat", &["n", "rest"], &["shape"], vec![attr::int("axis", 0)])
        .node("Reshape", &["x", "shape"], &["y"])
        .named("to_rows")
        .output("y")
}

/// A weight in the file `weights.bin`, 8 bytes after its start.
fn external_weight() -> OnnxBuilder {
    OnnxBuilder::new("external_weight")
        .input_f32("x", &["1", "2"])
        .init(external(
            "w",
            DataType::Float,
            &[2, 2],
            &[("location", "weights.bin"), ("offset", "8"), ("length", "16")],
        ))
        .node("MatMul", &["x", "w"], &["y"])
        .output("y")
}

/// int8 weights with a scale per column, typed and raw initialisers.
fn quantized_linear() -> OnnxBuilder {
    OnnxBuilder::new("quantized_linear")
        .input_f32("x", &["2", "4"])
        .init(raw(
            "q",
            DataType::Int8,
            &[4, 3],
            (0..12u8).map(|v| v.wrapping_mul(37)).collect(),
        ))
        .init(tensor_f32("scale", &[3], &[0.5, 0.25, 0.125]))
        .init(tensor_i64("axes", &[1], &[0]))
        .node_with("Cast", &["q"], &["f"], vec![attr::int("to", 1)])
        .node("Mul", &["f", "scale"], &["w"])
        .node("MatMul", &["x", "w"], &["m"])
        .node("ReduceSum", &["m", "axes"], &["y"])
        .output("y")
}
