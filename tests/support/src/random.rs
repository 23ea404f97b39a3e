//! Random small programs of the tensor IR.

use crate::program::{Kind, Known, MAPS, Program, Step};
use arbitrary::{Result, Unstructured};
use lockstep_compiler::tir::ReduceOp;
use lockstep_isa::DType;

/// Pairs of axes.
type Pairs = Vec<(usize, usize)>;

/// Most elements of a value.
const MOST_ELEMENTS: usize = 6000;
/// Most axes of a value.
const MOST_AXES: usize = 6;

/// Draws a program of 1 to `most` computing steps.
///
/// # Errors
/// Where the bytes to draw from do not suffice.
pub fn program(u: &mut Unstructured<'_>, most: usize) -> Result<Program> {
    let mut g = Gen {
        p: Program::default(),
        known: Vec::new(),
    };
    for _ in 0..u.int_in_range(1..=2)? {
        let shape = shape(u)?;
        let dtype = dtype(u)?;
        g.push(Kind::Input(dtype, shape), &[]);
    }
    if g.known.is_empty() {
        // The shapes drawn were too large.
        g.push(Kind::Input(DType::F32, vec![5, 4]), &[]);
    }
    if u.ratio(1, 4)? {
        let shape = shape(u)?;
        let dtype = dtype(u)?;
        g.push(Kind::State(dtype, shape.clone()), &[]);
        if u.ratio(1, 3)? {
            g.push(Kind::State(dtype, shape), &[]);
        }
    }
    let wanted = u.int_in_range(1..=most)?;
    let mut made = 0;
    for _ in 0..4 * wanted {
        if made == wanted {
            break;
        }
        made += usize::from(g.step(u)?);
    }
    g.finish(u)
}

/// An element type: mostly f32.
fn dtype(u: &mut Unstructured<'_>) -> Result<DType> {
    Ok(match u.int_in_range(0..=15)? {
        0 | 1 => DType::I32,
        2 => DType::F16,
        3 => DType::BF16,
        4 => DType::I8,
        5 => DType::U8,
        _ => DType::F32,
    })
}

/// An extent: mostly small, sometimes around the lanes of a chip.
fn extent(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=9)? {
        0 => 1,
        1..=5 => u.int_in_range(2..=7)?,
        6 | 7 => u.int_in_range(8..=33)?,
        8 => u.int_in_range(60..=70)?,
        _ => u.int_in_range(310..=330)?,
    })
}

fn shape(u: &mut Unstructured<'_>) -> Result<Vec<usize>> {
    let mut shape = Vec::new();
    let mut elements = 1;
    let rank = match u.int_in_range(0..=11)? {
        0 => 0,
        1 => 4,
        2 => 5,
        _ => u.int_in_range(1..=3)?,
    };
    for _ in 0..rank {
        let n = extent(u)?;
        let n = if elements * n > MOST_ELEMENTS { 2 } else { n };
        elements *= n;
        shape.push(n);
    }
    Ok(shape)
}

struct Gen {
    p: Program,
    known: Vec<Known>,
}

impl Gen {
    /// Adds a step if it is well formed and not too large.
    fn push(&mut self, kind: Kind, args: &[usize]) -> Option<usize> {
        self.p.steps.push(Step {
            kind,
            args: args.to_vec(),
        });
        match self.p.known() {
            Ok(known)
                if known.last().is_some_and(|k| {
                    let n: usize = k.shape.iter().product();
                    n > 0 && n <= MOST_ELEMENTS && k.shape.len() <= MOST_AXES
                }) =>
            {
                self.known = known;
                Some(self.p.steps.len() - 1)
            }
            _ => {
                self.p.steps.pop();
                None
            }
        }
    }

    /// A value, later ones more often.
    fn pick(&self, u: &mut Unstructured<'_>) -> Result<usize> {
        let n = self.known.len();
        Ok(if u.ratio(1, 2)? { n - 1 } else { u.choose_index(n)? })
    }

    fn shape(&self, v: usize) -> Vec<usize> {
        self.known[v].shape.clone()
    }

    fn is_float(&self, v: usize) -> bool {
        self.known[v].dtype.is_float()
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        let x = self.pick(u)?;
        let made = match u.int_in_range(0..=17)? {
            0..=4 => self.map(u, x)?,
            5 | 6 => self.reduce(u, x)?,
            7..=9 => self.contract(u, x)?,
            10 => self.convert(u, x)?,
            11 => self.gather(u, x)?,
            12 => self.scatter(u, x)?,
            13 => self.sort(u, x)?,
            _ => self.moves(u, x)?,
        };
        Ok(made.is_some())
    }

    fn map(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let float = self.is_float(x);
        let fits: Vec<_> = MAPS
            .iter()
            .filter(|m| m.integer != float && (self.known[x].tolerance == 0.0 || !m.jumps))
            .collect();
        let m = *u.choose(&fits)?;
        let mut args = vec![x];
        while args.len() < m.arity {
            let shape = self.shape(x);
            let broadcasts = |k: &Known| {
                k.dtype.is_float() == float
                    && !(m.jumps && k.tolerance > 0.0)
                    && k.shape.len() == shape.len()
                    && k.shape.iter().zip(&shape).all(|(&a, &b)| a == b || a == 1 || b == 1)
            };
            let found: Vec<usize> = (0..self.known.len()).filter(|&v| broadcasts(&self.known[v])).collect();
            if u.ratio(1, 2)? {
                args.push(*u.choose(&found)?);
            } else {
                let mut small = shape.clone();
                for n in &mut small {
                    if u.ratio(1, 3)? {
                        *n = 1;
                    }
                }
                let dtype = if float { DType::F32 } else { DType::I32 };
                let Some(k) = self.push(Kind::Const(dtype, small), &[]) else {
                    return Ok(None);
                };
                args.push(k);
            }
        }
        if u.ratio(1, 3)? {
            args.rotate_left(1);
        }
        Ok(self.push(Kind::Map(m.name), &args))
    }

    fn reduce(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let rank = self.shape(x).len();
        let mut axes = Vec::new();
        for a in 0..rank {
            if u.ratio(1, 2)? {
                axes.push(a);
            }
        }
        if axes.is_empty() {
            axes.push(rank.saturating_sub(1));
        }
        let op = *u.choose(&[
            ReduceOp::Add,
            ReduceOp::Add,
            ReduceOp::Add,
            ReduceOp::Max,
            ReduceOp::Min,
            ReduceOp::Mul,
        ])?;
        Ok(self.push(Kind::Reduce(op, axes), &[x]))
    }

    fn contract(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let dtype = self.known[x].dtype;
        if matches!(dtype, DType::I32 | DType::U8) || self.shape(x).is_empty() {
            return Ok(None);
        }
        let shape = self.shape(x);
        // Pairs of equal axes of an existing value, or a constant made to fit.
        if u.ratio(1, 2)? {
            let others: Vec<usize> = (0..self.known.len())
                .filter(|&v| self.known[v].dtype == dtype)
                .collect();
            let y = *u.choose(&others)?;
            let right = self.shape(y);
            let (mut batch, mut over): (Pairs, Pairs) = (Vec::new(), Vec::new());
            for (a, &n) in shape.iter().enumerate() {
                let used = |b: &usize| batch.iter().chain(&over).any(|p| p.1 == *b);
                let Some(b) = (0..right.len()).find(|b| right[*b] == n && !used(b)) else {
                    continue;
                };
                match u.int_in_range(0..=3)? {
                    0 => batch.push((a, b)),
                    1 => {}
                    _ => over.push((a, b)),
                }
            }
            if over.is_empty() {
                return Ok(None);
            }
            return Ok(self.push(Kind::Contract(batch, over), &[x, y]));
        }
        let (mut batch, mut over, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for (a, &n) in shape.iter().enumerate() {
            match u.int_in_range(0..=5)? {
                0 => batch.push((a, n)),
                1 | 2 => {}
                _ => over.push((a, n)),
            }
        }
        if over.is_empty() {
            let a = shape.len() - 1;
            batch.retain(|p| p.0 != a);
            over.push((a, shape[a]));
        }
        let place =
            |u: &mut Unstructured<'_>, pairs: &[(usize, usize)], right: &mut Vec<(usize, usize)>| -> Result<()> {
                for &(a, n) in pairs {
                    let at = u.int_in_range(0..=right.len())?;
                    right.insert(at, (a, n));
                }
                Ok(())
            };
        place(u, &batch, &mut right)?;
        place(u, &over, &mut right)?;
        for _ in 0..u.int_in_range(0..=1)? {
            let n = extent(u)?;
            place(u, &[(usize::MAX, n)], &mut right)?;
        }
        let at = |a: usize| right.iter().position(|r| r.0 == a).unwrap_or(0);
        let pairs = |list: &[(usize, usize)]| list.iter().map(|&(a, _)| (a, at(a))).collect::<Vec<_>>();
        let (batch, over) = (pairs(&batch), pairs(&over));
        let Some(k) = self.push(Kind::Const(dtype, right.iter().map(|r| r.1).collect()), &[]) else {
            return Ok(None);
        };
        Ok(self.push(Kind::Contract(batch, over), &[x, k]))
    }

    fn convert(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let to = match (self.known[x].dtype, self.known[x].tolerance == 0.0) {
            (DType::F32, true) => *u.choose(&[DType::F16, DType::BF16, DType::I32, DType::I8])?,
            (DType::F32, false) => *u.choose(&[DType::F16, DType::BF16])?,
            (DType::I32, _) => *u.choose(&[DType::F32, DType::I8])?,
            (DType::I8 | DType::U8, _) => DType::F32,
            _ => DType::F32,
        };
        Ok(self.push(Kind::Cvt(to), &[x]))
    }

    fn gather(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let indices: Vec<usize> = (0..self.known.len())
            .filter(|&v| self.known[v].dtype == DType::I32)
            .collect();
        let i = if indices.is_empty() || u.ratio(1, 3)? {
            let n = u.int_in_range(1..=9)?;
            match self.push(Kind::Input(DType::I32, vec![n]), &[]) {
                Some(i) => i,
                None => return Ok(None),
            }
        } else {
            *u.choose(&indices)?
        };
        let table = if u.ratio(1, 2)? {
            let shape = shape(u)?;
            match self.push(Kind::Const(DType::F32, shape), &[]) {
                Some(t) => t,
                None => return Ok(None),
            }
        } else {
            x
        };
        Ok(self.push(Kind::Gather, &[table, i]))
    }

    /// Rows of a value (or of a state, where there is one) replaced or combined.
    fn scatter(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let states: Vec<usize> = (0..self.p.steps.len())
            .filter(|&i| matches!(self.p.steps[i].kind, Kind::State(..)))
            .collect();
        let x = match states.first() {
            Some(&s) if u.ratio(2, 3)? => s,
            _ => x,
        };
        let (dtype, shape) = (self.known[x].dtype, self.shape(x));
        let Some((_, rest)) = shape.split_first() else {
            return Ok(None);
        };
        let mut index = vec![u.int_in_range(1..=5)?];
        if u.ratio(1, 4)? {
            index.push(u.int_in_range(1..=4)?);
        }
        let updates = [&index[..], rest].concat();
        let Some(index) = self.push(Kind::Input(DType::I32, index), &[]) else {
            return Ok(None);
        };
        let fits: Vec<usize> = (0..self.known.len())
            .filter(|&v| self.known[v].dtype == dtype && self.known[v].shape == updates)
            .collect();
        let made = match fits.last() {
            Some(&v) => Some(v),
            None => self.push(Kind::Input(dtype, updates), &[]),
        };
        let Some(updates) = made else { return Ok(None) };
        let op = match u.int_in_range(0..=7)? {
            0 => Some(ReduceOp::Max),
            1 => Some(ReduceOp::Min),
            // What narrow elements add up to is rounded at every step.
            2 if dtype.bytes() == 4 => Some(ReduceOp::Add),
            3 if dtype.bytes() == 4 => Some(ReduceOp::Mul),
            _ => None,
        };
        Ok(self.push(Kind::Scatter(op), &[x, index, updates]))
    }

    /// A value sorted by itself or by another of its shape.
    fn sort(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let shape = self.shape(x);
        if shape.is_empty() || shape.iter().product::<usize>() > 700 {
            return Ok(None);
        }
        let keys: Vec<usize> = (0..self.known.len())
            .filter(|&v| self.known[v].shape == shape && self.known[v].tolerance == 0.0)
            .collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let key = *u.choose(&keys)?;
        let axis = u.choose_index(shape.len())?;
        let down = u.ratio(1, 2)?;
        Ok(self.push(Kind::Sort(axis, down), &[key, x]))
    }

    fn moves(&mut self, u: &mut Unstructured<'_>, x: usize) -> Result<Option<usize>> {
        let shape = self.shape(x);
        let rank = shape.len();
        Ok(match u.int_in_range(0..=6)? {
            0 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for a in (1..rank).rev() {
                    perm.swap(a, u.choose_index(a + 1)?);
                }
                self.push(Kind::Transpose(perm), &[x])
            }
            1 => {
                let to = reshaped(u, &shape)?;
                self.push(Kind::Reshape(to), &[x])
            }
            2 => {
                let mut ranges = Vec::new();
                for &n in &shape {
                    if u.ratio(1, 2)? {
                        ranges.push((0, 1, n));
                        continue;
                    }
                    let start = u.int_in_range(0..=n - 1)?;
                    let step = *u.choose(&[1isize, 1, 2, 3, -1])?;
                    let room = if step > 0 {
                        (n - 1 - start) / step as usize
                    } else {
                        start
                    } + 1;
                    ranges.push((start, step, u.int_in_range(1..=room)?));
                }
                self.push(Kind::Narrow(ranges), &[x])
            }
            3 => {
                let mut pads = Vec::new();
                for _ in 0..rank {
                    pads.push((u.int_in_range(0..=2)?, u.int_in_range(0..=2)?));
                }
                self.push(Kind::Pad(pads), &[x])
            }
            4 => {
                let axis = u.choose_index(rank.max(1))?;
                let fits = |k: &Known| {
                    k.dtype == self.known[x].dtype
                        && k.shape.len() == rank
                        && (0..rank).all(|a| a == axis || k.shape[a] == shape[a])
                };
                let found: Vec<usize> = (0..self.known.len()).filter(|&v| fits(&self.known[v])).collect();
                let mut parts = vec![x];
                for _ in 0..u.int_in_range(1..=2)? {
                    parts.push(*u.choose(&found)?);
                }
                if u.ratio(1, 2)? {
                    parts.reverse();
                }
                if rank == 0 {
                    None
                } else {
                    self.push(Kind::Concat(axis), &parts)
                }
            }
            5 if rank == 3 => {
                let w = [
                    u.int_in_range(1..=4)?,
                    u.int_in_range(1..=3)?,
                    u.int_in_range(1..=2)?,
                    u.int_in_range(0..=2)?,
                ];
                self.push(Kind::Windows(w), &[x])
            }
            _ => {
                let to = shape
                    .iter()
                    .map(|&n| if n == 1 { u.int_in_range(1..=6) } else { Ok(n) })
                    .collect::<Result<Vec<_>>>()?;
                if to == shape {
                    None
                } else {
                    self.push(Kind::Expand(to), &[x])
                }
            }
        })
    }

    fn finish(mut self, u: &mut Unstructured<'_>) -> Result<Program> {
        let n = self.p.steps.len();
        let mut constant = vec![false; n];
        for (i, s) in self.p.steps.iter().enumerate() {
            constant[i] = match s.kind {
                Kind::Const(..) => true,
                Kind::Input(..) | Kind::State(..) => false,
                _ => s.args.iter().all(|&a| constant[a]),
            };
        }
        let states: Vec<usize> = (0..n)
            .filter(|&s| matches!(self.p.steps[s].kind, Kind::State(..)))
            .collect();
        let swap = states.len() == 2 && u.ratio(1, 3)?;
        for &s in &states {
            let like = |v: &usize| {
                (self.known[*v].dtype, &self.known[*v].shape) == (self.known[s].dtype, &self.known[s].shape)
            };
            let same: Vec<usize> = (s + 1..n)
                .filter(|&v| !constant[v] && !states.contains(&v))
                .filter(like)
                .filter(|&v| self.known[v].tolerance < 1e-3)
                .collect();
            let next = match same.last() {
                _ if swap => states.iter().copied().find(|&t| t != s).unwrap_or(s),
                Some(&v) => v,
                // Something that stays bounded, or what it was.
                None if self.known[s].dtype == DType::F32 => self.push(Kind::Map("tanh"), &[s]).unwrap_or(s),
                None => s,
            };
            self.p.next.push((s, next));
        }
        let n = self.p.steps.len();
        constant.resize(n, false);
        let mut used = vec![false; n];
        self.p
            .steps
            .iter()
            .for_each(|s| s.args.iter().for_each(|&a| used[a] = true));
        self.p.outputs = (0..n)
            .filter(|&v| !used[v] && !constant[v] && !self.p.steps[v].args.is_empty())
            .collect();
        if self.p.outputs.is_empty() || u.ratio(1, 6)? {
            let v = u.choose_index(n)?;
            if !constant[v] && !self.p.outputs.contains(&v) {
                self.p.outputs.push(v);
            }
        }
        if self.p.outputs.is_empty() {
            self.p.outputs.push(0);
        }
        Ok(self.p.pruned())
    }
}

/// Another shape of as many elements: axes are joined, split, or unit axes added and dropped.
fn reshaped(u: &mut Unstructured<'_>, shape: &[usize]) -> Result<Vec<usize>> {
    let mut to = shape.to_vec();
    match u.int_in_range(0..=3)? {
        0 if to.len() > 1 => {
            let a = u.choose_index(to.len() - 1)?;
            let n = to.remove(a + 1);
            to[a] *= n;
        }
        1 => {
            let a = u.choose_index(to.len().max(1))?;
            if let Some(&n) = to.get(a) {
                let divisors: Vec<usize> = (2..n).filter(|d| n % d == 0).collect();
                if !divisors.is_empty() {
                    let d = *u.choose(&divisors)?;
                    to[a] = n / d;
                    to.insert(a + 1, d);
                }
            }
        }
        2 => {
            let a = u.int_in_range(0..=to.len())?;
            to.insert(a, 1);
        }
        _ => {
            let n: usize = to.iter().product();
            to = vec![n];
        }
    }
    Ok(to)
}
