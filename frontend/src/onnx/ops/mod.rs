//! The registration table: which ONNX operators are imported, and by what.

mod activation;
mod attention;
mod bits;
mod contrib;
mod contrib_attention;
mod conv;
mod elementwise;
mod grid;
mod image;
mod index;
mod linear;
mod loss;
mod matmul;
mod norm;
mod pool;
mod quant;
mod random;
mod reduce;
mod region;
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
    ("BitCast", elementwise::bit_cast),
    ("BitShift", elementwise::bit_shift),
    ("BitwiseAnd", elementwise::binary),
    ("BitwiseNot", elementwise::unary),
    ("BitwiseOr", elementwise::binary),
    ("BitwiseXor", elementwise::binary),
    ("BlackmanWindow", signal::window),
    ("Cast", elementwise::cast),
    ("CastLike", elementwise::cast_like),
    ("CausalConvWithState", linear::causal_conv),
    ("Ceil", elementwise::unary),
    ("Celu", activation::celu),
    ("CenterCropPad", shape::center_crop_pad),
    ("Clip", elementwise::clip),
    ("Col2Im", conv::col2im),
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
    ("DeformConv", region::deform_conv),
    ("DepthToSpace", shape::depth_to_space),
    ("DequantizeLinear", quant::dequantize),
    ("Det", matmul::det),
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
    ("LinearAttention", linear::linear_attention),
    ("Log", elementwise::unary),
    ("LogSoftmax", norm::softmax),
    ("LpNormalization", norm::lp),
    ("LpPool", pool::lp),
    ("MatMul", matmul::matmul),
    ("MatMulInteger", quant::matmul_integer),
    ("Max", elementwise::variadic),
    ("MaxPool", pool::max),
    ("MaxUnpool", region::max_unpool),
    ("Mean", elementwise::variadic),
    ("MeanVarianceNormalization", norm::mean_variance),
    ("MelWeightMatrix", signal::mel_weights),
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
    ("OptionalGetElement", elementwise::identity),
    ("OptionalHasElement", elementwise::has_element),
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
    ("RoiAlign", region::roi_align),
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
    ("SimplifiedLayerNormalization", contrib::simplified_norm),
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

/// Operators of the domain `ai.onnx.preview`, in alphabetical order.
const PREVIEW: &[(&str, Run)] = &[("FlexAttention", attention::flex_attention)];

/// Operators of the domain `com.microsoft`, in alphabetical order.
const CONTRIB: &[(&str, Run)] = &[
    ("Attention", contrib_attention::packed),
    ("BiasGelu", contrib::bias_gelu),
    ("DequantizeLinear", quant::dequantize),
    ("DynamicQuantizeLSTM", contrib::dynamic_lstm),
    ("DynamicQuantizeMatMul", quant::matmul_to_float),
    ("FastGelu", contrib::fast_gelu),
    ("FusedConv", contrib::fused_conv),
    ("FusedMatMul", contrib::fused_matmul),
    ("Gelu", contrib::bias_gelu),
    ("GroupQueryAttention", contrib_attention::grouped_query),
    ("MatMulIntegerToFloat", quant::matmul_to_float),
    ("MatMulNBits", contrib::matmul_n_bits),
    ("MultiHeadAttention", contrib_attention::multi_head),
    ("NhwcConv", contrib::nhwc_conv),
    ("QGemm", quant::qgemm),
    ("QLinearAdd", quant::qlinear_binary),
    ("QLinearConcat", quant::qlinear_concat),
    ("QLinearGlobalAveragePool", quant::qlinear_unary),
    ("QLinearLeakyRelu", quant::qlinear_unary),
    ("QLinearMul", quant::qlinear_binary),
    ("QLinearSigmoid", quant::qlinear_unary),
    ("QLinearSoftmax", quant::qlinear_unary),
    ("QuantizeLinear", quant::quantize),
    ("QuickGelu", contrib::quick_gelu),
    ("RotaryEmbedding", contrib_attention::rotary),
    ("SimplifiedLayerNormalization", contrib::simplified_norm),
    ("SkipLayerNormalization", contrib::skip_norm),
    ("SkipSimplifiedLayerNormalization", contrib::skip_norm),
];

/// The tables by domain; the empty one is ONNX's own.
const DOMAINS: &[(&str, &[(&str, Run)])] = &[("", TABLE), ("ai.onnx.preview", PREVIEW), ("com.microsoft", CONTRIB)];

/// The importer of an operator, if there is one.
pub(super) fn lookup(domain: &str, op_type: &str) -> Option<Run> {
    let table = DOMAINS.iter().find(|(name, _)| *name == domain)?.1;
    table
        .binary_search_by_key(&op_type, |(name, _)| name)
        .ok()
        .map(|at| table[at].1)
}

/// Names of all operators that are imported, with their domain before a colon unless that is ONNX's own, ascending within a domain.
pub fn supported() -> Vec<String> {
    let mut own: Vec<&str> = TABLE
        .iter()
        .map(|(name, _)| *name)
        .chain(["If", "Loop", "Scan"])
        .filter(|name| !matches!(*name, "NonMaxSuppression" | "Unique"))
        .collect();
    own.sort_unstable();
    let others = DOMAINS.iter().filter(|(domain, _)| !domain.is_empty());
    let others = others.flat_map(|(domain, table)| table.iter().map(move |(name, _)| format!("{domain}:{name}")));
    own.into_iter().map(str::to_string).chain(others).collect()
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
        for (_, table) in super::DOMAINS {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        assert!(super::lookup("", "Conv").is_some() && super::lookup("com.example", "Conv").is_none());
    }
}
