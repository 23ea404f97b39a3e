//! Feed-forward parts of a decoder: gated, plain, and mixtures of experts.

use super::decoder::{Act, Feed};
use super::entry::{Entry, scaled};
use crate::compose::gelu;
use crate::error::ImportError;
use lockstep_graph::op::{Binary, Reduce, Unary};
use lockstep_graph::{DType, GraphBuilder, Op, OpError, ValueId, Weights};

impl Entry<'_> {
    pub fn gated(&mut self, at: &str, x: ValueId, inner: usize, bias: bool) -> Result<ValueId, ImportError> {
        let hidden = self.d.hidden;
        let gate = self.linear(x, &format!("{at}.gate_proj"), hidden, inner, bias)?;
        let up = self.linear(x, &format!("{at}.up_proj"), hidden, inner, bias)?;
        let product = self.gate(at, gate, up)?;
        self.linear(product, &format!("{at}.down_proj"), inner, hidden, bias)
    }

    /// act(gate) · up.
    fn gate(&mut self, at: &str, gate: ValueId, up: ValueId) -> Result<ValueId, ImportError> {
        self.net.at(at, "GatedUnit");
        let act = self.d.act;
        self.build(|b| {
            let gate = activate(b, act, gate)?;
            b.binary(Binary::Mul, gate, up)
        })
    }

    pub fn plain(&mut self, at: &str, x: ValueId, inner: usize) -> Result<ValueId, ImportError> {
        let (hidden, act) = (self.d.hidden, self.d.act);
        let wide = self.transposed(x, &format!("{at}.c_fc"), hidden, inner)?;
        let active = self.build(|b| activate(b, act, wide))?;
        self.transposed(active, &format!("{at}.c_proj"), inner, hidden)
    }

    /// A mixture of experts. Where a run has fewer active experts than there are, their weights are gathered; else all run and the others
    /// get weight 0.
    pub fn experts(&mut self, at: &str, x: ValueId, feed: Feed) -> Result<ValueId, ImportError> {
        let Feed::Experts {
            inner,
            experts,
            active,
            normalise,
            mixtral,
        } = feed
        else {
            return Ok(x);
        };
        let (n, hidden, act) = (self.size.batch * self.size.tokens, self.d.hidden, self.d.act);
        let (at, parts) = if mixtral {
            (format!("{at}.block_sparse_moe"), ["w1", "w3", "w2"])
        } else {
            (format!("{at}.mlp"), ["gate_proj", "up_proj", "down_proj"])
        };
        let router = self.linear(x, &format!("{at}.gate"), hidden, experts, false)?;
        self.net.at(&format!("{at}.gate"), "Router");
        let (rows, router) = self.build(|b| Ok((b.reshape(x, [n, 1, hidden])?, b.reshape(router, [n, experts])?)))?;
        // The active experts one after another: the best, then the best of the rest; equal ones by their number.
        let (chosen, shares) = self.build(|b| {
            let mut left = b.op(Op::Softmax { axis: 1, log: false }, &[router])?;
            let steps: Vec<i32> = (0..experts as i32).collect();
            let steps = b.constant("", DType::I32, [1, experts], Weights::from(steps.as_slice()))?;
            let (mut chosen, mut shares) = (Vec::new(), Vec::new());
            for _ in 0..active {
                let best = b.op(
                    Op::Arg {
                        max: true,
                        axis: 1,
                        keepdims: true,
                        last: false,
                    },
                    &[left],
                )?;
                let best = b.cast(best, DType::I32)?;
                shares.push(b.reduce(Reduce::Max, left, &[1], true)?);
                let here = b.binary(Binary::Eq, steps, best)?;
                let gone = b.scalar_like(left, -1.0);
                left = b.select(here, gone, left)?;
                chosen.push(best);
            }
            let mut shares = b.concat(&shares, 1)?;
            if normalise {
                let sum = b.reduce(Reduce::Sum, shares, &[1], true)?;
                shares = b.binary(Binary::Div, shares, sum)?;
            }
            Ok((b.concat(&chosen, 1)?, shares))
        })?;
        let mut stacks = Vec::new();
        for (part, name) in parts.iter().enumerate() {
            let shape = if part == 2 { [hidden, inner] } else { [inner, hidden] };
            let mut all = Vec::new();
            for expert in 0..experts {
                let name = format!("{at}.experts.{expert}.{name}.weight");
                self.net.at(&name, "Expert");
                all.push(self.net.matrix(&name, &shape)?);
            }
            let scales: Option<Vec<ValueId>> = all.iter().map(|matrix| matrix.scale).collect();
            stacks.push(self.build(|b| {
                let mut stacked = |all: Vec<ValueId>, shape: &[usize]| {
                    let mut each = Vec::new();
                    for one in all {
                        each.push(b.reshape(one, shape)?);
                    }
                    b.concat(&each, 0)
                };
                let values = stacked(all.iter().map(|m| m.value).collect(), &[1, shape[0], shape[1]])?;
                let scales = scales.map(|scales| stacked(scales, &[1, 1, shape[0]])).transpose()?;
                Ok((values, scales))
            })?);
        }
        self.net.at(&at, "Experts");
        let gather = n * active < experts;
        let (batch, tokens) = (self.size.batch, self.size.tokens);
        self.build(|b| {
            // Weights [n or 1, experts or active, outputs, inputs]; shares [n, the same].
            // Their scales are [the same two, 1, outputs].
            let mut weights = Vec::new();
            for &(stack, scales) in &stacks {
                let mut of = |stack: ValueId| match gather {
                    true => b.op(Op::Gather { axis: 0 }, &[stack, chosen]),
                    false => {
                        let s = b.shape(stack).to_vec();
                        b.reshape(stack, [1, s[0], s[1], s[2]])
                    }
                };
                let (weight, scales) = (of(stack)?, scales.map(of).transpose()?);
                let weight = b.cast(weight, DType::F32)?;
                weights.push((b.transpose(weight, &[0, 1, 3, 2])?, scales));
            }
            let product = |b: &mut GraphBuilder, x: ValueId, part: usize| {
                let (weight, scales) = weights[part];
                scaled(b, x, weight, scales)
            };
            let m = if gather { active } else { experts };
            let shares = match gather {
                true => shares,
                false => {
                    let steps: Vec<i32> = (0..experts as i32).collect();
                    let steps = b.constant("", DType::I32, [1, 1, experts], Weights::from(steps.as_slice()))?;
                    let chosen = b.reshape(chosen, [n, active, 1])?;
                    let here = b.binary(Binary::Eq, chosen, steps)?;
                    let shares = b.reshape(shares, [n, active, 1])?;
                    let none = b.scalar_like(shares, 0.0);
                    let spread = b.select(here, shares, none)?;
                    b.reduce(Reduce::Sum, spread, &[1], false)?
                }
            };
            let x = b.reshape(rows, [n, 1, 1, hidden])?;
            let gate = product(b, x, 0)?;
            let up = product(b, x, 1)?;
            let gate = activate(b, act, gate)?;
            let inner = b.binary(Binary::Mul, gate, up)?;
            let each = product(b, inner, 2)?;
            let each = b.reshape(each, [n, m, hidden])?;
            let shares = b.reshape(shares, [n, m, 1])?;
            let weighted = b.binary(Binary::Mul, each, shares)?;
            let sum = b.reduce(Reduce::Sum, weighted, &[1], false)?;
            b.reshape(sum, [batch, tokens, hidden])
        })
    }
}

fn activate(b: &mut GraphBuilder, act: Act, x: ValueId) -> Result<ValueId, OpError> {
    match act {
        Act::Silu => {
            let gate = b.unary(Unary::Sigmoid, x)?;
            b.binary(Binary::Mul, x, gate)
        }
        Act::Gelu { tanh } => gelu(b, x, tanh),
        Act::Relu => b.unary(Unary::Relu, x),
    }
}
