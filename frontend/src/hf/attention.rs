//! Attention of a decoder over keys and values in states.

use super::decoder::{EntrySize, Naming};
use super::entry::{Entry, soft_cap};
use crate::error::ImportError;
use lockstep_graph::op::{Binary, Combine, Range};
use lockstep_graph::{DType, GraphBuilder, Op, OpError, ValueId, Weights};

impl Entry<'_> {
    /// Queries [batch, tokens, heads, head], keys and values [batch, tokens, kv heads, head], before rotation.
    fn query_key_value(&mut self, at: &str, x: ValueId) -> Result<[ValueId; 3], ImportError> {
        let (EntrySize { batch, tokens, .. }, hidden) = (self.size, self.d.hidden);
        let a = self.d.attention;
        let mut all = Vec::new();
        if self.d.naming == Naming::Gpt2 {
            // One matrix [inputs, 3 x outputs] for all three.
            let name = format!("{at}.attn.c_attn");
            self.net.at(&name, "Linear");
            let weight = self.net.weight(&format!("{name}.weight"), &[hidden, 3 * hidden])?;
            let bias = self.net.weight(&format!("{name}.bias"), &[3 * hidden])?;
            for part in 0..3 {
                let range = Range::of(part * hidden, (part + 1) * hidden);
                let value = self.build(|b| {
                    let weight = b.narrow(weight, 1, range)?;
                    let weight = b.cast(weight, DType::F32)?;
                    let bias = b.narrow(bias, 0, range)?;
                    let bias = b.cast(bias, DType::F32)?;
                    let product = b.matmul(x, weight)?;
                    b.binary(Binary::Add, product, bias)
                })?;
                all.push(value);
            }
        } else {
            for (name, heads) in [("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads)] {
                let name = format!("{at}.self_attn.{name}_proj");
                all.push(self.linear(x, &name, hidden, heads * a.head, a.bias_in)?);
            }
        }
        let mut out = [x; 3];
        for (n, (value, heads)) in all.into_iter().zip([a.heads, a.kv_heads, a.kv_heads]).enumerate() {
            out[n] = self.build(|b| b.reshape(value, [batch, tokens, heads, a.head]))?;
        }
        Ok(out)
    }

    pub fn attention(&mut self, layer: usize, at: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let EntrySize {
            batch,
            tokens,
            context,
            window,
        } = self.size;
        let (d, a) = (self.d, self.d.attention);
        let plan = d.layers[layer];
        let [mut query, mut key, value] = self.query_key_value(at, x)?;
        if a.norm {
            query = self.norm_of(query, &format!("{at}.self_attn.q_norm"), a.head)?;
            key = self.norm_of(key, &format!("{at}.self_attn.k_norm"), a.head)?;
        }
        self.net.at(&format!("{at}.self_attn"), "Attention");
        if let Some(&(cos, sin)) = self.rotations.get(plan.rope) {
            query = self.build(|b| rotate(b, query, cos, sin))?;
            key = self.build(|b| rotate(b, key, cos, sin))?;
        }
        let keys = self.remember(&format!("{layer}.key"), key)?;
        let values = self.remember(&format!("{layer}.value"), value)?;
        let mask = self.mask(plan.window)?;
        let groups = a.heads / a.kv_heads;
        let mixed = self.build(|b| {
            // States [batch, window, kv heads, head]; queries [batch, kv heads, groups x tokens, head].
            let mut seen = |state: ValueId, perm: [usize; 4]| {
                let state = b.reshape(state, [batch, context, a.kv_heads, a.head])?;
                let state = b.narrow(state, 1, Range::of(0, window))?;
                b.transpose(state, &perm)
            };
            let keys = seen(keys, [0, 2, 3, 1])?;
            let values = seen(values, [0, 2, 1, 3])?;
            let query = b.reshape(query, [batch, tokens, a.kv_heads, groups, a.head])?;
            let query = b.transpose(query, &[0, 2, 3, 1, 4])?;
            let query = b.reshape(query, [batch, a.kv_heads, groups * tokens, a.head])?;
            let scores = b.matmul(query, keys)?;
            let mut scores = b.binary_scalar(Binary::Mul, scores, a.scale)?;
            if let Some(cap) = a.softcap {
                scores = soft_cap(b, scores, cap)?;
            }
            let scores = b.reshape(scores, [batch, a.kv_heads, groups, tokens, window])?;
            let hole = b.scalar_like(scores, f64::from(f32::MIN));
            let scores = b.select(mask, scores, hole)?;
            let weights = b.op(Op::Softmax { axis: 4, log: false }, &[scores])?;
            let weights = b.reshape(weights, [batch, a.kv_heads, groups * tokens, window])?;
            let mixed = b.matmul(weights, values)?;
            let mixed = b.reshape(mixed, [batch, a.kv_heads, groups, tokens, a.head])?;
            let mixed = b.transpose(mixed, &[0, 3, 1, 2, 4])?;
            b.reshape(mixed, [batch, tokens, a.heads * a.head])
        })?;
        match d.naming {
            Naming::Llama => self.linear(
                mixed,
                &format!("{at}.self_attn.o_proj"),
                a.heads * a.head,
                d.hidden,
                a.bias_out,
            ),
            Naming::Gpt2 => self.transposed(mixed, &format!("{at}.attn.c_proj"), d.hidden, d.hidden),
        }
    }

    /// Scatters [batch, tokens, kv heads, head] into a state; the state after it.
    fn remember(&mut self, name: &str, rows: ValueId) -> Result<ValueId, ImportError> {
        let (size, a) = (self.size, self.d.attention);
        let shape = [size.batch * size.context, a.kv_heads, a.head];
        let at = self.cache_rows;
        let state = self.net.b.input(&format!("past.{name}"), DType::F32, shape);
        let state = state.map_err(|error| self.net.fail(error))?;
        let next = self.build(|b| {
            let combine = Combine::Set;
            b.op(Op::ScatterNd { combine }, &[state, at.unwrap_or(state), rows])
        })?;
        let input = self.net.b.graph().inputs.len().saturating_sub(1);
        self.net.b.private_state(&format!("present.{name}"), next, input);
        Ok(next)
    }

    /// Which positions a token attends to: its own and those before it, no further back than the window.
    fn mask(&mut self, sliding: Option<usize>) -> Result<ValueId, ImportError> {
        let EntrySize {
            batch, tokens, window, ..
        } = self.size;
        let sliding = sliding.filter(|&far| far < window);
        if let Some((_, mask)) = self.masks.iter().find(|(of, _)| *of == sliding) {
            return Ok(*mask);
        }
        let positions = self.positions;
        let mask = self.build(|b| {
            let steps: Vec<i32> = (0..window as i32).collect();
            let steps = b.constant("", DType::I32, [1, 1, 1, 1, window], Weights::from(steps.as_slice()))?;
            let own = b.reshape(positions.unwrap_or(steps), [batch, 1, 1, tokens, 1])?;
            let past = b.binary(Binary::Le, steps, own)?;
            let Some(far) = sliding else { return Ok(past) };
            let edge = b.binary_scalar(Binary::Sub, own, far as f64)?;
            let near = b.binary(Binary::Gt, steps, edge)?;
            b.binary(Binary::And, past, near)
        })?;
        self.masks.push((sliding, mask));
        Ok(mask)
    }
}

/// x · cos + (x with the halves of the last axis exchanged) · sin.
fn rotate(b: &mut GraphBuilder, x: ValueId, cos: ValueId, sin: ValueId) -> Result<ValueId, OpError> {
    let shape = b.shape(x).to_vec();
    let Some((axis, &head)) = shape.iter().enumerate().next_back() else {
        return Ok(x);
    };
    let upper = b.narrow(x, axis, Range::of(head / 2, head))?;
    let lower = b.narrow(x, axis, Range::of(0, head / 2))?;
    let swapped = b.concat(&[upper, lower], axis)?;
    let straight = b.binary(Binary::Mul, x, cos)?;
    let crossed = b.binary(Binary::Mul, swapped, sin)?;
    b.binary(Binary::Add, straight, crossed)
}
