//! Recurrent layers: LSTM, GRU, RNN.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Activation, Cell, Direction, Recurrent};
use lockstep_graph::{Op, ValueId};

pub(super) fn lstm(cx: &mut Cx<'_, '_>) -> Imported {
    if cx.flag("input_forget", false) {
        return unsupported("input_forget=1 is not supported");
    }
    let peephole = cx.opt(7).is_some();
    recurrent(cx, Cell::Lstm { peephole }, &["Sigmoid", "Tanh", "Tanh"])
}

pub(super) fn gru(cx: &mut Cx<'_, '_>) -> Imported {
    let linear_before_reset = cx.flag("linear_before_reset", false);
    recurrent(cx, Cell::Gru { linear_before_reset }, &["Sigmoid", "Tanh"])
}

pub(super) fn rnn(cx: &mut Cx<'_, '_>) -> Imported {
    recurrent(cx, Cell::Rnn, &["Tanh"])
}

fn recurrent(cx: &mut Cx<'_, '_>, cell: Cell, default: &[&str]) -> Imported {
    let (mut x, w, r) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    if cx.rank(x) != 3 || cx.rank(r) != 3 {
        return malformed(format!("x has rank {} and r {}, allowed: 3", cx.rank(x), cx.rank(r)));
    }
    let batch_first = cx.flag("layout", false);
    if batch_first {
        x = cx.b().transpose(x, &[1, 0, 2])?;
    }
    let (dtype, x_shape) = (cx.dtype(x), cx.shape(x));
    let (steps, batch) = (x_shape[0], x_shape[1]);
    let hidden = cx.shape(r)[2];
    if cx.opt_int("hidden_size").is_some_and(|given| given != hidden as i64) {
        return malformed(format!(
            "hidden_size is {}, the weights have {hidden}",
            cx.int("hidden_size", 0)
        ));
    }
    let direction = match cx.string("direction", "forward").as_str() {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Both,
        other => {
            return malformed(format!(
                "direction is \"{}\", allowed: forward, reverse, bidirectional",
                other.escape_debug()
            ));
        }
    };
    let directions = direction.count();
    if cx.opt(4).is_some() {
        let lens = cx.need_ints(4, "sequence_lens")?;
        if lens.iter().any(|&len| len != steps as i64) {
            return unsupported(format!(
                "sequence_lens below the {steps} steps of the input are not supported"
            ));
        }
    }
    let bias = match cx.opt(3) {
        Some(bias) => bias,
        None => cx.filled(dtype, [directions, 2 * cell.n_gates() * hidden], 0.0)?,
    };
    let mut inputs = vec![
        x,
        w,
        r,
        bias,
        state(cx, 5, batch_first, [directions, batch, hidden], x)?,
    ];
    if let Cell::Lstm { peephole } = cell {
        inputs.push(state(cx, 6, batch_first, [directions, batch, hidden], x)?);
        if peephole {
            inputs.push(cx.x(7)?);
        }
    }
    let activations = activations(cx, directions, default)?;
    let clip = cx.attr("clip").map(|attr| attr.f).filter(|clip| *clip > 0.0);
    let op = Op::Recurrent(Recurrent {
        cell,
        hidden,
        direction,
        activations,
        clip,
    });
    let mut results = cx.b().ops(op, &inputs)?;
    if batch_first {
        results[0] = cx.b().transpose(results[0], &[2, 0, 1, 3])?;
        for result in &mut results[1..] {
            *result = cx.b().transpose(*result, &[1, 0, 2])?;
        }
    }
    Ok(results)
}

/// An initial state, zeros if absent.
fn state(cx: &mut Cx<'_, '_>, index: usize, batch_first: bool, shape: [usize; 3], x: ValueId) -> Result<ValueId, Fail> {
    match cx.opt(index) {
        Some(given) if batch_first => Ok(cx.b().transpose(given, &[1, 0, 2])?),
        Some(given) => Ok(given),
        None => {
            let dtype = cx.dtype(x);
            cx.filled(dtype, shape, 0.0)
        }
    }
}

/// Activations of all directions; alphas and betas are used up by the functions that have them, in order.
fn activations(cx: &Cx<'_, '_>, directions: usize, default: &[&str]) -> Result<Vec<Activation>, Fail> {
    let names = match cx.strings("activations").filter(|names| !names.is_empty()) {
        Some(names) if names.len() == directions * default.len() => names,
        Some(names) => {
            return malformed(format!(
                "activations has {} entries, expected {}",
                names.len(),
                directions * default.len()
            ));
        }
        None => std::iter::repeat_n(default, directions)
            .flatten()
            .map(|name| name.to_string())
            .collect(),
    };
    let mut alphas = cx.floats("activation_alpha").unwrap_or_default().into_iter();
    let mut betas = cx.floats("activation_beta").unwrap_or_default().into_iter();
    let mut alpha = |default: f32| alphas.next().unwrap_or(default);
    let mut beta = |default: f32| betas.next().unwrap_or(default);
    let mut activation = |name: &String| {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "relu" => Activation::Relu,
            "affine" => Activation::Affine {
                alpha: alpha(1.0),
                beta: beta(0.0),
            },
            "leakyrelu" => Activation::LeakyRelu { alpha: alpha(0.01) },
            "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alpha(1.0) },
            "scaledtanh" => Activation::ScaledTanh {
                alpha: alpha(1.0),
                beta: beta(1.0),
            },
            "hardsigmoid" => Activation::HardSigmoid {
                alpha: alpha(0.2),
                beta: beta(0.5),
            },
            "elu" => Activation::Elu { alpha: alpha(1.0) },
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            other => {
                return malformed(format!("the activation \"{}\" is not known", other.escape_debug()));
            }
        })
    };
    names.iter().map(&mut activation).collect()
}
