//! Convolutions: channels-last windows and a `contract` over (kernel positions, channels), or a chain of fused multiply-adds
//! over the taps where every channel is a group of its own.

use super::{Lowering, Res, Site, dtype};
use crate::tir::expr::Ex;
use crate::tir::{IndexMap, ReduceOp, ValueId, Windows};
use lockstep_graph::op::{Conv, ConvTranspose};

/// Taps per map of a depthwise convolution: with the weights and the sum so far as many operands as a chain can stream.
const TAPS_PER_MAP: usize = 5;
/// Most channels of a convolution in groups that is one product with zeros between the groups.
const MAX_DENSE: usize = 1024;

impl<'a> Lowering<'a> {
    pub(super) fn conv(&mut self, s: &Site<'a>, attr: &Conv) -> Res<ValueId> {
        let windows = Windows {
            kernel: s.shape(1)[2..].to_vec(),
            strides: attr.strides.clone(),
            dilations: attr.dilations.clone(),
            pads: attr.pads.clone(),
        };
        if let Some(product) = self.quantised_conv(s, &windows, attr)? {
            return self.biased(s, product);
        }
        if s.dtype(1).is_int8() {
            return Err("8-bit weights whose differences from their zero point are no i8, allowed: i8 weights".into());
        }
        let product = if s.dtype(0).is_float() {
            let x = self.channels_last(s.x[0])?;
            self.windowed(x, s.x[1], &windows, attr.groups, 0)?
        } else {
            self.conv_int(s, &windows, attr.groups)?
        };
        self.biased(s, product)
    }

    /// Integers wider than 8 bits: products and their sum on the vector unit, exact modulo 2^32.
    fn conv_int(&mut self, s: &Site<'a>, windows: &Windows, groups: usize) -> Res<ValueId> {
        let (ws, spatial) = (s.shape(1).to_vec(), windows.kernel.len());
        let products = s.out_shape().iter().product::<usize>() * ws[1..].iter().product::<usize>();
        if groups != 1 || products > super::matmul::MAX_INT_PRODUCTS {
            let allowed = super::matmul::MAX_INT_PRODUCTS;
            return Err(format!(
                "{} operands with {groups} groups and {products} multiplications, allowed: 1 group and {allowed}, or floats and 8-bit integers",
                s.dtype(0)
            )
            .into());
        }
        let x = self.channels_last(s.x[0])?;
        let columns = self.b.move_one(x, IndexMap::im2col(self.b.shape(x), windows), 0)?;
        // Columns [n, d'.., 1, k * c], weights [o, k * c].
        let (rows, depth) = (self.b.shape(columns)[..=spatial].to_vec(), ws[1..].iter().product());
        let columns = self.b.reshape(columns, &[&rows[..], &[1, depth]].concat())?;
        let w = self.channels_last(s.x[1])?;
        let mut along = vec![1; spatial + 1];
        along.extend([ws[0], depth]);
        let w = self.b.reshape(w, &along)?;
        let terms = self.b.map(&[columns, w], |e, x| e.mul(x[0], x[1]))?;
        let sum = self.b.reduce(ReduceOp::Add, terms, &[spatial + 2])?;
        let sum = self.b.reshape(sum, &[&rows[..], &[ws[0]]].concat())?;
        self.channels_first(sum)
    }

    /// Adds the bias, if there is one, and narrows to the result dtype.
    fn biased(&mut self, s: &Site<'a>, product: ValueId) -> Res<ValueId> {
        let shape = s.out_shape();
        let mut operands = vec![product];
        if let Some(&bias) = s.x.get(2) {
            let mut along = vec![1; shape.len()];
            along[1] = shape[1];
            operands.push(self.b.reshape(bias, &along)?);
        }
        self.elementwise(dtype(s.out_dtype()), shape, &operands, |e, x| match *x {
            [x, bias] => e.add(x, bias),
            _ => x[0],
        })
    }

    /// `[n, c, d..]` to `[n, d.., c]`.
    pub(super) fn channels_last(&mut self, x: ValueId) -> Res<ValueId> {
        let rank = self.b.shape(x).len();
        let perm: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
        Ok(self.b.transpose(x, &perm)?)
    }

    /// `[n, d.., c]` to `[n, c, d..]`.
    pub(super) fn channels_first(&mut self, x: ValueId) -> Res<ValueId> {
        let rank = self.b.shape(x).len();
        let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        Ok(self.b.transpose(x, &perm)?)
    }

    /// `x [n, d.., c]`, `w [o, c / groups, k..]` to `[n, o, d'..]`, products summed over (k.., c) ascending.
    pub(super) fn windowed(
        &mut self,
        x: ValueId,
        w: ValueId,
        windows: &Windows,
        groups: usize,
        fill: u32,
    ) -> Res<ValueId> {
        let spatial = windows.kernel.len();
        let (xs, ws) = (self.b.shape(x).to_vec(), self.b.shape(w).to_vec());
        let channels = xs[spatial + 1];
        if groups == channels && ws[1] == 1 && ws[0] == channels && self.b.dtype(x).is_float() {
            return self.depthwise(x, w, windows);
        }
        let point = windows.kernel.iter().all(|&k| k == 1) && windows.pads.iter().all(|&p| p == (0, 0));
        // Columns [n, d'.., k.., c]; without the kernel axes where the kernel is a point.
        let columns = if point {
            let mut ranges = vec![(0, 1, xs[0])];
            ranges.extend((0..spatial).map(|d| (0, windows.strides[d] as isize, windows.count(d, xs[1 + d]))));
            ranges.push((0, 1, channels));
            self.b.narrow(x, &ranges)?
        } else {
            self.b.move_one(x, IndexMap::im2col(&xs, windows), fill)?
        };
        let kernel: &[usize] = if point { &[] } else { &windows.kernel };
        let mut cs = self.b.shape(columns).to_vec();
        let k = kernel.len();
        if groups == 1 {
            // Weights [k.., c, o].
            let w = self.b.reshape(w, &[&ws[..2], kernel].concat())?;
            let perm: Vec<usize> = (2..2 + k).chain([1, 0]).collect();
            let w = self.b.transpose(w, &perm)?;
            let contracted: Vec<_> = (0..=k).map(|i| (spatial + 1 + i, i)).collect();
            let product = self.b.contract(columns, w, &[], &contracted)?;
            return self.channels_first(product);
        }
        if self.b.is_const(w) && channels.max(ws[0]) <= MAX_DENSE {
            let w = self.b.reshape(w, &[&ws[..2], kernel].concat())?;
            let w = self.block_diagonal(w, groups)?;
            let contracted: Vec<_> = (0..=k).map(|i| (spatial + 1 + i, i)).collect();
            let product = self.b.contract(columns, w, &[], &contracted)?;
            return self.channels_first(product);
        }
        // Columns [n, d'.., k.., g, c/g]; weights [g, k.., c/g, o/g]; product [g, n, d'.., o/g].
        cs.pop();
        cs.extend([groups, channels / groups]);
        let columns = self.b.reshape(columns, &cs)?;
        let (og, cg) = (ws[0] / groups, ws[1]);
        let w = self.b.reshape(w, &[&[groups, og, cg], kernel].concat())?;
        let perm: Vec<usize> = std::iter::once(0).chain(3..3 + k).chain([2, 1]).collect();
        let w = self.b.transpose(w, &perm)?;
        let mut contracted: Vec<_> = (0..k).map(|i| (spatial + 1 + i, 1 + i)).collect();
        contracted.push((spatial + 2 + k, 1 + k));
        let product = self.b.contract(columns, w, &[(spatial + 1 + k, 0)], &contracted)?;
        let perm: Vec<usize> = [1, 0, spatial + 2].into_iter().chain(2..spatial + 2).collect();
        let product = self.b.transpose(product, &perm)?;
        let mut shape = self.b.shape(product).to_vec();
        shape.splice(1..3, [ws[0]]);
        Ok(self.b.reshape(product, &shape)?)
    }

    /// Weights `[o, c / groups, k..]` of all groups as those of one, `[k.., c, o]`: zero where an output is of another group than an
    /// input. The groups then lie side by side in one tile, and their channels stay together.
    fn block_diagonal(&mut self, w: ValueId, groups: usize) -> Res<ValueId> {
        let ws = self.b.shape(w).to_vec();
        let (og, cg, k) = (ws[0] / groups, ws[1], ws.len() - 2);
        // Of [g, g + 1, x] with zeros behind the first of the second axis, the first g * g * x elements are [g, g, x] with the
        // groups on the diagonal.
        let x = ws.iter().product::<usize>() / groups;
        let own = self.b.reshape(w, &[groups, 1, x])?;
        let padded = self.b.pad(own, &[(0, 0), (0, groups), (0, 0)], 0)?;
        let flat = self.b.reshape(padded, &[groups * (groups + 1) * x])?;
        let square = self.b.narrow_axis(flat, 0, 0, groups * groups * x)?;
        let square = self
            .b
            .reshape(square, &[&[groups, groups, og, cg], &ws[2..]].concat())?;
        let perm: Vec<usize> = (4..4 + k).chain([0, 3, 1, 2]).collect();
        let dense = self.b.transpose(square, &perm)?;
        Ok(self.b.reshape(dense, &[&ws[2..], &[groups * cg, ws[0]]].concat())?)
    }

    /// Every channel with its own kernel: fma over the taps in kernel order, a few taps per map.
    fn depthwise(&mut self, x: ValueId, w: ValueId, windows: &Windows) -> Res<ValueId> {
        let spatial = windows.kernel.len();
        let channels = self.b.shape(w)[0];
        let n_taps: usize = windows.kernel.iter().product();
        let taps = self.taps(x, windows, 0)?;
        // Weights [taps, c], one row per tap.
        let w = self.b.reshape(w, &[channels, n_taps])?;
        let w = self.b.transpose(w, &[1, 0])?;
        let mut along = vec![1; spatial + 2];
        along[spatial + 1] = channels;
        let shape = self.b.shape(taps[0]).to_vec();
        let mut sum: Option<ValueId> = None;
        for (group, taps) in taps.chunks(TAPS_PER_MAP).enumerate() {
            let mut operands = Vec::new();
            for (i, &tap) in taps.iter().enumerate() {
                let row = self.b.narrow_axis(w, 0, group * TAPS_PER_MAP + i, 1)?;
                operands.extend([tap, self.b.reshape(row, &along)?]);
            }
            operands.extend(sum);
            let n = taps.len();
            // Not through `elementwise`: with one channel the weights are scalars, and the order must not depend on that.
            sum = Some(self.b.map_to(&shape, &operands, |e, x| {
                let mut acc = x.get(2 * n).copied().unwrap_or(Ex::f32(0.0));
                for i in 0..n {
                    acc = e.fma(x[2 * i], x[2 * i + 1], acc);
                }
                acc
            })?);
        }
        let sum = sum.ok_or("an empty kernel")?;
        self.channels_first(sum)
    }

    /// For every kernel position, in order, the elements of `x [n, d.., c]` that it meets: `[n, d'.., c]` each.
    pub(super) fn taps(&mut self, x: ValueId, windows: &Windows, fill: u32) -> Res<Vec<ValueId>> {
        let spatial = windows.kernel.len();
        let shape = self.b.shape(x).to_vec();
        let mut pads = vec![(0, 0)];
        pads.extend(&windows.pads);
        pads.push((0, 0));
        let padded = self.b.pad(x, &pads, fill)?;
        let n_taps: usize = windows.kernel.iter().product();
        let mut taps = Vec::with_capacity(n_taps);
        for tap in 0..n_taps {
            let mut rest = tap;
            let mut at = vec![0; spatial];
            for d in (0..spatial).rev() {
                at[d] = rest % windows.kernel[d] * windows.dilations[d];
                rest /= windows.kernel[d];
            }
            let mut ranges = vec![(0, 1, shape[0])];
            ranges.extend((0..spatial).map(|d| (at[d], windows.strides[d] as isize, windows.count(d, shape[1 + d]))));
            ranges.push((0, 1, shape[spatial + 1]));
            taps.push(self.b.narrow(padded, &ranges)?);
        }
        Ok(taps)
    }

    /// A convolution of the zero-inserted input with the mirrored kernel; where windows do not overlap, a product per input element.
    pub(super) fn conv_transpose(&mut self, s: &Site<'a>, attr: &ConvTranspose) -> Res<ValueId> {
        let ws = s.shape(1).to_vec();
        let (spatial, groups) = (ws.len() - 2, attr.groups);
        let x = self.channels_last(s.x[0])?;
        let xs = self.b.shape(x).to_vec();
        let disjoint = groups == 1
            && (0..spatial).all(|d| {
                ws[2 + d] == attr.strides[d]
                    && attr.dilations[d] == 1
                    && attr.pads[d] == (0, 0)
                    && attr.output_padding[d] == 0
            });
        if disjoint {
            // [n, d.., c] x [c, o, k..] to [n, d.., o, k..], then [n, o, d0, k0, d1, k1, ..].
            let product = self.b.contract(x, s.x[1], &[], &[(spatial + 1, 0)])?;
            let mut perm = vec![0, spatial + 1];
            (0..spatial).for_each(|d| perm.extend([1 + d, spatial + 2 + d]));
            let product = self.b.transpose(product, &perm)?;
            let product = self.b.reshape(product, s.out_shape())?;
            return self.biased(s, product);
        }
        // Weights [c, o/g, k..] to [o, c/g, k mirrored].
        let (c, og) = (ws[0], ws[1]);
        let mirror: Vec<_> = ws
            .iter()
            .enumerate()
            .map(|(d, &n)| if d < 2 { (0, 1, n) } else { (n - 1, -1, n) })
            .collect();
        let w = self.b.narrow(s.x[1], &mirror)?;
        let w = self.b.reshape(w, &[&[groups, c / groups, og], &ws[2..]].concat())?;
        let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..3 + spatial).collect();
        let w = self.b.transpose(w, &perm)?;
        let w = self.b.reshape(w, &[&[groups * og, c / groups], &ws[2..]].concat())?;
        let mut steps = vec![1];
        steps.extend(&attr.strides);
        steps.push(1);
        let spread = self.b.move_one(x, IndexMap::dilate(&xs, &steps), 0)?;
        // What the full convolution would pad, less what is cut off; a cut beyond that narrows the operand.
        let mut pads = Vec::new();
        let mut ranges: Vec<_> = self.b.shape(spread).iter().map(|&n| (0, 1, n)).collect();
        for d in 0..spatial {
            let reach = ((ws[2 + d] - 1) * attr.dilations[d]) as isize;
            let before = reach - attr.pads[d].0 as isize;
            let after = reach - attr.pads[d].1 + attr.output_padding[d] as isize;
            let range = &mut ranges[1 + d];
            let cut = (-before).max(0) as usize + (-after).max(0) as usize;
            if cut >= range.2 {
                return Err("pads that cut off the whole input".into());
            }
            *range = ((-before).max(0) as usize, 1, range.2 - cut);
            pads.push((before.max(0) as usize, after.max(0) as usize));
        }
        let spread = self.b.narrow(spread, &ranges)?;
        let windows = Windows {
            kernel: ws[2..].to_vec(),
            strides: vec![1; spatial],
            dilations: attr.dilations.clone(),
            pads,
        };
        let product = self.windowed(spread, w, &windows, groups, 0)?;
        self.biased(s, product)
    }
}
