//! The registration table: which ONNX operators are imported, and by what.

mod activation;
mod attention;
mod conv;
mod elementwise;
mod grid;
mod image;
mod index;
mod loss;
mod matmul;
mod norm;
mod pool;
mod quant;
mod reduce;
mod rnn;
mod shape;
mod signal;

use super::cx::{Cx, Fail, Imported};

/// Imports one node.
type Run = fn(&mut Cx<'_, '_>) -> Imported;

/// Every operator of ONNX's own domain, in alphabetical order; `If`, `Loop` and `Scan` are in [`super::control`].
const TABLE: &[(&str, Run)] = &[
    ("Abs", elementwise::unary),
    ("Acos", elementwise::unary),
    ("Acosh", elementwise::unary),
    ("Add", elementwise::binary),
    ("AffineGrid", grid::affine_grid),
    ("And", elementwise::binary),
    ("ArgMax", reduce::arg),
    ("ArgMin", reduce::arg),
    ("Asin", elementwise::unary),
    ("Asinh", elementwise::unary),
    ("Atan", elementwise::unary),
    ("Atanh", elementwise::unary),
    ("Attention", attention::attention),
    ("AveragePool", pool::average),
    ("BatchNormalization", norm::batch),
    ("BitShift", elementwise::bit_shift),
    ("BitwiseAnd", elementwise::binary),
    ("BitwiseNot", elementwise::unary),
    ("BitwiseOr", elementwise::binary),
    ("BitwiseXor", elementwise::binary),
    ("BlackmanWindow", signal::window),
    ("Cast", elementwise::cast),
    ("CastLike", elementwise::cast_like),
    ("Ceil", elementwise::unary),
    ("Celu", activation::celu),
    ("CenterCropPad", shape::center_crop_pad),
    ("Clip", elementwise::clip),
    ("Compress", index::compress),
    ("Concat", shape::concat),
    ("Constant", shape::constant),
    ("ConstantOfShape", shape::constant_of_shape),
    ("Conv", conv::conv),
    ("ConvInteger", quant::conv_integer),
    ("ConvTranspose", conv::conv_transpose),
    ("Cos", elementwise::unary),
    ("Cosh", elementwise::unary),
    ("CumProd", reduce::cum_prod),
    ("CumSum", reduce::cum_sum),
    ("DFT", signal::dft),
    ("DepthToSpace", shape::depth_to_space),
    ("DequantizeLinear", quant::dequantize),
    ("Div", elementwise::binary),
    ("Dropout", elementwise::dropout),
    ("DynamicQuantizeLinear", quant::dynamic_quantize),
    ("Einsum", matmul::einsum),
    ("Elu", activation::elu),
    ("Equal", elementwise::binary),
    ("Erf", elementwise::unary),
    ("Exp", elementwise::unary),
    ("Expand", shape::expand),
    ("EyeLike", shape::eye_like),
    ("Flatten", shape::flatten),
    ("Floor", elementwise::unary),
    ("GRU", rnn::gru),
    ("Gather", index::gather),
    ("GatherElements", index::gather_elements),
    ("GatherND", index::gather_nd),
    ("Gelu", activation::gelu),
    ("Gemm", matmul::gemm),
    ("GlobalAveragePool", pool::global),
    ("GlobalLpPool", pool::global),
    ("GlobalMaxPool", pool::global),
    ("Greater", elementwise::binary),
    ("GreaterOrEqual", elementwise::binary),
    ("GridSample", grid::grid_sample),
    ("GroupNormalization", norm::group),
    ("HammingWindow", signal::window),
    ("HannWindow", signal::window),
    ("HardSigmoid", activation::hard_sigmoid),
    ("HardSwish", activation::hard_swish),
    ("Hardmax", norm::hardmax),
    ("Identity", elementwise::identity),
    ("InstanceNormalization", norm::instance),
    ("IsInf", elementwise::is_inf),
    ("IsNaN", elementwise::unary),
    ("LRN", norm::lrn),
    ("LSTM", rnn::lstm),
    ("LayerNormalization", norm::layer),
    ("LeakyRelu", activation::leaky_relu),
    ("Less", elementwise::binary),
    ("LessOrEqual", elementwise::binary),
    ("Log", elementwise::unary),
    ("LogSoftmax", norm::softmax),
    ("LpNormalization", norm::lp),
    ("LpPool", pool::lp),
    ("MatMul", matmul::matmul),
    ("MatMulInteger", quant::matmul_integer),
    ("Max", elementwise::variadic),
    ("MaxPool", pool::max),
    ("Mean", elementwise::variadic),
    ("MeanVarianceNormalization", norm::mean_variance),
    ("Min", elementwise::variadic),
    ("Mish", activation::mish),
    ("Mod", elementwise::modulo),
    ("Mul", elementwise::binary),
    ("Neg", elementwise::unary),
    ("NegativeLogLikelihoodLoss", loss::nll),
    ("NonMaxSuppression", index::data_dependent),
    ("NonZero", index::non_zero),
    ("Not", elementwise::unary),
    ("OneHot", index::one_hot),
    ("Or", elementwise::binary),
    ("PRelu", activation::prelu),
    ("Pad", shape::pad),
    ("Pow", elementwise::pow),
    ("QLinearConv", quant::qlinear_conv),
    ("QLinearMatMul", quant::qlinear_matmul),
    ("QuantizeLinear", quant::quantize),
    ("RMSNormalization", norm::rms),
    ("RNN", rnn::rnn),
    ("Range", shape::range),
    ("Reciprocal", elementwise::unary),
    ("ReduceL1", reduce::reduce),
    ("ReduceL2", reduce::reduce),
    ("ReduceLogSum", reduce::reduce),
    ("ReduceLogSumExp", reduce::reduce),
    ("ReduceMax", reduce::reduce),
    ("ReduceMean", reduce::reduce),
    ("ReduceMin", reduce::reduce),
    ("ReduceProd", reduce::reduce),
    ("ReduceSum", reduce::reduce),
    ("ReduceSumSquare", reduce::reduce),
    ("Relu", elementwise::unary),
    ("Reshape", shape::reshape),
    ("Resize", image::resize),
    ("ReverseSequence", index::reverse_sequence),
    ("RotaryEmbedding", attention::rotary),
    ("Round", elementwise::unary),
    ("STFT", signal::stft),
    ("Scatter", index::scatter_elements),
    ("ScatterElements", index::scatter_elements),
    ("ScatterND", index::scatter_nd),
    ("Selu", activation::selu),
    ("Shape", shape::shape),
    ("Shrink", activation::shrink),
    ("Sigmoid", elementwise::unary),
    ("Sign", elementwise::unary),
    ("Sin", elementwise::unary),
    ("Sinh", elementwise::unary),
    ("Size", shape::size),
    ("Slice", shape::slice),
    ("Softmax", norm::softmax),
    ("SoftmaxCrossEntropyLoss", loss::softmax_cross_entropy),
    ("Softplus", activation::softplus),
    ("Softsign", activation::softsign),
    ("SpaceToDepth", shape::space_to_depth),
    ("Split", shape::split),
    ("Sqrt", elementwise::unary),
    ("Squeeze", shape::squeeze),
    ("Sub", elementwise::binary),
    ("Sum", elementwise::variadic),
    ("Swish", activation::swish),
    ("Tan", elementwise::unary),
    ("Tanh", elementwise::unary),
    ("TensorScatter", index::tensor_scatter),
    ("ThresholdedRelu", activation::thresholded_relu),
    ("Tile", shape::tile),
    ("TopK", reduce::top_k),
    ("Transpose", shape::transpose),
    ("Trilu", shape::trilu),
    ("Unique", index::data_dependent),
    ("Unsqueeze", shape::unsqueeze),
    ("Upsample", image::upsample),
    ("Where", elementwise::select),
    ("Xor", elementwise::binary),
];

/// The importer of an operator, if there is one.
pub(super) fn lookup(domain: &str, op_type: &str) -> Option<Run> {
    if !domain.is_empty() {
        return None;
    }
    TABLE
        .binary_search_by_key(&op_type, |(name, _)| name)
        .ok()
        .map(|at| TABLE[at].1)
}

/// Names of all ONNX operators that are imported, ascending; all are of ONNX's own domain.
pub fn supported() -> Vec<&'static str> {
    let mut names: Vec<&str> = TABLE
        .iter()
        .map(|(name, _)| *name)
        .chain(["If", "Loop", "Scan"])
        .collect();
    names.retain(|name| !matches!(*name, "NonMaxSuppression" | "Unique"));
    names.sort_unstable();
    names
}

/// The failure of an operator without an importer.
pub(super) fn unknown(domain: &str, _op_type: &str) -> Fail {
    let (reason, help) = if domain.is_empty() {
        (
            "there is no importer for this operator",
            "replace it by operators that `lockstep ops` lists",
        )
    } else {
        (
            "operators of this domain are not known",
            "export the model with ONNX's own operators",
        )
    };
    Fail::Unsupported {
        reason: reason.into(),
        help: help.into(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_sorted() {
        assert!(super::TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(super::lookup("", "Conv").is_some() && super::lookup("com.example", "Conv").is_none());
    }
}
