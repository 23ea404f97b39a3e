//! Affine walks over the up to three dimensions of a run: cycles, addresses, elements.

use crate::op::Opcode;
use crate::run::Run;
use crate::target::Target;

/// An affine function of a run's dimension indices, visited in issue order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub base: i64,
    pub counts: [u32; 3],
    pub strides: [i64; 3],
}

impl Walk {
    /// Cycle offsets of a run's issues, from `base`.
    pub fn issues(run: &Run, base: i64) -> Walk {
        Walk {
            base,
            counts: run.dims.map(|d| d.count as u32),
            strides: run.dims.map(|d| d.stride as i64),
        }
    }

    /// The run's dimensions with other strides.
    pub fn over(run: &Run, base: i64, strides: [i64; 3]) -> Walk {
        Walk {
            base,
            counts: run.dims.map(|d| d.count as u32),
            strides,
        }
    }

    /// Cycles at which the results of a run are available; `base` is the run's first issue.
    pub fn results(t: &Target, run: &Run, base: i64) -> Walk {
        let base = base + t.latency_of(run) as i64;
        let last: i64 = run.dims.iter().map(|d| (d.count as i64 - 1) * d.stride as i64).sum();
        match run.op {
            Opcode::Transpose => Walk {
                base: base + last,
                counts: [run.n_out as u32, 1, 1],
                strides: [1, 0, 0],
            },
            Opcode::Fold if !run.emit_every => {
                let mut w = Walk {
                    base,
                    counts: [1; 3],
                    strides: [0; 3],
                };
                for (d, dim) in run.dims.iter().enumerate() {
                    let (count, stride) = (dim.count as u32, dim.stride as i64);
                    match d.checked_sub(run.fold_dims as usize) {
                        Some(outer) => (w.counts[outer], w.strides[outer]) = (count, stride),
                        None => w.base += (count as i64 - 1) * stride,
                    }
                }
                w
            }
            _ => Walk::issues(run, base),
        }
    }

    /// Number of points.
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|&c| c as u64).product()
    }

    /// Value at point `n`, which is below [`Walk::len`].
    pub fn at(&self, n: u32) -> i64 {
        let i = self.split(n);
        self.base + (0..3).map(|d| i[d] as i64 * self.strides[d]).sum::<i64>()
    }

    /// Least and greatest value.
    pub fn bounds(&self) -> (i64, i64) {
        let (mut lo, mut hi) = (self.base, self.base);
        for d in 0..3 {
            let reach = (self.counts[d] as i64 - 1) * self.strides[d];
            lo += reach.min(0);
            hi += reach.max(0);
        }
        (lo, hi)
    }

    /// Values from point `n` on.
    pub fn from(&self, n: u32) -> Steps {
        Steps {
            walk: *self,
            index: self.split(n),
            value: self.at(n),
        }
    }

    fn split(&self, n: u32) -> [u32; 3] {
        let (c0, c1) = (self.counts[0].max(1), self.counts[1].max(1));
        [n % c0, n / c0 % c1, n / c0 / c1]
    }
}

/// Endless iterator over a [`Walk`]: the caller bounds it, beyond the end it is meaningless.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    walk: Walk,
    index: [u32; 3],
    value: i64,
}

impl Steps {
    /// The value here, and a step forward.
    #[inline]
    pub fn step(&mut self) -> i64 {
        let value = self.value;
        for d in 0..3 {
            self.index[d] += 1;
            self.value += self.walk.strides[d];
            if self.index[d] < self.walk.counts[d] || d == 2 {
                break;
            }
            self.value -= self.walk.strides[d] * self.walk.counts[d] as i64;
            self.index[d] = 0;
        }
        value
    }
}

#[cfg(all(test, feature = "toml"))]
mod tests {
    use super::*;
    use crate::id::DType;
    use crate::run::{Dim, Queue};
    use crate::timing::result_offset;

    #[test]
    fn walks_agree_with_the_timing_table() {
        let Some(Ok(t)) = Target::builtin("toy") else {
            panic!("toy is built in");
        };
        let dim = |count, stride| Dim { count, stride };
        for (op, fold_dims, emit_every) in [
            (Opcode::Alu, 0, false),
            (Opcode::Fold, 1, false),
            (Opcode::Fold, 2, false),
            (Opcode::Fold, 3, false),
            (Opcode::Fold, 1, true),
            (Opcode::Transpose, 0, false),
        ] {
            let mut run = Run::new(op, DType::F32, Queue::Alu(0));
            run.dims = [dim(3, 2), dim(4, 9), dim(2, 100)];
            (run.fold_dims, run.emit_every, run.n_out) = (fold_dims, emit_every, 7);
            let walk = Walk::results(&t, &run, 0);
            assert_eq!(walk.len(), run.results() as u64);
            for first in [0, run.results() / 2] {
                let mut steps = walk.from(first);
                for n in first..run.results() {
                    let expected = result_offset(&t, &run, n) as i64;
                    assert_eq!(steps.step(), expected, "{op:?} result {n}");
                    assert_eq!(walk.at(n), expected);
                }
            }
        }
    }
}
