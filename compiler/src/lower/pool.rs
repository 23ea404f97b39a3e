//! Pooling: a map over the taps of small windows; large windows, and those over few channels, axis by axis.
//!
//! A maximum along an axis is taken over twice as many elements in every step, since those of a window may overlap:
//!
//! ```text
//! window of 6:   2 = max(x, x + 1)   4 = max(2, 2 + 2)   6 = max(4, 4 + 2)
//! ```

use super::integer::Quantised;
use super::{Lowering, Res, Site, div_by, dtype, scalar_bits};
use crate::tir::expr::Ex;
use crate::tir::{ReduceOp, ValueId, Windows};
use lockstep_graph::op::{Pool, PoolKind, Scalar};
use lockstep_isa::{AluOp, DType};

/// Largest window (in elements) that is combined tap by tap.
const MAX_TAPS: usize = 25;
/// The last spatial axis is so many times the channels where it lies in lanes instead of them.
const FEW: usize = 3;
/// Taps per map.
const TAPS_PER_MAP: usize = 6;

impl<'a> Lowering<'a> {
    pub(super) fn pool(&mut self, s: &Site<'a>, attr: &Pool) -> Res<ValueId> {
        let spatial = attr.kernel.len();
        let max = attr.kind == PoolKind::Max;
        let (op, alu) = if max {
            (ReduceOp::Max, AluOp::Max)
        } else {
            (ReduceOp::Add, AluOp::Add)
        };
        // The greatest of numbers quantised alike is that of their bytes.
        let bytes = match max {
            true => self.bytes_of_one_scale(s)?,
            false => None,
        };
        let input = bytes.map_or(s.x[0], |bytes| bytes.q);
        let from = self.b.dtype(input);
        let pads = (0..spatial)
            .map(|d| (attr.pads[d].0, attr.pads[d].1 + attr.ceil_extra[d]))
            .collect();
        let windows = Windows {
            kernel: attr.kernel.clone(),
            strides: attr.strides.clone(),
            dilations: attr.dilations.clone(),
            pads,
        };
        let fill = match (max, from.is_float()) {
            (false, _) => 0,
            (true, true) => scalar_bits(Scalar::Float(f64::NEG_INFINITY), from),
            (true, false) => scalar_bits(Scalar::Int(i128::from(i32::MIN)), from),
        };
        let whole = windows.pads.iter().all(|&p| p == (0, 0))
            && s.shape(0)[2..] == attr.kernel[..]
            && attr.dilations.iter().all(|&d| d == 1);
        let pooled = if whole {
            let axes: Vec<usize> = (2..2 + spatial).collect();
            self.b.reduce(op, input, &axes)?
        } else {
            let few = s.shape(0)[1] * FEW <= s.shape(0)[1 + spatial];
            if few {
                self.along_axes(input, 2, &windows, fill, alu)?
            } else {
                let x = self.channels_last(input)?;
                let pooled = if attr.kernel.iter().product::<usize>() <= MAX_TAPS {
                    let taps = self.taps(x, &windows, fill)?;
                    self.combined(&taps, alu)?
                } else {
                    self.along_axes(x, 1, &windows, fill, alu)?
                };
                self.channels_first(pooled)?
            }
        };
        let to = dtype(s.out_dtype());
        if let Some(bytes) = bytes {
            return self.pooled_bytes(s, Quantised { q: pooled, ..bytes });
        }
        let PoolKind::Avg { count_pads } = attr.kind else {
            return self.elementwise(to, s.out_shape(), &[pooled], |_, x| x[0]);
        };
        let counts = counts(s.shape(0), s.out_shape(), attr, count_pads);
        if let Some(&first) = counts.first()
            && counts.iter().all(|&c| c == first)
        {
            return self.elementwise(to, s.out_shape(), &[pooled], |e, x| div_by(e, x[0], first));
        }
        let mut along = s.out_shape().to_vec();
        along[..2].fill(1);
        let counts = self.b.const_f32("window_counts", &along, &counts)?;
        self.elementwise(to, s.out_shape(), &[pooled, counts], |e, x| e.div(x[0], x[1]))
    }

    /// The operand as bytes with one positive scale and one zero point, if it is that.
    fn bytes_of_one_scale(&mut self, s: &Site<'a>) -> Res<Option<Quantised>> {
        let Some(bytes) = self.quantised(s.node.inputs[0])? else {
            return Ok(None);
        };
        let single = bytes.zero.is_none_or(|v| self.immediate(v).is_some());
        let scale = bytes.scale.and_then(|v| self.immediate(v));
        let positive = scale.is_some_and(|bits| f32::from_bits(bits) > 0.0);
        Ok((single && positive).then_some(bytes))
    }

    /// Pooled bytes as numbers; they are known as bytes where they are quantised again.
    fn pooled_bytes(&mut self, s: &Site<'a>, pooled: Quantised) -> Res<ValueId> {
        let q = self.elementwise(DType::I8, s.out_shape(), &[pooled.q], |_, x| x[0])?;
        let pooled = Quantised { q, ..pooled };
        self.bytes.insert(s.node.outputs[0], pooled);
        let zero = match pooled.zero {
            Some(zero) => zero,
            None => self.constant_like(DType::I32, &[1], 0)?,
        };
        let scale = pooled.scale.ok_or("no scale")?;
        let operands = [q, zero, scale];
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &operands, |e, x| {
            e.mul(e.cvt(e.sub(x[0], x[1]), DType::F32), x[2])
        })
    }

    /// Windows over the axes from `first` on, one axis after the other.
    fn along_axes(&mut self, x: ValueId, first: usize, windows: &Windows, fill: u32, op: AluOp) -> Res<ValueId> {
        let mut pads = vec![(0, 0); self.b.shape(x).len()];
        pads[first..first + windows.pads.len()].copy_from_slice(&windows.pads);
        let mut x = self.b.pad(x, &pads, fill)?;
        for (d, &kernel) in windows.kernel.iter().enumerate() {
            x = self.along(x, first + d, kernel, windows.strides[d], windows.dilations[d], op)?;
        }
        Ok(x)
    }

    /// Windows of `kernel` elements along one axis.
    fn along(
        &mut self,
        x: ValueId,
        axis: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        op: AluOp,
    ) -> Res<ValueId> {
        let n = self.b.shape(x)[axis];
        let count = (n - (kernel - 1) * dilation - 1) / stride + 1;
        // Elements between those that any window meets are left out.
        let unit = gcd(stride, dilation);
        let (stride, dilation) = (stride / unit, dilation / unit);
        let n = (count - 1) * stride + (kernel - 1) * dilation + 1;
        let mut x = self.stepped(x, axis, 0, unit, n)?;
        if op != AluOp::Max || kernel <= TAPS_PER_MAP {
            let taps = (0..kernel)
                .map(|k| self.stepped(x, axis, k * dilation, stride, count))
                .collect::<Result<Vec<_>, _>>()?;
            return self.combined(&taps, op);
        }
        let (mut n, mut width) = (n, 1);
        while width < kernel {
            let shift = width.min(kernel - width) * dilation;
            n -= shift;
            let halves = [self.stepped(x, axis, 0, 1, n)?, self.stepped(x, axis, shift, 1, n)?];
            x = self.combined(&halves, op)?;
            width += shift / dilation;
        }
        self.stepped(x, axis, 0, stride, count)
    }

    /// `len` elements of an axis from `start` on, every `step`-th.
    fn stepped(&mut self, x: ValueId, axis: usize, start: usize, step: usize, len: usize) -> Res<ValueId> {
        let mut ranges: Vec<_> = self.b.shape(x).iter().map(|&n| (0, 1, n)).collect();
        ranges[axis] = (start, step as isize, len);
        Ok(self.b.narrow(x, &ranges)?)
    }

    /// The taps combined in order, a few per map.
    fn combined(&mut self, taps: &[ValueId], op: AluOp) -> Res<ValueId> {
        let shape = self.b.shape(taps[0]).to_vec();
        let own = self.b.dtype(taps[0]);
        let wide = own.widened();
        let to = if op == AluOp::Max { own } else { wide };
        let mut sum: Option<ValueId> = None;
        for taps in taps.chunks(TAPS_PER_MAP) {
            let operands: Vec<ValueId> = sum.into_iter().chain(taps.iter().copied()).collect();
            sum = Some(self.b.map_to(&shape, &operands, |e, x| {
                let combine = |acc: Option<Ex>, &x: &Ex| Some(acc.map_or(x, |acc| e.node(op, wide, &[acc, x])));
                e.cvt(x.iter().fold(None, combine).unwrap_or(Ex::f32(0.0)), to)
            })?);
        }
        Ok(sum.ok_or("an empty kernel")?)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many elements count in every window, spatial axes row-major.
fn counts(input: &[usize], output: &[usize], attr: &Pool, count_pads: bool) -> Vec<f32> {
    let mut counts = vec![1usize];
    for d in 0..attr.kernel.len() {
        let (n, (before, after)) = (input[2 + d], attr.pads[d]);
        // Positions are relative to the first padded element; those from `lo` to before `hi` count.
        let (lo, hi) = if count_pads {
            (0, before + n + after)
        } else {
            (before, before + n)
        };
        let along: Vec<usize> = (0..output[2 + d])
            .map(|o| {
                let places = (0..attr.kernel[d]).map(|k| o * attr.strides[d] + k * attr.dilations[d]);
                places.filter(|&p| p >= lo && p < hi).count()
            })
            .collect();
        counts = counts.iter().flat_map(|&c| along.iter().map(move |&a| c * a)).collect();
    }
    counts.into_iter().map(|c| c as f32).collect()
}
