//! The operators of a graph: closed, independent of any opset, statically shaped, with typed attributes.
//!
//! Importers normalise: axes are non-negative, pads, permutations and shapes explicit, optional inputs either filled in or gone, and exotic
//! operators are compositions of these. Notation: `x: T[..]` is an input of dtype T; `→` its results. "Broadcast" is numpy's rule.
//! Every input of one operator has the same dtype T unless said otherwise. The operators and their attributes are one table, so they are one file.

use crate::{DType, Shape};
use std::fmt;

/// An operator with its attributes. Inputs and results are listed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `x: T[s]` → `T[s]`; [`Unary::IsNan`] and [`Unary::IsInf`] → `bool[s]`. Which T: see [`Unary`].
    Unary(Unary),
    /// `a: T[..], b: T[..]` → `T[broadcast]`; compares → `bool[broadcast]`. Which T: see [`Binary`].
    Binary(Binary),
    /// `cond: bool[..], a: T[..], b: T[..]` → `T[broadcast of all three]`: a where cond, else b.
    Where,
    /// `x: T[s]` → `to[s]`. Float to int truncates toward zero; int to int wraps; to bool is `x != 0`; bool to number is 0 or 1.
    Cast {
        /// Result dtype.
        to: DType,
    },

    /// `a: T[.., m, k], b: T[.., k, n]` → `T[broadcast of leading dims, m, n]`, numpy `matmul` (a 1-D operand is a row on the left, a column
    /// on the right, and its dimension goes from the result). 8-bit integers (`i8`, `u8`, mixed at will) → `i32`; T is any float, i32, i64, u32, u64 otherwise.
    MatMul,
    /// `x: T[n, c, d..], w: T[o, c/groups, k..]`, optional `bias: T[o]` → `T[n, o, d'..]` with 1 to 3 spatial dims;
    /// d' = (d + pads − ((k−1)·dilation + 1)) / stride + 1. 8-bit integers as in [`Op::MatMul`], the bias is then `i32`.
    Conv(Conv),
    /// `x: T[n, c, d..], w: T[c, o/groups, k..]`, optional `bias: T[o]` → `T[n, o, d'..]` with 1 to 3 spatial dims;
    /// d' = (d−1)·stride − pads + (k−1)·dilation + 1 + output_padding. T is a float.
    ConvTranspose(ConvTranspose),
    /// `x: T[n, c, d..]` → `T[n, c, d'..]` with 1 to 3 spatial dims; d' = (d + pads + ceil_extra − ((k−1)·dilation + 1)) / stride + 1.
    Pool(Pool),

    /// `x: T[s]` → `T[s]`, softmax (or its logarithm) along one axis, with the maximum subtracted. T is a float.
    Softmax {
        /// The axis that sums to 1.
        axis: usize,
        /// Logarithm of the result.
        log: bool,
    },
    /// `x: T[s]`, optional `scale: T[..]`, optional `bias: T[..]` (broadcast to `s[axis..]`) → `T[s]`:
    /// (x − mean) / sqrt(variance + eps) · scale + bias, statistics over all axes from `axis` on. T is a float.
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        eps: f32,
    },
    /// `x: T[s]`, optional `scale: T[..]` (broadcast to `s[axis..]`) → `T[s]`: x / sqrt(mean(x²) + eps) · scale, mean over all axes from `axis` on. T is a float.
    RmsNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the mean square.
        eps: f32,
    },
    /// `x: T[n, c, ..], scale: T[c], bias: T[c], mean: T[c], var: T[c]` → `T[n, c, ..]`: (x − mean) / sqrt(var + eps) · scale + bias. T is a float.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
    },

    /// `x: T[s]` → `T[..]`: the axes are 1 (`keepdims`) or gone. T is any number.
    Reduce {
        /// What is computed.
        kind: Reduce,
        /// Reduced axes, ascending, distinct; empty leaves x unchanged.
        axes: Vec<usize>,
        /// Keep reduced axes as 1.
        keepdims: bool,
    },
    /// `x: T[s]` → `i64[..]`: position of the extreme along an axis, which is 1 (`keepdims`) or gone.
    Arg {
        /// Largest instead of smallest.
        max: bool,
        /// The searched axis.
        axis: usize,
        /// Keep it as 1.
        keepdims: bool,
        /// Of equal extremes the last instead of the first.
        last: bool,
    },
    /// `x: T[s]` → `T[s]`, running sum along an axis.
    CumSum {
        /// The axis.
        axis: usize,
        /// Leave out the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// `x: T[s]` → `values: T[s with k at axis], indices: i64[same]`, sorted, the best first; equal elements by ascending index.
    TopK {
        /// How many; at most the dimension.
        k: usize,
        /// The axis.
        axis: usize,
        /// Largest instead of smallest.
        largest: bool,
    },

    /// LSTM, GRU or plain RNN with D = 1 or 2 directions, G gates of H units: `x: T[t, b, i], w: T[D, G·H, i], r: T[D, G·H, H],
    /// bias: T[D, 2·G·H], h0: T[D, b, H]`, LSTM also `c0: T[D, b, H]` and, with `peephole`, `p: T[D, 3·H]` →
    /// `y: T[t, D, b, H], h: T[D, b, H]`, LSTM also `c: T[D, b, H]`. The second half of `bias` belongs to `r`. T is a float.
    Recurrent(Recurrent),

    /// `x: T[s]` → `T[shape]`, same elements in row-major order.
    Reshape {
        /// Result shape; as many elements as x.
        shape: Shape,
    },
    /// `x: T[s]` → `T[s[perm[0]], s[perm[1]], ..]`.
    Transpose {
        /// Source axis of each result axis, a permutation.
        perm: Vec<usize>,
    },
    /// `x: T[s]` → `T[ranges' lens]`: element i of a result axis is element start + i·step of x.
    Narrow {
        /// One per axis.
        ranges: Vec<Range>,
    },
    /// One or more `x_i: T[..]`, equal but in `axis` → `T[sum at axis]`.
    Concat {
        /// The joined axis.
        axis: usize,
    },
    /// `x: T[s]` → `T[s + before + after]`.
    Pad {
        /// (before, after) per axis.
        pads: Vec<(usize, usize)>,
        /// What the new elements hold.
        mode: PadMode,
    },
    /// `x: T[s]` → `T[shape]`, broadcast.
    Expand {
        /// Result shape; s broadcasts to exactly this.
        shape: Shape,
    },

    /// `x: T[s], indices: i32|i64[r]` → `T[s[..axis], r, s[axis+1..]]`. Indices lie in `0..s[axis]`; others, taken as unsigned, are clamped to the last.
    Gather {
        /// The indexed axis.
        axis: usize,
    },
    /// `x: T[s], indices: i32|i64[r]`, same rank, `r ≤ s` but at `axis` → `T[r]`: `result[p]` = `x[p with p[axis] replaced by indices[p]]`. Indices as in [`Op::Gather`].
    GatherElements {
        /// The indexed axis.
        axis: usize,
    },
    /// `x: T[s], indices: i32|i64[q.., k]` → `T[q.., s[batch_dims + k..]]`; the first `batch_dims` of q equal those of s. Indices as in [`Op::Gather`].
    GatherNd {
        /// Leading dims shared by x and indices.
        batch_dims: usize,
    },
    /// `x: T[s], indices: i32|i64[r], updates: T[r]` → `T[s]`: x with `result[p with p[axis] replaced by indices[p]]` combined with `updates[p]`, p in row-major order.
    ScatterElements {
        /// The indexed axis.
        axis: usize,
        /// How an update meets the element.
        combine: Combine,
    },
    /// `x: T[s], indices: i32|i64[q.., k], updates: T[q.., s[k..]]` → `T[s]`: x with each addressed part combined with its update, in row-major order of q.
    ScatterNd {
        /// How an update meets the element.
        combine: Combine,
    },

    /// `x: F[s], scale: F[..], zero_point: to[..]` (both broadcast to s) → `to[s]`: saturate(round_half_even(x / scale) + zero_point). F is f32, f16 or bf16.
    Quantize {
        /// Result dtype: an 8- or 16-bit integer.
        to: DType,
    },
    /// `x: Q[s], scale: F[..], zero_point: Q[..]` (both broadcast to s) → `F[s]`: (x − zero_point) · scale. Q is i8, u8, i16, u16 or i32.
    Dequantize,
}

/// Elementwise function of one operand. Floats unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Unary {
    /// Any number but unsigned; integers wrap.
    Neg,
    /// Any number; integers wrap.
    Abs,
    /// −1, 0 or 1; any number. NaN stays NaN.
    Sign,
    /// Bool: logical; integers: bitwise.
    Not,
    Exp,
    Log,
    Sqrt,
    /// 1 / sqrt(x).
    Rsqrt,
    /// 1 / x.
    Recip,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Tanh,
    Erf,
    /// 1 / (1 + exp(−x)).
    Sigmoid,
    /// max(x, 0); any number.
    Relu,
    Floor,
    Ceil,
    /// Half to even.
    Round,
    /// Float → bool.
    IsNan,
    /// Float → bool.
    IsInf,
}

/// Elementwise function of two operands with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    /// Any number; integers wrap.
    Add,
    /// Any number; integers wrap.
    Sub,
    /// Any number; integers wrap.
    Mul,
    /// Any number; integers truncate toward zero.
    Div,
    /// Any number; of integers a negative exponent gives the truncated value.
    Pow,
    /// Any number; propagates NaN.
    Min,
    /// Any number; propagates NaN.
    Max,
    /// Any number; remainder with the sign of the divisor.
    Mod,
    /// Any number; remainder with the sign of the dividend.
    Rem,
    /// Any dtype → bool.
    Eq,
    /// Any dtype → bool.
    Ne,
    /// Any number → bool.
    Lt,
    /// Any number → bool.
    Le,
    /// Any number → bool.
    Gt,
    /// Any number → bool.
    Ge,
    /// Bool: logical; integers: bitwise.
    And,
    /// Bool: logical; integers: bitwise.
    Or,
    /// Bool: logical; integers: bitwise.
    Xor,
    /// Unsigned integers.
    Shl,
    /// Unsigned integers.
    Shr,
}

/// Reduction over axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    /// Integers: the truncated quotient of sum and count.
    Mean,
    Prod,
    Max,
    Min,
}

/// How a scattered update meets the element there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Combine {
    /// Replaces it; of several the last.
    Set,
    Add,
    Mul,
    Min,
    Max,
}

/// Attributes of [`Op::Conv`]; one entry per spatial dim. The kernel size is the weight's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Conv {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// (before, after) zeros.
    pub pads: Vec<(usize, usize)>,
    pub groups: usize,
}

/// Attributes of [`Op::ConvTranspose`]; one entry per spatial dim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ConvTranspose {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// (before, after) result elements cut off; `after` may be negative and then adds.
    pub pads: Vec<(usize, isize)>,
    /// Elements added at the end of each spatial dim, computed like the others.
    pub output_padding: Vec<usize>,
    pub groups: usize,
}

/// Kind of pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Largest element of the window inside the input; any number.
    Max,
    /// Sum of the window ÷ count; T is a float.
    Avg {
        /// Count elements of `pads` too; elements of `ceil_extra` never count.
        count_pads: bool,
    },
}

/// Attributes of [`Op::Pool`]; one entry per spatial dim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Pool {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// (before, after); smaller than the dilated kernel.
    pub pads: Vec<(usize, usize)>,
    /// Further positions after the end that the last window may cover (rounding up); every window starts inside input and `pads`.
    pub ceil_extra: Vec<usize>,
}

/// What [`Op::Pad`] puts into the new elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// A value of T.
    Constant(Scalar),
    /// Mirror without repeating the edge; pads are smaller than the dimension.
    Reflect,
    /// The nearest element.
    Edge,
    /// Periodic.
    Wrap,
}

/// A number as an attribute; converted to the dtype of the tensor it meets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// For integers and bool (0 or 1).
    Int(i128),
    /// For floats.
    Float(f64),
}

/// Elements start, start + step, .. of an axis, `len` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First element taken.
    pub start: usize,
    /// Distance between elements taken; negative runs backwards; never 0.
    pub step: isize,
    /// How many are taken.
    pub len: usize,
}

impl Range {
    /// All of an axis of this size.
    pub fn all(dim: usize) -> Self {
        Self {
            start: 0,
            step: 1,
            len: dim,
        }
    }

    /// The elements from `start` to before `end`.
    pub fn of(start: usize, end: usize) -> Self {
        Self {
            start,
            step: 1,
            len: end.saturating_sub(start),
        }
    }

    /// Whether every element taken lies in an axis of this size.
    pub fn fits(&self, dim: usize) -> bool {
        if self.len == 0 {
            return self.step != 0;
        }
        let last = self.start as i128 + (self.len as i128 - 1) * self.step as i128;
        self.step != 0 && self.start < dim && last >= 0 && last < dim as i128
    }
}

/// Cell of [`Op::Recurrent`]; σ, g, h are the activations in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// H' = σ(x·W + H·R + b). One gate, one activation.
    Rnn,
    /// Gates i, o, f, c: C' = f∘C + i∘g(..), H' = o∘h(C'); peepholes add p_i∘C, p_f∘C to i, f and p_o∘C' to o (p in the order i, o, f). Three activations σ, g, h.
    Lstm {
        /// There is an input `p`.
        peephole: bool,
    },
    /// Gates z, r, h: H' = (1−z)∘h + z∘H with h = g(x·W_h + (r∘H)·R_h + b). Two activations σ, g.
    Gru {
        /// h = g(x·W_h + b_w + r∘(H·R_h + b_r)) instead.
        linear_before_reset: bool,
    },
}

impl Cell {
    /// Number of gates G.
    pub const fn n_gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
        }
    }

    /// Activations per direction.
    pub const fn n_activations(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Lstm { .. } => 3,
            Cell::Gru { .. } => 2,
        }
    }
}

/// Order in which [`Op::Recurrent`] walks the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Reverse,
    /// D = 2: index 0 forward, 1 reverse.
    Both,
}

impl Direction {
    /// D, the number of directions.
    pub const fn count(self) -> usize {
        match self {
            Direction::Both => 2,
            _ => 1,
        }
    }
}

/// Activation function of a recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    /// alpha·x + beta.
    Affine {
        alpha: f32,
        beta: f32,
    },
    /// x, or alpha·x below 0.
    LeakyRelu {
        alpha: f32,
    },
    /// x, or 0 below alpha.
    ThresholdedRelu {
        alpha: f32,
    },
    /// alpha·tanh(beta·x).
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
    /// min(max(alpha·x + beta, 0), 1).
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    /// x, or alpha·(exp(x) − 1) below 0.
    Elu {
        alpha: f32,
    },
    /// x / (1 + |x|).
    Softsign,
    /// log(1 + exp(x)).
    Softplus,
}

/// Attributes of [`Op::Recurrent`].
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// The cell.
    pub cell: Cell,
    /// H, units per gate.
    pub hidden: usize,
    /// Walking order.
    pub direction: Direction,
    /// `cell.n_activations()` per direction.
    pub activations: Vec<Activation>,
    /// Inputs of activations are clamped to [−clip, clip].
    pub clip: Option<f32>,
}

impl Unary {
    /// Spelling in text forms.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

impl Binary {
    /// Spelling in text forms.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Whether the result is bool whatever the operands are.
    pub const fn is_compare(self) -> bool {
        matches!(
            self,
            Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge
        )
    }
}

impl Op {
    /// Name without attributes, such as `MatMul`, `Relu`, `Lstm`.
    pub fn name(&self) -> String {
        match self {
            Op::Unary(kind) => kind.name(),
            Op::Binary(kind) => kind.name(),
            Op::Reduce { kind, .. } => format!("Reduce{kind:?}"),
            Op::Arg { max, .. } => if *max { "ArgMax" } else { "ArgMin" }.into(),
            Op::Softmax { log, .. } => if *log { "LogSoftmax" } else { "Softmax" }.into(),
            Op::Pool(pool) => if pool.kind == PoolKind::Max {
                "MaxPool"
            } else {
                "AvgPool"
            }
            .into(),
            Op::Recurrent(rnn) => match rnn.cell {
                Cell::Rnn => "Rnn",
                Cell::Lstm { .. } => "Lstm",
                Cell::Gru { .. } => "Gru",
            }
            .into(),
            Op::Where => "Where".into(),
            Op::Cast { .. } => "Cast".into(),
            Op::MatMul => "MatMul".into(),
            Op::Conv(_) => "Conv".into(),
            Op::ConvTranspose(_) => "ConvTranspose".into(),
            Op::LayerNorm { .. } => "LayerNorm".into(),
            Op::RmsNorm { .. } => "RmsNorm".into(),
            Op::BatchNorm { .. } => "BatchNorm".into(),
            Op::CumSum { .. } => "CumSum".into(),
            Op::TopK { .. } => "TopK".into(),
            Op::Reshape { .. } => "Reshape".into(),
            Op::Transpose { .. } => "Transpose".into(),
            Op::Narrow { .. } => "Narrow".into(),
            Op::Concat { .. } => "Concat".into(),
            Op::Pad { .. } => "Pad".into(),
            Op::Expand { .. } => "Expand".into(),
            Op::Gather { .. } => "Gather".into(),
            Op::GatherElements { .. } => "GatherElements".into(),
            Op::GatherNd { .. } => "GatherNd".into(),
            Op::ScatterElements { .. } => "ScatterElements".into(),
            Op::ScatterNd { .. } => "ScatterNd".into(),
            Op::Quantize { .. } => "Quantize".into(),
            Op::Dequantize => "Dequantize".into(),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(value) => write!(f, "{value}"),
            Scalar::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// `a..b` with `:step` unless it is 1.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step == 1 {
            write!(f, "{}+{}", self.start, self.len)
        } else {
            write!(f, "{}+{}:{}", self.start, self.len, self.step)
        }
    }
}

/// Name and attributes, such as `Softmax{axis=2}`; attributes at their commonest value (stride 1, no pads, one group) are left out.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut attrs: Vec<String> = Vec::new();
        let mut put = |key: &str, value: String| attrs.push(format!("{key}={value}"));
        match self {
            Op::Cast { to } | Op::Quantize { to } => put("to", to.to_string()),
            Op::Conv(conv) => {
                put_window(&mut put, &conv.strides, &conv.dilations, &conv.pads);
                if conv.groups != 1 {
                    put("groups", conv.groups.to_string());
                }
            }
            Op::ConvTranspose(conv) => {
                put_window(&mut put, &conv.strides, &conv.dilations, &conv.pads);
                if conv.output_padding.iter().any(|&n| n != 0) {
                    put("output_padding", list(&conv.output_padding));
                }
                if conv.groups != 1 {
                    put("groups", conv.groups.to_string());
                }
            }
            Op::Pool(pool) => {
                put("kernel", list(&pool.kernel));
                put_window(&mut put, &pool.strides, &pool.dilations, &pool.pads);
                if pool.ceil_extra.iter().any(|&n| n != 0) {
                    put("ceil_extra", list(&pool.ceil_extra));
                }
                if pool.kind == (PoolKind::Avg { count_pads: true }) {
                    put("count_pads", "true".into());
                }
            }
            Op::Softmax { axis, .. } | Op::Concat { axis } | Op::Gather { axis } | Op::GatherElements { axis } => {
                put("axis", axis.to_string())
            }
            Op::LayerNorm { axis, eps } | Op::RmsNorm { axis, eps } => {
                put("axis", axis.to_string());
                put("eps", format!("{eps:?}"));
            }
            Op::BatchNorm { eps } => put("eps", format!("{eps:?}")),
            Op::Reduce { axes, keepdims, .. } => {
                put("axes", list(axes));
                put("keepdims", keepdims.to_string());
            }
            Op::Arg {
                axis, keepdims, last, ..
            } => {
                put("axis", axis.to_string());
                put("keepdims", keepdims.to_string());
                if *last {
                    put("last", "true".into());
                }
            }
            Op::CumSum {
                axis,
                exclusive,
                reverse,
            } => {
                put("axis", axis.to_string());
                if *exclusive {
                    put("exclusive", "true".into());
                }
                if *reverse {
                    put("reverse", "true".into());
                }
            }
            Op::TopK { k, axis, largest } => {
                put("k", k.to_string());
                put("axis", axis.to_string());
                put("largest", largest.to_string());
            }
            Op::Recurrent(rnn) => {
                put("hidden", rnn.hidden.to_string());
                if rnn.direction != Direction::Forward {
                    put("direction", format!("{:?}", rnn.direction).to_lowercase());
                }
                if rnn.cell == (Cell::Lstm { peephole: true }) {
                    put("peephole", "true".into());
                }
                if rnn.cell
                    == (Cell::Gru {
                        linear_before_reset: true,
                    })
                {
                    put("linear_before_reset", "true".into());
                }
                put(
                    "activations",
                    format!(
                        "[{}]",
                        rnn.activations
                            .iter()
                            .map(Activation::to_string)
                            .collect::<Vec<_>>()
                            .join(",")
                    ),
                );
                if let Some(clip) = rnn.clip {
                    put("clip", format!("{clip:?}"));
                }
            }
            Op::Transpose { perm } => put("perm", list(perm)),
            Op::Narrow { ranges } => put("ranges", list(ranges)),
            Op::Pad { pads, mode } => {
                put("pads", pair_list(pads));
                match mode {
                    PadMode::Constant(value) => put("value", value.to_string()),
                    other => put("mode", format!("{other:?}").to_lowercase()),
                }
            }
            Op::GatherNd { batch_dims } if *batch_dims != 0 => put("batch_dims", batch_dims.to_string()),
            Op::ScatterElements { axis, combine } => {
                put("axis", axis.to_string());
                put("combine", format!("{combine:?}").to_lowercase());
            }
            Op::ScatterNd { combine } => put("combine", format!("{combine:?}").to_lowercase()),
            // The shape of these two is the type of the result.
            Op::Reshape { .. } | Op::Expand { .. } => {}
            Op::Unary(_) | Op::Binary(_) | Op::Where | Op::MatMul | Op::GatherNd { .. } | Op::Dequantize => {}
        }
        f.write_str(&self.name())?;
        if attrs.is_empty() {
            Ok(())
        } else {
            write!(f, "{{{}}}", attrs.join(" "))
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Activation::Affine { alpha, beta } => write!(f, "affine({alpha:?},{beta:?})"),
            Activation::LeakyRelu { alpha } => write!(f, "leaky_relu({alpha:?})"),
            Activation::ThresholdedRelu { alpha } => write!(f, "thresholded_relu({alpha:?})"),
            Activation::ScaledTanh { alpha, beta } => write!(f, "scaled_tanh({alpha:?},{beta:?})"),
            Activation::HardSigmoid { alpha, beta } => {
                write!(f, "hard_sigmoid({alpha:?},{beta:?})")
            }
            Activation::Elu { alpha } => write!(f, "elu({alpha:?})"),
            plain => f.write_str(&format!("{plain:?}").to_lowercase()),
        }
    }
}

fn put_window<P: fmt::Display + PartialEq + Default>(
    put: &mut impl FnMut(&str, String),
    strides: &[usize],
    dilations: &[usize],
    pads: &[(usize, P)],
) {
    if strides.iter().any(|&n| n != 1) {
        put("strides", list(strides));
    }
    if dilations.iter().any(|&n| n != 1) {
        put("dilations", list(dilations));
    }
    if pads
        .iter()
        .any(|(before, after)| *before != 0 || *after != P::default())
    {
        put("pads", pair_list(pads));
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(T::to_string).collect::<Vec<_>>().join(","))
}

fn pair_list<P: fmt::Display>(items: &[(usize, P)]) -> String {
    format!(
        "[{}]",
        items
            .iter()
            .map(|(before, after)| format!("{before}:{after}"))
            .collect::<Vec<_>>()
            .join(",")
    )
}
