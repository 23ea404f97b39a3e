//! `round-once`: what is rounded to bytes is scaled and moved in as few operations as its roundings allow.
//!
//! Between a product of bytes and the next bytes lie a zero point, scales, a bias, perhaps a sum and a maximum with zero, and the next
//! zero point. All of it is a sum of multiples, rounded once at the end:
//!
//! ```text
//! cvt.i8(add(round(mul(max(fma(cvt.f32(sub(v0, z)), s, mul(cvt.f32(add(v1, 3)), 0.5)), 0.0), 4.0)), -128.0))
//!     =>  cvt.i8(round(fma(cvt.f32(v0), s4, fma(cvt.f32(v1), 2.0, c))))        s4 = 4 s, c = 6 - 4 z s - 128
//! ```
//!
//! The conversion saturates, so a maximum that it makes anyway goes. A zero point is moved before the rounding where it is even: halves
//! then round to the same side. Not under `--exact`.

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::expr::prune;
use crate::tir::{Arg, MapNode, Op, TensorIr, TirBuilder, ValueId};
use lockstep_isa::{AluOp, DType};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    if cx.exact {
        return Ok(Changed(false));
    }
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        let Op::Map { nodes } = &value.op else {
            return keep(b, old, id, inputs);
        };
        let rounder = Rounder::new(b, nodes, inputs);
        let rounds = nodes.iter().any(|n| rounder.rounded(n).is_some());
        if !rounds || inputs.iter().all(|&v| rounder.b.is_const(v)) {
            return keep(b, old, id, inputs);
        }
        let (nodes, operands) = rounder.run()?;
        b.map_nodes(&value.ty.shape, &operands, nodes)
    })
}

/// A factor or a summand that is known, one for all or a constant.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    Imm(f32),
    /// f32.
    Value(ValueId),
}

const ONE: Known = Known::Imm(1.0);
const NOTHING: Known = Known::Imm(0.0);

struct Rounder<'a> {
    b: &'a mut TirBuilder,
    nodes: &'a [MapNode],
    uses: Vec<usize>,
    operands: Vec<ValueId>,
    out: Vec<MapNode>,
    /// What stands for each node.
    done: Vec<Option<Arg>>,
    /// The least byte, in the expression that is rounded.
    least: f32,
}

impl<'a> Rounder<'a> {
    fn new(b: &'a mut TirBuilder, nodes: &'a [MapNode], inputs: &[ValueId]) -> Rounder<'a> {
        let mut uses = vec![0; nodes.len()];
        for node in nodes {
            for arg in &node.args[..node.op.arity()] {
                if let Arg::Node(n) = arg {
                    uses[*n as usize] += 1;
                }
            }
        }
        Rounder {
            b,
            nodes,
            uses,
            operands: inputs.to_vec(),
            out: Vec::new(),
            done: vec![None; nodes.len()],
            least: 0.0,
        }
    }

    fn run(mut self) -> Result<(Vec<MapNode>, Vec<ValueId>), CompileError> {
        let Some(last) = self.nodes.len().checked_sub(1) else {
            return Ok((Vec::new(), self.operands));
        };
        self.node(last)?;
        Ok((prune(&self.out), self.operands))
    }

    fn arg(&mut self, arg: Arg) -> Result<Arg, CompileError> {
        match arg {
            Arg::Node(n) => self.node(n as usize),
            other => Ok(other),
        }
    }

    /// A node as it is, but for what is rounded to bytes below it.
    fn node(&mut self, n: usize) -> Result<Arg, CompileError> {
        if let Some(arg) = self.done[n] {
            return Ok(arg);
        }
        let mut node = self.nodes[n];
        if let Some((rounded, zero)) = self.rounded(&node) {
            self.least = if node.dtype == DType::I8 { -128.0 } else { 0.0 };
            let moved = if zero % 2.0 == 0.0 { zero } else { 0.0 };
            let sum = self.sum(rounded, ONE, Known::Imm(moved))?;
            let mut whole = self.push(AluOp::Round, DType::F32, &[sum]);
            if moved != zero {
                whole = self.push(AluOp::Add, DType::F32, &[whole, Arg::Imm(zero.to_bits())]);
            }
            node.args[0] = whole;
        } else {
            for i in 0..node.op.arity() {
                node.args[i] = self.arg(node.args[i])?;
            }
        }
        self.out.push(node);
        let arg = Arg::Node(self.out.len() as u32 - 1);
        self.done[n] = Some(arg);
        Ok(arg)
    }

    /// What a conversion to bytes rounds, and what is added after that.
    fn rounded(&self, node: &MapNode) -> Option<(Arg, f32)> {
        if node.op != AluOp::Cvt || !matches!(node.dtype, DType::I8 | DType::U8) {
            return None;
        }
        let inner = self.single(node.args[0]).filter(|n| n.dtype == DType::F32)?;
        let (round, zero) = match (inner.op, inner.args[1]) {
            (AluOp::Add, Arg::Imm(bits)) => (self.single(inner.args[0])?, f32::from_bits(bits)),
            _ => (inner, 0.0),
        };
        (round.op == AluOp::Round && zero.fract() == 0.0).then_some((round.args[0], zero))
    }

    /// A node that nothing else uses.
    fn single(&self, arg: Arg) -> Option<MapNode> {
        match arg {
            Arg::Node(n) if self.uses[n as usize] == 1 => Some(self.nodes[n as usize]),
            _ => None,
        }
    }

    /// `x times + plus`.
    fn sum(&mut self, x: Arg, times: Known, plus: Known) -> Result<Arg, CompileError> {
        if let Some(node) = self.single(x) {
            let [a, c, d] = node.args;
            match (node.op, node.dtype, self.known(c)) {
                (AluOp::Mul, DType::F32, Some(s)) => {
                    let times = self.product(times, s)?;
                    return self.sum(a, times, plus);
                }
                (AluOp::Fma, DType::F32, Some(s)) => return self.terms((a, s), d, times, plus),
                (AluOp::Add, DType::F32, Some(s)) => {
                    let s = self.product(s, times)?;
                    let plus = self.total(s, plus)?;
                    return self.sum(a, times, plus);
                }
                (AluOp::Add, DType::F32, None) => {
                    for (x, y) in [(a, c), (c, a)] {
                        if let Some(MapNode {
                            op: AluOp::Mul,
                            dtype: DType::F32,
                            args,
                            ..
                        }) = self.single(x)
                            && let Some(s) = self.known(args[1])
                        {
                            return self.terms((args[0], s), y, times, plus);
                        }
                    }
                }
                (AluOp::Max, DType::F32, Some(Known::Imm(0.0))) => {
                    if let (Known::Imm(t), Known::Imm(p)) = (times, plus)
                        && t > 0.0
                    {
                        let inner = self.sum(a, times, plus)?;
                        return Ok(match p <= self.least {
                            true => inner,
                            false => self.push(AluOp::Max, DType::F32, &[inner, Arg::Imm(p.to_bits())]),
                        });
                    }
                }
                _ => {}
            }
        }
        let (x, off) = self.moved(x)?;
        let off = self.product(off, times)?;
        let plus = self.total(off, plus)?;
        self.line(x, times, plus)
    }

    /// `(a s + y) times + plus`.
    fn terms(&mut self, (a, s): (Arg, Known), y: Arg, times: Known, plus: Known) -> Result<Arg, CompileError> {
        let factor = self.product(s, times)?;
        if let Some(y) = self.known(y) {
            let y = self.product(y, times)?;
            let plus = self.total(y, plus)?;
            return self.sum(a, factor, plus);
        }
        let (a, off) = self.moved(a)?;
        let off = self.product(off, factor)?;
        let plus = self.total(off, plus)?;
        let rest = self.sum(y, times, plus)?;
        let factor = self.constant(factor);
        Ok(self.push(AluOp::Fma, DType::F32, &[a, factor, rest]))
    }

    /// `x times + plus` in one operation.
    fn line(&mut self, x: Arg, times: Known, plus: Known) -> Result<Arg, CompileError> {
        let (t, p) = (self.constant(times), self.constant(plus));
        Ok(match (times == ONE, plus == NOTHING) {
            (true, true) => x,
            (true, false) => self.push(AluOp::Add, DType::F32, &[x, p]),
            (false, true) => self.push(AluOp::Mul, DType::F32, &[x, t]),
            (false, false) => self.push(AluOp::Fma, DType::F32, &[x, t, p]),
        })
    }

    /// An argument that is converted from a sum of integers: the conversion of what is added to, and the summand.
    fn moved(&mut self, x: Arg) -> Result<(Arg, Known), CompileError> {
        let converted = self.single(x).filter(|n| n.op == AluOp::Cvt && n.dtype == DType::F32);
        let sum = converted.and_then(|n| self.single(n.args[0]));
        let (sign, [a, c, _]) = match sum {
            Some(MapNode {
                op: AluOp::Add,
                dtype: DType::I32,
                args,
                ..
            }) => (1.0, args),
            Some(MapNode {
                op: AluOp::Sub,
                dtype: DType::I32,
                args,
                ..
            }) => (-1.0, args),
            _ => return Ok((self.arg(x)?, NOTHING)),
        };
        let Some(c) = self.integer(c)? else {
            return Ok((self.arg(x)?, NOTHING));
        };
        let c = self.product(c, Known::Imm(sign))?;
        let a = self.arg(a)?;
        Ok((self.push(AluOp::Cvt, DType::F32, &[a]), c))
    }

    /// An f32 argument that is known.
    fn known(&self, arg: Arg) -> Option<Known> {
        match arg {
            Arg::Imm(bits) => Some(Known::Imm(f32::from_bits(bits))),
            Arg::Operand(i) => {
                let v = self.operands[i as usize];
                (self.b.is_const(v) && self.b.dtype(v) == DType::F32).then_some(Known::Value(v))
            }
            Arg::Node(_) => None,
        }
    }

    /// An integer argument that is known, as f32.
    fn integer(&mut self, arg: Arg) -> Result<Option<Known>, CompileError> {
        Ok(match arg {
            Arg::Imm(bits) => Some(Known::Imm(bits as i32 as f32)),
            Arg::Operand(i) if self.b.is_const(self.operands[i as usize]) => {
                let v = self.operands[i as usize];
                let float = self.b.map(&[v], |e, x| e.cvt(x[0], DType::F32))?;
                Some(Known::Value(float))
            }
            _ => None,
        })
    }

    fn product(&mut self, a: Known, c: Known) -> Result<Known, CompileError> {
        Ok(match (a, c) {
            (x, ONE) | (ONE, x) => x,
            (NOTHING, _) | (_, NOTHING) => NOTHING,
            (Known::Imm(x), Known::Imm(y)) => Known::Imm(x * y),
            (x, y) => Known::Value(self.combined(AluOp::Mul, x, y)?),
        })
    }

    fn total(&mut self, a: Known, c: Known) -> Result<Known, CompileError> {
        Ok(match (a, c) {
            (x, NOTHING) | (NOTHING, x) => x,
            (Known::Imm(x), Known::Imm(y)) => Known::Imm(x + y),
            (x, y) => Known::Value(self.combined(AluOp::Add, x, y)?),
        })
    }

    /// A constant of two, of which one at least is no immediate.
    fn combined(&mut self, op: AluOp, a: Known, c: Known) -> Result<ValueId, CompileError> {
        let mut operands = Vec::new();
        let mut args = [Arg::Imm(0); 3];
        for (known, arg) in [a, c].into_iter().zip(&mut args) {
            *arg = match known {
                Known::Imm(x) => Arg::Imm(x.to_bits()),
                Known::Value(v) => {
                    operands.push(v);
                    Arg::Operand(operands.len() as u32 - 1)
                }
            };
        }
        let rank = operands.iter().map(|&v| self.b.shape(v).len()).max().unwrap_or(0);
        let extent = |axis: usize| {
            let of = |v: &ValueId| {
                let shape = self.b.shape(*v);
                (axis + shape.len())
                    .checked_sub(rank)
                    .and_then(|a| shape.get(a).copied())
            };
            operands.iter().filter_map(of).max().unwrap_or(1)
        };
        let shape: Vec<usize> = (0..rank).map(extent).collect();
        let node = MapNode {
            op,
            dtype: DType::F32,
            args,
            axis: 0,
        };
        self.b.map_nodes(&shape, &operands, vec![node])
    }

    /// A known number as an argument.
    fn constant(&mut self, known: Known) -> Arg {
        match known {
            Known::Imm(x) => Arg::Imm(x.to_bits()),
            Known::Value(v) => {
                let at = self.operands.iter().position(|&o| o == v).unwrap_or_else(|| {
                    self.operands.push(v);
                    self.operands.len() - 1
                });
                Arg::Operand(at as u32)
            }
        }
    }

    fn push(&mut self, op: AluOp, dtype: DType, given: &[Arg]) -> Arg {
        let mut args = [Arg::Imm(0); 3];
        args[..given.len()].copy_from_slice(given);
        self.out.push(MapNode {
            op,
            dtype,
            args,
            axis: 0,
        });
        Arg::Node(self.out.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::Type;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::expr::{Ex, Expr};
    use lockstep_isa::artifact::HostDType;

    /// Runs the pass on a map of an i32 sum, bytes, and a scale and a bias per channel; gives the operations that are left after comparing
    /// values: they differ by one at most, and seldom.
    fn left(exact: bool, build: impl Fn(&Expr, &[Ex]) -> Ex) -> Vec<AluOp> {
        const N: usize = 400;
        let mut b = TirBuilder::new("t");
        let sum = b.input("sum", HostDType::I32, &[N, 2], Type::new(DType::I32, &[N, 2]));
        let byte = b.input("byte", HostDType::I8, &[N, 2], Type::new(DType::I8, &[N, 2]));
        let zero = b.const_i32("zero", &[1, 2], &[1000, -300]).unwrap();
        let scale = b.const_f32("scale", &[1, 2], &[0.003, 0.0007]).unwrap();
        let bias = b.const_f32("bias", &[1, 2], &[1.25, -3.5]).unwrap();
        let y = b.map(&[sum, byte, zero, scale, bias], build).unwrap();
        b.output("y", HostDType::I8, &[N, 2], y);
        let before = b.finish();
        let mut after = before.clone();
        let cx = PassCx {
            exact,
            ..PassCx::default()
        };
        run(&mut after, &cx).unwrap();
        let sums = (0..2 * N as i32).map(|i| (i * 7919) % 60_000 - 30_000).collect();
        let mut bytes = Tensor::i32(&[N, 2], (0..2 * N as i32).map(|i| (i * 37) % 256 - 128).collect());
        bytes.ty.dtype = DType::I8;
        let inputs = [Tensor::i32(&[N, 2], sums), bytes];
        let values = |ir: &TensorIr| eval(ir, &inputs, &mut []).unwrap()[0].bits();
        let pairs = values(&before).into_iter().zip(values(&after));
        let steps = pairs.map(|(a, b)| (a as u8 as i8 as i32 - b as u8 as i8 as i32).unsigned_abs());
        assert!(steps.clone().all(|s| s <= 1) && steps.sum::<u32>() <= 2);
        let hot = after.outputs[0].value;
        let Op::Map { nodes } = &after.values[hot].op else {
            panic!("no map");
        };
        nodes.iter().map(|n| n.op).collect()
    }

    /// `round((sum - zero) scale + bias) + z` as bytes.
    fn epilogue(e: &Expr, x: &[Ex], z: f32) -> Ex {
        let y = e.fma(e.cvt(e.sub(x[0], x[2]), DType::F32), x[3], x[4]);
        e.cvt(e.add(e.round(y), Ex::f32(z)), DType::I8)
    }

    #[test]
    fn what_follows_a_product_is_four_operations() {
        use AluOp::{Add, Cvt, Fma, Round, Sub};
        assert_eq!(left(false, |e, x| epilogue(e, x, -4.0)), [Cvt, Fma, Round, Cvt]);
        // Halves would round to the other side.
        assert_eq!(left(false, |e, x| epilogue(e, x, 3.0)), [Cvt, Fma, Round, Add, Cvt]);
        assert_eq!(
            left(true, |e, x| epilogue(e, x, -4.0)),
            [Sub, Cvt, Fma, Round, Add, Cvt]
        );
    }

    #[test]
    fn a_sum_of_bytes_and_a_maximum_is_scaled_once() {
        use AluOp::{Cvt, Fma, Max, Round};
        let residual = |e: &Expr, x: &[Ex], z: f32| {
            let product = e.mul(e.cvt(e.sub(x[0], x[2]), DType::F32), x[3]);
            let other = e.mul(e.cvt(e.add(x[1], Ex::i32(128)), DType::F32), Ex::f32(0.5));
            let relu = e.max(e.add(product, other), Ex::f32(0.0));
            e.cvt(e.add(e.round(e.mul(relu, Ex::f32(1.5))), Ex::f32(z)), DType::I8)
        };
        // The least byte is what zero becomes: the conversion is the maximum.
        assert_eq!(
            left(false, |e, x| residual(e, x, -128.0)),
            [Cvt, Cvt, Fma, Fma, Round, Cvt]
        );
        assert_eq!(
            left(false, |e, x| residual(e, x, -100.0)),
            [Cvt, Cvt, Fma, Fma, Max, Round, Cvt]
        );
    }
}
