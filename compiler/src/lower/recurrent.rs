//! LSTM, GRU and plain RNN, unrolled over time.
//!
//! Gates are an axis of their own, `[b, gate, h]`, so that taking one gate never crosses lanes. The products of the inputs of all
//! steps are one contract before the loop; each step multiplies the hidden state alone. States are ordinary values.

use super::elementwise::{log1p, sigmoid};
use super::{Lowering, Res, Site, dtype};
use crate::tir::ValueId;
use crate::tir::expr::{Ex, Expr};
use lockstep_graph::op::{Activation, Cell, Direction, Recurrent};
use lockstep_isa::DType;

impl<'a> Lowering<'a> {
    pub(super) fn recurrent(&mut self, s: &Site<'a>, attr: &Recurrent) -> Res<Vec<ValueId>> {
        let batch = s.shape(0)[1];
        let hidden = attr.hidden;
        let mut sequences = Vec::new();
        let mut finals = Vec::new();
        for d in 0..attr.direction.count() {
            let reverse = attr.direction == Direction::Reverse || d == 1;
            let (outputs, last) = self.direction(s, attr, d, reverse)?;
            // Steps [b, h] to [t, 1, b, h].
            let mut parts = Vec::new();
            for y in outputs {
                parts.push(self.b.reshape(y, &[1, 1, batch, hidden])?);
            }
            sequences.push(self.b.concat(&parts, 0)?);
            finals.push(last);
        }
        let y = self.b.concat(&sequences, 1)?;
        let mut results = vec![y];
        let n_states = finals[0].len();
        for i in 0..n_states {
            let mut parts = Vec::new();
            for last in &finals {
                parts.push(self.b.reshape(last[i], &[1, batch, hidden])?);
            }
            results.push(self.b.concat(&parts, 0)?);
        }
        let to = dtype(s.out_dtype());
        for v in &mut results {
            let shape = self.b.shape(*v).to_vec();
            *v = self.elementwise(to, &shape, &[*v], |_, x| x[0])?;
        }
        Ok(results)
    }

    /// One direction: the outputs of all steps in time order, and the final states (h, for LSTM also c).
    fn direction(
        &mut self,
        s: &Site<'a>,
        attr: &Recurrent,
        d: usize,
        reverse: bool,
    ) -> Res<(Vec<ValueId>, Vec<ValueId>)> {
        let (steps, batch, features) = (s.shape(0)[0], s.shape(0)[1], s.shape(0)[2]);
        let (h, g) = (attr.hidden, attr.cell.n_gates());
        let part = |cx: &mut Self, i: usize, shape: &[usize]| -> Res<ValueId> {
            let v = cx.b.narrow_axis(s.x[i], 0, d, 1)?;
            Ok(cx.b.reshape(v, shape)?)
        };
        let w = part(self, 1, &[g, h, features])?;
        let r = part(self, 2, &[g, h, h])?;
        let bias = part(self, 3, &[2, g, h])?;
        let mut state = vec![part(self, 4, &[batch, h])?];
        if let Cell::Lstm { .. } = attr.cell {
            state.push(part(self, 5, &[batch, h])?);
        }
        let peephole = match attr.cell {
            Cell::Lstm { peephole: true } => Some(part(self, 6, &[3, h])?),
            _ => None,
        };
        // x-part of all steps: [t, b, i] x [g, h, i] to [t, b, g, h].
        let all = self.b.contract(s.x[0], w, &[], &[(2, 2)])?;
        let half = |cx: &mut Self, i: usize| -> Res<ValueId> {
            let v = cx.b.narrow_axis(bias, 0, i, 1)?;
            Ok(cx.b.reshape(v, &[1, 1, g, h])?)
        };
        let (bias_w, bias_r) = (half(self, 0)?, half(self, 1)?);
        let separate = matches!(
            attr.cell,
            Cell::Gru {
                linear_before_reset: true
            }
        );
        let shape = [steps, batch, g, h];
        let all = if separate {
            self.elementwise(DType::F32, &shape, &[all, bias_w], |e, x| e.add(x[0], x[1]))?
        } else {
            let both = self.elementwise(DType::F32, &[1, 1, g, h], &[bias_w, bias_r], |e, x| e.add(x[0], x[1]))?;
            self.elementwise(DType::F32, &shape, &[all, both], |e, x| e.add(x[0], x[1]))?
        };
        let activations = &attr.activations[d * attr.cell.n_activations()..][..attr.cell.n_activations()];
        let step = Step {
            attr,
            activations,
            r,
            bias_r,
            batch,
            peephole,
        };
        let mut outputs = vec![state[0]; steps];
        for i in 0..steps {
            let t = if reverse { steps - 1 - i } else { i };
            let x = self.b.narrow_axis(all, 0, t, 1)?;
            let x = self.b.reshape(x, &[batch, g, h])?;
            state = match attr.cell {
                Cell::Rnn => self.rnn_step(&step, x, &state)?,
                Cell::Lstm { .. } => self.lstm_step(&step, x, &state)?,
                Cell::Gru { linear_before_reset } => self.gru_step(&step, x, &state, linear_before_reset)?,
            };
            outputs[t] = state[0];
        }
        Ok((outputs, state))
    }

    /// `h [b, i] x r[first.., h, i]` to `[b, gates, h]`.
    fn recurrence(&mut self, step: &Step<'_>, h: ValueId, first: usize, gates: usize) -> Res<ValueId> {
        let r = self.b.narrow_axis(step.r, 0, first, gates)?;
        let h = self.as_dtype(h, r)?;
        Ok(self.b.contract(h, r, &[], &[(1, 2)])?)
    }

    /// The value in the dtype of another.
    fn as_dtype(&mut self, v: ValueId, like: ValueId) -> Res<ValueId> {
        let (to, shape) = (self.b.dtype(like), self.b.shape(v).to_vec());
        if self.b.dtype(v) == to {
            Ok(v)
        } else {
            self.elementwise(to, &shape, &[v], |_, x| x[0])
        }
    }

    /// Gate `i` of `[b, gates, h]`, as `[b, h]`.
    fn gate(&mut self, step: &Step<'_>, gates: ValueId, i: usize) -> Res<ValueId> {
        let v = self.b.narrow_axis(gates, 1, i, 1)?;
        Ok(self.b.reshape(v, &[step.batch, step.attr.hidden])?)
    }

    fn rnn_step(&mut self, step: &Step<'_>, x: ValueId, state: &[ValueId]) -> Res<Vec<ValueId>> {
        let r = self.recurrence(step, state[0], 0, 1)?;
        let (x, r) = (self.gate(step, x, 0)?, self.gate(step, r, 0)?);
        let shape = [step.batch, step.attr.hidden];
        Ok(vec![self.elementwise(DType::F32, &shape, &[x, r], |e, x| {
            step.act(e, 0, e.add(x[0], x[1]))
        })?])
    }

    /// Gates i, o, f, c.
    fn lstm_step(&mut self, step: &Step<'_>, x: ValueId, state: &[ValueId]) -> Res<Vec<ValueId>> {
        let r = self.recurrence(step, state[0], 0, 4)?;
        let shape = [step.batch, step.attr.hidden];
        let mut gates = Vec::new();
        for i in 0..4 {
            gates.push((self.gate(step, x, i)?, self.gate(step, r, i)?));
        }
        let peep = match step.peephole {
            Some(p) => (0..3)
                .map(|i| self.b.narrow_axis(p, 0, i, 1))
                .collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let c = state[1];
        let mut activated = Vec::new();
        // i, f and c see the old cell; p is in the order i, o, f.
        for (gate, function, p) in [(0, 0, Some(0)), (2, 0, Some(2)), (3, 1, None)] {
            let mut operands = vec![gates[gate].0, gates[gate].1];
            if let Some(&p) = p.and_then(|p: usize| peep.get(p)) {
                operands.extend([p, c]);
            }
            activated.push(self.elementwise(DType::F32, &shape, &operands, |e, x| {
                let sum = e.add(x[0], x[1]);
                step.act(e, function, if let [_, _, p, c] = *x { e.fma(p, c, sum) } else { sum })
            })?);
        }
        let (i, f, g) = (activated[0], activated[1], activated[2]);
        let next = self.elementwise(DType::F32, &shape, &[f, c, i, g], |e, x| {
            e.fma(x[0], x[1], e.mul(x[2], x[3]))
        })?;
        let mut operands = vec![gates[1].0, gates[1].1];
        if let Some(&p) = peep.get(1) {
            operands.extend([p, next]);
        }
        let o = self.elementwise(DType::F32, &shape, &operands, |e, x| {
            let sum = e.add(x[0], x[1]);
            step.act(e, 0, if let [_, _, p, c] = *x { e.fma(p, c, sum) } else { sum })
        })?;
        let y = self.elementwise(DType::F32, &shape, &[o, next], |e, x| {
            e.mul(x[0], step.act_free(e, 2, x[1]))
        })?;
        Ok(vec![y, next])
    }

    /// Gates z, r, h.
    fn gru_step(
        &mut self,
        step: &Step<'_>,
        x: ValueId,
        state: &[ValueId],
        linear_before_reset: bool,
    ) -> Res<Vec<ValueId>> {
        let shape = [step.batch, step.attr.hidden];
        let h = state[0];
        let n = if linear_before_reset { 3 } else { 2 };
        let products = self.recurrence(step, h, 0, n)?;
        let mut gates = Vec::new();
        for i in 0..2 {
            let mut operands = vec![self.gate(step, x, i)?, self.gate(step, products, i)?];
            if linear_before_reset {
                operands.push(self.bias(step, i)?);
            }
            gates.push(self.elementwise(DType::F32, &shape, &operands, |e, x| {
                let sum = e.add(x[0], x[1]);
                step.act(e, 0, x.get(2).map_or(sum, |&b| e.add(sum, b)))
            })?);
        }
        let (z, r) = (gates[0], gates[1]);
        let x = self.gate(step, x, 2)?;
        let candidate = if linear_before_reset {
            let (product, bias) = (self.gate(step, products, 2)?, self.bias(step, 2)?);
            self.elementwise(DType::F32, &shape, &[x, r, product, bias], |e, x| {
                step.act(e, 1, e.fma(x[1], e.add(x[2], x[3]), x[0]))
            })?
        } else {
            let reset = self.elementwise(DType::F32, &shape, &[r, h], |e, x| e.mul(x[0], x[1]))?;
            let product = self.recurrence(step, reset, 2, 1)?;
            let product = self.gate(step, product, 0)?;
            self.elementwise(DType::F32, &shape, &[x, product], |e, x| {
                step.act(e, 1, e.add(x[0], x[1]))
            })?
        };
        let y = self.elementwise(DType::F32, &shape, &[z, candidate, h], |e, x| {
            // (1 - z) h' + z h
            e.fma(x[0], x[2], e.mul(e.sub(Ex::f32(1.0), x[0]), x[1]))
        })?;
        Ok(vec![y])
    }

    /// Recurrent bias of gate `i`, as `[1, h]`.
    fn bias(&mut self, step: &Step<'_>, i: usize) -> Res<ValueId> {
        let v = self.b.narrow_axis(step.bias_r, 2, i, 1)?;
        Ok(self.b.reshape(v, &[1, step.attr.hidden])?)
    }
}

/// What all steps of one direction share.
struct Step<'s> {
    attr: &'s Recurrent,
    activations: &'s [Activation],
    /// `[g, h, i]`.
    r: ValueId,
    /// `[1, 1, g, h]`.
    bias_r: ValueId,
    batch: usize,
    /// `[3, h]` in the order i, o, f.
    peephole: Option<ValueId>,
}

impl Step<'_> {
    /// Activation `i` of a clipped sum.
    fn act(&self, e: &Expr, i: usize, x: Ex) -> Ex {
        let x = match self.attr.clip {
            Some(clip) => e.max(e.min(x, Ex::f32(clip)), Ex::f32(-clip)),
            None => x,
        };
        activation(e, self.activations[i], x)
    }

    /// Activation `i` of the cell state, which is not clipped.
    fn act_free(&self, e: &Expr, i: usize, x: Ex) -> Ex {
        activation(e, self.activations[i], x)
    }
}

fn activation(e: &Expr, kind: Activation, x: Ex) -> Ex {
    let f = Ex::f32;
    let negative = |y: Ex| e.select(e.lt(x, f(0.0)), y, x);
    match kind {
        Activation::Sigmoid => sigmoid(e, x),
        Activation::Tanh => e.tanh(x),
        Activation::Relu => e.max(x, f(0.0)),
        Activation::Affine { alpha, beta } => e.fma(x, f(alpha), f(beta)),
        Activation::LeakyRelu { alpha } => negative(e.mul(x, f(alpha))),
        Activation::ThresholdedRelu { alpha } => e.select(e.lt(x, f(alpha)), f(0.0), x),
        Activation::ScaledTanh { alpha, beta } => e.mul(f(alpha), e.tanh(e.mul(f(beta), x))),
        Activation::HardSigmoid { alpha, beta } => e.min(e.max(e.fma(x, f(alpha), f(beta)), f(0.0)), f(1.0)),
        Activation::Elu { alpha } => negative(e.mul(f(alpha), e.sub(e.exp(x), f(1.0)))),
        Activation::Softsign => e.div(x, e.add(f(1.0), e.abs(x))),
        Activation::Softplus => e.add(e.max(x, f(0.0)), log1p(e, e.exp(e.neg(e.abs(x))))),
    }
}
