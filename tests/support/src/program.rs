//! Small tensor programs as lists of steps, with a text form.
//!
//! Random programs ([`crate::random`]) and the programs of `tests/cases/regress` are of this kind. One step a line, each
//! makes the next value:
//!
//! ```text
//! v0 = input f32 3x5
//! v1 = const f32 5x7
//! v2 = contract v0 v1 batch - over 1:0
//! v3 = map relu v2
//! output v3
//! ```
//!
//! Elements of inputs and constants are noise drawn from the number of the value. Lines that begin with `;` are for whoever
//! reads the file.

use crate::asm::splitmix;
use lockstep_compiler::CompileError;
use lockstep_compiler::tir::build::Built;
use lockstep_compiler::tir::eval::{Data, Tensor};
use lockstep_compiler::tir::expr::{Ex, Expr};
use lockstep_compiler::tir::print::host_dtype;
use lockstep_compiler::tir::{Combiner, IndexMap, ReduceOp, TensorIr, TirBuilder, Type, ValueId, Windows};
use lockstep_isa::{DType, scalar};
use std::fmt::{self, Write as _};

/// What a step computes; operands are in [`Step::args`].
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// An argument.
    Input(DType, Vec<usize>),
    /// A constant.
    Const(DType, Vec<usize>),
    /// A state; [`Program::next`] says what follows it.
    State(DType, Vec<usize>),
    /// One of [`MAPS`].
    Map(&'static str),
    /// Conversion.
    Cvt(DType),
    /// Reduction over axes.
    Reduce(ReduceOp, Vec<usize>),
    /// Product with (batch, contracted) pairs of axes.
    Contract(Vec<(usize, usize)>, Vec<(usize, usize)>),
    /// Reshape.
    Reshape(Vec<usize>),
    /// Transpose.
    Transpose(Vec<usize>),
    /// (start, step, length) per axis.
    Narrow(Vec<(usize, isize, usize)>),
    /// (before, after) per axis.
    Pad(Vec<(usize, usize)>),
    /// Broadcast.
    Expand(Vec<usize>),
    /// Concatenation along an axis.
    Concat(usize),
    /// Windows over the middle axis of `[n, w, c]`: kernel, stride, dilation, padding on both sides.
    Windows([usize; 4]),
    /// Rows of the first operand by the indices in the second.
    Gather,
    /// Rows of the first operand at the indices in the second, replaced by or combined with the third.
    Scatter(Option<ReduceOp>),
    /// The second operand in the order that sorts the first along an axis; descending or not.
    Sort(usize, bool),
}

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it computes.
    pub kind: Kind,
    /// Numbers of earlier steps.
    pub args: Vec<usize>,
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Steps in order; step i makes value i.
    pub steps: Vec<Step>,
    /// Values that are outputs.
    pub outputs: Vec<usize>,
    /// (state, the value that follows it).
    pub next: Vec<(usize, usize)>,
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
    /// How far a correct result may lie from the oracle's, relative to the largest magnitude among its ancestors; 0 where it
    /// must be the same.
    pub tolerance: f32,
}

/// An elementwise function.
pub struct MapFn {
    /// Name in the text.
    pub name: &'static str,
    /// Operands.
    pub arity: usize,
    /// On integers (else on floats).
    pub integer: bool,
    /// Whether a small change of an operand can change the result a lot.
    pub jumps: bool,
    f: fn(&Expr, &[Ex]) -> Ex,
}

/// All elementwise functions.
pub const MAPS: &[MapFn] = &[
    float("add", 2, |e, x| e.add(x[0], x[1])),
    float("sub", 2, |e, x| e.sub(x[0], x[1])),
    float("mul", 2, |e, x| e.mul(x[0], x[1])),
    float("max", 2, |e, x| e.max(x[0], x[1])),
    float("fma", 3, |e, x| e.fma(x[0], x[1], x[2])),
    float("lerp", 3, |e, x| e.add(e.mul(e.sub(x[0], x[1]), x[2]), x[1])),
    float("relu", 1, |e, x| e.max(x[0], Ex::f32(0.0))),
    float("neg", 1, |e, x| e.neg(x[0])),
    float("square", 1, |e, x| e.mul(x[0], x[0])),
    float("tanh", 1, |e, x| e.tanh(x[0])),
    float("sigmoid", 1, |e, x| {
        let t = e.exp(e.neg(e.abs(x[0])));
        e.div(Ex::f32(1.0), e.add(Ex::f32(1.0), t))
    }),
    float("gelu", 1, |e, x| {
        let r = e.erf(e.mul(x[0], Ex::f32(std::f32::consts::FRAC_1_SQRT_2)));
        e.mul(e.mul(x[0], Ex::f32(0.5)), e.add(r, Ex::f32(1.0)))
    }),
    float("unit", 1, |e, x| {
        e.mul(x[0], e.rsqrt(e.add(e.mul(x[0], x[0]), Ex::f32(1.0))))
    }),
    float("exp", 1, |e, x| e.exp(e.min(x[0], Ex::f32(2.0)))),
    float("log", 1, |e, x| e.log(e.add(e.mul(x[0], x[0]), Ex::f32(1.0)))),
    float("ratio", 2, |e, x| e.div(x[0], e.add(e.mul(x[1], x[1]), Ex::f32(1.0)))),
    float("sin", 1, |e, x| e.sin(x[0])),
    float("third", 1, |e, x| e.div(e.sub(x[0], Ex::f32(1.0)), Ex::f32(3.0))),
    float("add_iota", 1, |e, x| e.add(x[0], e.cvt(e.iota(0), DType::F32))),
    jump("step", 3, false, |e, x| e.select(e.lt(x[0], x[1]), x[2], x[0])),
    jump("floor", 1, false, |e, x| e.floor(x[0])),
    jump("to_i32", 1, false, |e, x| e.cvt(x[0], DType::I32)),
    jump("iadd", 2, true, |e, x| e.add(x[0], x[1])),
    jump("isub", 2, true, |e, x| e.sub(x[0], x[1])),
    jump("imul", 2, true, |e, x| e.mul(x[0], x[1])),
    jump("imax", 2, true, |e, x| e.max(x[0], x[1])),
    jump("ixor", 2, true, |e, x| e.xor(x[0], x[1])),
    jump("ishl", 1, true, |e, x| e.shl(x[0], Ex::i32(2))),
    jump("ilt", 2, true, |e, x| e.lt(x[0], x[1])),
    jump("ipick", 3, true, |e, x| e.select(x[0], x[1], x[2])),
    jump("iquarter", 1, true, |e, x| e.div(x[0], Ex::i32(4))),
    jump("imod", 1, true, |e, x| {
        let rest = e.sub(x[0], e.mul(Ex::i32(5), e.div(x[0], Ex::i32(5))));
        e.select(e.lt(rest, Ex::i32(0)), e.add(rest, Ex::i32(5)), rest)
    }),
    jump("iclip", 1, true, |e, x| e.max(e.min(x[0], Ex::i32(3)), Ex::i32(0))),
];

const fn float(name: &'static str, arity: usize, f: fn(&Expr, &[Ex]) -> Ex) -> MapFn {
    MapFn {
        name,
        arity,
        integer: false,
        jumps: false,
        f,
    }
}

const fn jump(name: &'static str, arity: usize, integer: bool, f: fn(&Expr, &[Ex]) -> Ex) -> MapFn {
    MapFn {
        name,
        arity,
        integer,
        jumps: true,
        f,
    }
}

fn map_fn(name: &str) -> Option<&'static MapFn> {
    MAPS.iter().find(|m| m.name == name)
}

/// Rounding of sums in another order.
const SUM: f32 = 2e-5;

impl Program {
    /// What is known of each value; an error where a step does not fit its operands.
    ///
    /// # Errors
    /// As the builder of the IR reports it.
    pub fn known(&self) -> Result<Vec<Known>, CompileError> {
        let (b, values) = self.values()?;
        let mut known: Vec<Known> = Vec::new();
        for (step, &v) in self.steps.iter().zip(&values) {
            let of = |f: fn(f32, f32) -> f32| step.args.iter().map(|&a| known[a].tolerance).fold(0.0, f);
            let most = of(f32::max);
            let ty = b.ty(v).clone();
            let tolerance = match &step.kind {
                Kind::Input(..) | Kind::Const(..) => 0.0,
                Kind::State(..) => 4.0 * SUM,
                Kind::Map(_) => 4.0 * most,
                Kind::Cvt(DType::F16) if most > 0.0 => most + 2e-3,
                Kind::Cvt(DType::BF16) if most > 0.0 => most + 1e-2,
                Kind::Reduce(ReduceOp::Add | ReduceOp::Mul, _)
                | Kind::Scatter(Some(ReduceOp::Add | ReduceOp::Mul))
                | Kind::Contract(..)
                    if ty.dtype.is_float() =>
                {
                    4.0 * most + SUM
                }
                _ => most,
            };
            known.push(Known {
                dtype: ty.dtype,
                shape: ty.shape,
                tolerance,
            });
        }
        Ok(known)
    }

    /// Whether a change of rounding can change a result a lot: floats are compared, sorted, or become whole numbers.
    pub fn jumps(&self) -> bool {
        let Ok(known) = self.known() else { return true };
        let float = |s: &Step| s.args.iter().any(|&a| known[a].dtype.is_float());
        self.steps.iter().zip(&known).any(|(s, k)| match &s.kind {
            Kind::Map(name) => map_fn(name).is_some_and(|m| m.jumps) && float(s),
            Kind::Sort(..) => float(s),
            _ => float(s) && !k.dtype.is_float(),
        })
    }

    fn values(&self) -> Result<(TirBuilder, Vec<ValueId>), CompileError> {
        let mut b = TirBuilder::new("program");
        let mut values: Vec<ValueId> = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            let x: Vec<ValueId> = step.args.iter().map(|&a| values[a]).collect();
            values.push(build(&mut b, i, &step.kind, &x)?);
        }
        Ok((b, values))
    }

    /// The program in the tensor IR; `all` makes every value an output, named by its number.
    ///
    /// # Errors
    /// As the builder of the IR reports it.
    pub fn tir(&self, all: bool) -> Result<TensorIr, CompileError> {
        let (mut b, values) = self.values()?;
        let outputs: Vec<usize> = if all {
            (0..values.len()).collect()
        } else {
            self.outputs.clone()
        };
        for o in outputs {
            let ty = b.ty(values[o]).clone();
            b.output(&format!("v{o}"), host_dtype(ty.dtype), &ty.shape, values[o]);
        }
        let states: Vec<usize> = (0..self.steps.len())
            .filter(|&i| matches!(self.steps[i].kind, Kind::State(..)))
            .collect();
        for (index, state) in states.iter().enumerate() {
            let next = self.next.iter().find(|n| n.0 == *state).map_or(*state, |n| n.1);
            b.set_next(index, values[next]);
        }
        Ok(b.finish())
    }

    /// Inputs of a run: noise that differs from run to run.
    pub fn inputs(&self, run: u64) -> Vec<Tensor> {
        let inputs = self.steps.iter().enumerate().filter_map(|(i, s)| match &s.kind {
            Kind::Input(dtype, shape) => Some(noise(*dtype, shape, i as u64 + 1000 * (run + 1))),
            _ => None,
        });
        inputs.collect()
    }

    /// The steps that outputs and states need, renumbered.
    pub fn pruned(&self) -> Program {
        let mut live = vec![false; self.steps.len()];
        self.outputs.iter().for_each(|&o| live[o] = true);
        loop {
            let before = live.clone();
            for &(s, n) in &self.next {
                live[n] |= live[s];
            }
            for i in (0..live.len())
                .rev()
                .filter(|&i| before[i] || live[i])
                .collect::<Vec<_>>()
            {
                self.steps[i].args.iter().for_each(|&a| live[a] = true);
            }
            if live == before {
                break;
            }
        }
        let number: Vec<usize> = (0..live.len())
            .map(|i| live[..i].iter().filter(|&&l| l).count())
            .collect();
        let steps = self.steps.iter().zip(&live).filter(|(_, l)| **l);
        Program {
            steps: steps
                .map(|(s, _)| Step {
                    kind: s.kind.clone(),
                    args: s.args.iter().map(|&a| number[a]).collect(),
                })
                .collect(),
            outputs: self.outputs.iter().map(|&o| number[o]).collect(),
            next: self
                .next
                .iter()
                .filter(|n| live[n.0])
                .map(|&(s, n)| (number[s], number[n]))
                .collect(),
        }
    }

    /// A smaller program that still fails: outputs are dropped, and steps replaced by inputs or by their operands.
    pub fn shrunk(&self, fails: impl Fn(&Program) -> bool) -> Program {
        let mut best = self.pruned();
        if !fails(&best) {
            return self.clone();
        }
        while let Some(smaller) = best.smaller().into_iter().find(|p| p.known().is_ok() && fails(p)) {
            best = smaller;
        }
        best
    }

    fn smaller(&self) -> Vec<Program> {
        let mut out = Vec::new();
        if self.outputs.len() > 1 {
            for &o in &self.outputs {
                out.push(
                    Program {
                        outputs: vec![o],
                        ..self.clone()
                    }
                    .pruned(),
                );
            }
        }
        let Ok(known) = self.known() else { return out };
        for i in 0..self.steps.len() {
            // An operand in place of the step.
            for &a in &self.steps[i].args {
                if (&known[a].dtype, &known[a].shape) == (&known[i].dtype, &known[i].shape) {
                    let swap = |v: usize| if v == i { a } else { v };
                    let mut p = self.clone();
                    p.steps
                        .iter_mut()
                        .for_each(|s| s.args.iter_mut().for_each(|v| *v = swap(*v)));
                    p.outputs.iter_mut().for_each(|v| *v = swap(*v));
                    p.next.iter_mut().for_each(|n| n.1 = swap(n.1));
                    out.push(p.pruned());
                }
            }
            let fresh = !matches!(self.steps[i].kind, Kind::Input(..) | Kind::Const(..));
            if fresh && !self.outputs.contains(&i) && matches!(known[i].dtype, DType::F32 | DType::I32) {
                let mut p = self.clone();
                p.next.retain(|n| n.0 != i);
                p.steps[i] = Step {
                    kind: Kind::Input(known[i].dtype, known[i].shape.clone()),
                    args: vec![],
                };
                out.push(p.pruned());
            }
        }
        out.retain(|p| p.steps.len() < self.steps.len() || weight(p) < weight(self));
        out
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// One line that says which line is wrong.
    pub fn parse(text: &str) -> Result<Program, String> {
        let mut p = Program::default();
        for (n, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let bad = || format!("line {}: {line:?} is no step", n + 1);
            let values = |words: &[&str]| -> Option<Vec<usize>> {
                words
                    .iter()
                    .map(|w| w.strip_prefix('v')?.parse().ok().filter(|&v: &usize| v < p.steps.len()))
                    .collect()
            };
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with(';') => {}
                ["output", rest @ ..] => p.outputs = values(rest).ok_or_else(bad)?,
                ["next", rest @ ..] => match values(rest).as_deref() {
                    Some(&[s, n]) => p.next.push((s, n)),
                    _ => return Err(bad()),
                },
                [name, "=", op, rest @ ..] if *name == format!("v{}", p.steps.len()) => {
                    let at = rest
                        .iter()
                        .take_while(|w| w.strip_prefix('v').is_none_or(|d| d.parse::<usize>().is_err()))
                        .count();
                    let args = rest[at..].iter().take_while(|w| w.starts_with('v')).count();
                    let arguments = values(&rest[at..at + args]).ok_or_else(bad)?;
                    let settings: Vec<&str> = rest[..at].iter().chain(&rest[at + args..]).copied().collect();
                    let kind = Kind::parse(op, &settings).ok_or_else(bad)?;
                    p.steps.push(Step { kind, args: arguments });
                }
                _ => return Err(bad()),
            }
        }
        Ok(p)
    }
}

/// What a shrunk program has less of: steps that compute.
fn weight(p: &Program) -> usize {
    p.steps.iter().filter(|s| !s.args.is_empty()).count() * 8 + p.outputs.len() + p.next.len()
}

impl Kind {
    fn parse(op: &str, s: &[&str]) -> Option<Kind> {
        let list = |text: &str, sep: char| -> Option<Vec<usize>> {
            if text == "-" {
                return Some(Vec::new());
            }
            text.split(sep).map(|w| w.parse().ok()).collect()
        };
        let pairs = |text: &str| -> Option<Vec<(usize, usize)>> {
            if text == "-" {
                return Some(Vec::new());
            }
            text.split(',')
                .map(|w| {
                    w.split_once(':')
                        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
                })
                .collect()
        };
        let dtype = |name: &str| DType::ALL.into_iter().find(|d| d.to_string() == name);
        Some(match (op, s) {
            ("input", [d, shape]) => Kind::Input(dtype(d)?, list(shape, 'x')?),
            ("const", [d, shape]) => Kind::Const(dtype(d)?, list(shape, 'x')?),
            ("state", [d, shape]) => Kind::State(dtype(d)?, list(shape, 'x')?),
            ("map", [name]) => Kind::Map(map_fn(name)?.name),
            ("cvt", [d]) => Kind::Cvt(dtype(d)?),
            ("reduce", [op, axes]) => {
                Kind::Reduce(ReduceOp::ALL.into_iter().find(|r| r.name() == *op)?, list(axes, ',')?)
            }
            ("contract", ["batch", batch, "over", over]) => Kind::Contract(pairs(batch)?, pairs(over)?),
            ("reshape", [shape]) => Kind::Reshape(list(shape, 'x')?),
            ("transpose", [perm]) => Kind::Transpose(list(perm, ',')?),
            ("narrow", [ranges]) => {
                let one = |w: &str| -> Option<(usize, isize, usize)> {
                    let mut f = w.split(':');
                    Some((
                        f.next()?.parse().ok()?,
                        f.next()?.parse().ok()?,
                        f.next()?.parse().ok()?,
                    ))
                };
                Kind::Narrow(ranges.split(',').map(one).collect::<Option<_>>()?)
            }
            ("pad", [p]) => Kind::Pad(pairs(p)?),
            ("expand", [shape]) => Kind::Expand(list(shape, 'x')?),
            ("concat", [axis]) => Kind::Concat(axis.parse().ok()?),
            ("windows", [w]) => Kind::Windows(list(w, ',')?.try_into().ok()?),
            ("gather", []) => Kind::Gather,
            ("scatter", ["set"]) => Kind::Scatter(None),
            ("scatter", [op]) => Kind::Scatter(Some(ReduceOp::ALL.into_iter().find(|r| r.name() == *op)?)),
            ("sort", [axis, order @ ("up" | "down")]) => Kind::Sort(axis.parse().ok()?, *order == "down"),
            _ => return None,
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let args = step.args.iter().fold(String::new(), |mut s, a| {
                let _ = write!(s, " v{a}");
                s
            });
            write!(f, "v{i} = ")?;
            match &step.kind {
                Kind::Input(d, s) => writeln!(f, "input {d} {}", joined(s, "x")),
                Kind::Const(d, s) => writeln!(f, "const {d} {}", joined(s, "x")),
                Kind::State(d, s) => writeln!(f, "state {d} {}", joined(s, "x")),
                Kind::Map(name) => writeln!(f, "map {name}{args}"),
                Kind::Cvt(d) => writeln!(f, "cvt {d}{args}"),
                Kind::Reduce(op, axes) => writeln!(f, "reduce {} {}{args}", op.name(), joined(axes, ",")),
                Kind::Contract(batch, over) => {
                    let pairs = |p: &[(usize, usize)]| {
                        joined(&p.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>(), ",")
                    };
                    writeln!(f, "contract{args} batch {} over {}", pairs(batch), pairs(over))
                }
                Kind::Reshape(s) => writeln!(f, "reshape {}{args}", joined(s, "x")),
                Kind::Transpose(p) => writeln!(f, "transpose {}{args}", joined(p, ",")),
                Kind::Narrow(r) => {
                    let ranges: Vec<String> = r.iter().map(|(a, s, n)| format!("{a}:{s}:{n}")).collect();
                    writeln!(f, "narrow {}{args}", joined(&ranges, ","))
                }
                Kind::Pad(p) => {
                    let pads: Vec<String> = p.iter().map(|(a, b)| format!("{a}:{b}")).collect();
                    writeln!(f, "pad {}{args}", joined(&pads, ","))
                }
                Kind::Expand(s) => writeln!(f, "expand {}{args}", joined(s, "x")),
                Kind::Concat(axis) => writeln!(f, "concat {axis}{args}"),
                Kind::Windows(w) => writeln!(f, "windows {}{args}", joined(w, ",")),
                Kind::Gather => writeln!(f, "gather{args}"),
                Kind::Scatter(op) => writeln!(f, "scatter {}{args}", op.map_or("set", ReduceOp::name)),
                Kind::Sort(axis, down) => writeln!(f, "sort {axis} {}{args}", if *down { "down" } else { "up" }),
            }?;
        }
        for (s, n) in &self.next {
            writeln!(f, "next v{s} v{n}")?;
        }
        let outputs: Vec<String> = self.outputs.iter().map(|o| format!("v{o}")).collect();
        writeln!(f, "output {}", outputs.join(" "))
    }
}

fn joined<T: ToString>(list: &[T], separator: &str) -> String {
    let all: Vec<String> = list.iter().map(T::to_string).collect();
    if all.is_empty() {
        "-".to_string()
    } else {
        all.join(separator)
    }
}

/// Elements drawn from a seed: floats in [-1, 1), integers in -8..8 (unsigned 0..16), exact in the dtype.
pub fn noise(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let n: usize = shape.iter().product();
    let draw = |i: usize| splitmix(seed.wrapping_mul(0x9e37_79b9).wrapping_add(i as u64));
    let data = if dtype.is_float() {
        let value = |i| (draw(i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        Data::F(
            (0..n)
                .map(|i| f32::from_bits(scalar::widen(scalar::narrow_f32(value(i), dtype), dtype)))
                .collect(),
        )
    } else {
        let low = if dtype == DType::U8 { 0 } else { -8 };
        Data::I((0..n).map(|i| (draw(i) >> 40) as i32 % 16 + low).collect())
    };
    Tensor {
        ty: Type::new(dtype, shape),
        data,
    }
}

fn build(b: &mut TirBuilder, number: usize, kind: &Kind, x: &[ValueId]) -> Built {
    match kind {
        Kind::Input(dtype, shape) => Ok(b.input(
            &format!("x{number}"),
            host_dtype(*dtype),
            shape,
            Type::new(*dtype, shape),
        )),
        Kind::Const(dtype, shape) => {
            let data = noise(*dtype, shape, number as u64);
            let bytes = lockstep_compiler::tir::consteval::to_bytes(&data);
            b.constant(&format!("k{number}"), data.ty, host_dtype(*dtype), bytes.into())
        }
        Kind::State(dtype, shape) => b.state(
            &format!("s{number}"),
            &format!("next{number}"),
            Type::new(*dtype, shape),
        ),
        Kind::Map(name) => match map_fn(name) {
            Some(m) if m.arity == x.len() => b.map(x, |e, args| (m.f)(e, args)),
            _ => Err(CompileError::internal(
                "program",
                format!("map {name} of {} operands", x.len()),
            )),
        },
        Kind::Cvt(dtype) => b.map(x, |e, args| e.cvt(args[0], *dtype)),
        Kind::Reduce(op, axes) => b.reduce(*op, x[0], axes),
        Kind::Contract(batch, over) => b.contract(x[0], x[1], batch, over),
        Kind::Reshape(shape) => b.reshape(x[0], shape),
        Kind::Transpose(perm) => b.transpose(x[0], perm),
        Kind::Narrow(ranges) => b.narrow(x[0], ranges),
        Kind::Pad(pads) => b.pad(x[0], pads, 0),
        Kind::Expand(shape) => b.expand(x[0], shape),
        Kind::Concat(axis) => b.concat(x, *axis),
        Kind::Windows([kernel, stride, dilation, pad]) => {
            let shape = b.shape(x[0]).to_vec();
            let windows = Windows {
                kernel: vec![*kernel],
                strides: vec![*stride],
                dilations: vec![*dilation],
                pads: vec![(*pad, *pad)],
            };
            b.move_one(x[0], IndexMap::im2col(&shape, &windows), 0)
        }
        Kind::Gather => b.gather(x[0], x[1]),
        Kind::Scatter(op) => {
            let combiner = op.map_or(Combiner::Replace, Combiner::Reduce);
            b.scatter(combiner, x[0], x[1], x[2])
        }
        Kind::Sort(axis, down) => b.sort(*axis, *down, x[0], x[1]),
    }
}
