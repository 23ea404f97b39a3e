//! Matrix products: one `contract`, whose batch axes are the leading axes that both operands have.

use super::{Lowering, Res, Site, dtype};
use crate::tir::{ReduceOp, ValueId};

/// Most elementwise products of an integer product wider than 8 bits, which multiplies and sums on the vector unit.
pub(super) const MAX_INT_PRODUCTS: usize = 1 << 24;

impl<'a> Lowering<'a> {
    pub(super) fn matmul(&mut self, s: &Site<'a>) -> Res<ValueId> {
        if let Some(product) = self.quantised_matmul(s)? {
            let product = self.b.reshape(product, s.out_shape())?;
            return self.elementwise(dtype(s.out_dtype()), s.out_shape(), &[product], |_, x| x[0]);
        }
        let (mut a_shape, mut b_shape) = (s.shape(0).to_vec(), s.shape(1).to_vec());
        if a_shape.len() == 1 {
            a_shape.insert(0, 1);
        }
        if b_shape.len() == 1 {
            b_shape.push(1);
        }
        let a = self.b.reshape(s.x[0], &a_shape)?;
        let b = self.b.reshape(s.x[1], &b_shape)?;
        let product = if dtype(s.dtype(0)).is_float() {
            self.batched(a, b)?
        } else {
            self.matmul_int(a, b)?
        };
        let product = self.b.reshape(product, s.out_shape())?;
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &[product], |_, x| x[0])
    }

    /// `[.., m, k] x [.., k, n]` to `[broadcast.., m, n]`, leading axes broadcast as in numpy.
    pub(super) fn batched(&mut self, a: ValueId, b: ValueId) -> Res<ValueId> {
        let (sa, sb) = (self.b.shape(a).to_vec(), self.b.shape(b).to_vec());
        let (ra, rb) = (sa.len() - 2, sb.len() - 2);
        if rb == 0 || sa[..ra] == sb[..rb] {
            // Free axes of the left come before those of the right: this is the result's order.
            let batch: Vec<_> = (0..rb).map(|d| (d, d)).collect();
            return Ok(self.b.contract(a, b, &batch, &[(ra + 1, rb)])?);
        }
        // Leading axes of extent 1 go; one that a single operand has is a free axis of it.
        let rank = ra.max(rb);
        let dim = |s: &[usize], own: usize, d: usize| (d + own).checked_sub(rank).map_or(1, |at| s[at]);
        let (mut batch, mut full) = (Vec::new(), Vec::new());
        let (mut keep_a, mut keep_b) = (Vec::new(), Vec::new());
        let (mut of_batch, mut of_a, mut of_b) = (Vec::new(), Vec::new(), Vec::new());
        for d in 0..rank {
            let (na, nb) = (dim(&sa, ra, d), dim(&sb, rb, d));
            full.push(na.max(nb));
            match (na, nb) {
                (1, 1) => {}
                (na, 1) => {
                    of_a.push(d);
                    keep_a.push(na);
                }
                (1, nb) => {
                    of_b.push(d);
                    keep_b.push(nb);
                }
                (na, nb) => {
                    of_batch.push(d);
                    batch.push((keep_a.len(), keep_b.len()));
                    keep_a.push(na);
                    keep_b.push(nb);
                }
            }
        }
        let contracted = [(keep_a.len() + 1, keep_b.len())];
        keep_a.extend(&sa[ra..]);
        keep_b.extend(&sb[rb..]);
        let a = self.b.reshape(a, &keep_a)?;
        let b = self.b.reshape(b, &keep_b)?;
        let product = self.b.contract(a, b, &batch, &contracted)?;
        // The product's axes are batch, left, m, right, n; the result wants all leading axes by position, then m, n.
        let order: Vec<usize> = [&of_batch[..], &of_a, &[rank], &of_b, &[rank + 1]].concat();
        let mut perm: Vec<usize> = (0..order.len()).collect();
        perm.sort_by_key(|&at| order[at]);
        let product = self.b.transpose(product, &perm)?;
        full.extend([sa[ra], sb[rb + 1]]);
        Ok(self.b.reshape(product, &full)?)
    }

    /// Integers wider than 8 bits: products and their sum on the vector unit, exact modulo 2^32.
    fn matmul_int(&mut self, a: ValueId, b: ValueId) -> Res<ValueId> {
        let rank = self.b.shape(a).len().max(self.b.shape(b).len());
        let (a, b) = (self.align(a, rank)?, self.align(b, rank)?);
        let (mut sa, mut sb) = (self.b.shape(a).to_vec(), self.b.shape(b).to_vec());
        sa.push(1);
        sb.insert(rank - 2, 1);
        let products = sa.iter().zip(&sb).map(|(&x, &y)| x.max(y)).product::<usize>();
        if products > MAX_INT_PRODUCTS {
            return Err(format!(
                "an integer product of {products} multiplications, allowed: {MAX_INT_PRODUCTS}, or 8-bit operands"
            )
            .into());
        }
        let (a, b) = (self.b.reshape(a, &sa)?, self.b.reshape(b, &sb)?);
        let terms = self.b.map(&[a, b], |e, x| e.mul(x[0], x[1]))?;
        let sum = self.b.reduce(ReduceOp::Add, terms, &[rank - 1])?;
        let mut shape = self.b.shape(sum).to_vec();
        shape.remove(rank - 1);
        Ok(self.b.reshape(sum, &shape)?)
    }
}
