//! Assembly text for tests: small artifacts written by hand, in a text close to the disassembly.
//!
//! ```text
//! chips 1
//! value x = input    c0.mem0.b0 0x0000 x4 f32 0:16
//! value b = const    c0.mem1.b0 0x0000 x1 f32 0:16 = iota 1 0.5
//! value y = computed c0.mem1.b1 0x0000 x4 f32 0:16
//! input "x" float32 4,16 = x
//! output "y" float32 4,16 = y
//! chain c0 "add"
//!   c0.mem0.b0 @0  read x[0;1] x4 -> st0.w
//!   c0.mem1.b0 @-4 read b[0] x4 -> st4.w
//!   c0.vxm0    @23 alu.add st0.w, st4.w x4 -> st0.e
//!   c0.mem1.b1 @34 write st0.e -> y[0;1] x4
//! ```
//! One definition per line, `;` starts a comment.
//! - `chips N`; `start cK CYCLE` gives a chip's program a later start.
//! - `value NAME = input|const|computed cC.memG.bB BASE xVECTORS DTYPE LO:HI [= DATA]`;
//!   `value NAME = state "IN" "OUT" PLACE ...`; `value NAME = next STATE` (same rows as the state).
//!   DATA is `fill V`, `iota FIRST STEP`, `mod M` (element i is i mod M - M/2), `rand SEED` (in [-1, 1)) or `list V V ...`.
//! - `input "NAME" HOSTDTYPE D,D,.. = VALUE` maps row-major: the last dimension to lanes from the value's first live
//!   lane, the others to vectors. `= VALUE[VECTOR].LANE (COUNT ELEMENT VECTOR LANE) .. [@ ELEMENT] + ...` gives nests.
//! - `chain cC ["ORIGIN"]` or `chain cA->cB` starts a chain; runs below it belong to it.
//! - a run is `QUEUE @CYCLE OP operands -> results options`. Memory operands are `VALUE[BASE;S0/S1/S2]` in elements,
//!   accumulator rows `acc[ROW;S0/S1/S2]`, streams `st4.e`, ALUs `a3`, both with `+DELAY` and `:DTYPE`; numbers are
//!   immediates. Dimensions are `xCOUNT:STRIDE*COUNT:STRIDE`, the stride 1 where absent. Options: `cols=N0:N1`,
//!   `rows=K0:K1`, `belts=B`, `limit=N`, `rstride=N`, `seg=N`, `n=N`, `fill=N`, `fold=DIMS`, `lanes=LO:HI`, `swap`,
//!   `every`, `word` (one word per access; elements then count in words), and a dtype where no value gives it.
//!
//! The parser of the whole text is one file: its statements share the readers of numbers, places and streams.
//!
//! Live lanes, claims and the makespan are derived by [`crate::asm_claims`]; `lanes=` overrides the derived range.

use crate::asm_claims;
use lockstep_isa::artifact::{
    Artifact, ChainInfo, ChipProgram, Const, ConstForm, Entry, HostDType, HostDim, HostNest, HostTensor, OriginInfo,
    Program, State, Value, ValueKind,
};
use lockstep_isa::claim::{Claims, MemClaim};
use lockstep_isa::run::{AccIn, Addr, Src};
use lockstep_isa::{AluOp, DType, Dim, Dir, Opcode, Operand, Place, Queue, Run, Stream, Target};
use std::sync::Arc;

/// An error in assembly text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsmError {
    /// Line, from 1; 0 for errors about the whole text.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for AsmError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for AsmError {}

pub(crate) type Res<T> = Result<T, String>;

/// A parsed run with what derivation needs beside it.
pub(crate) struct AsmRun {
    pub(crate) chip: u16,
    pub(crate) run: Run,
    pub(crate) chain: u32,
    pub(crate) mem: Option<MemClaim>,
    pub(crate) lanes_given: bool,
    pub(crate) line: usize,
}

#[derive(Default)]
struct Parser {
    n_chips: u16,
    starts: Vec<u64>,
    names: Vec<String>,
    values: Vec<Value>,
    consts: Vec<Const>,
    states: Vec<State>,
    weights: Vec<u8>,
    inputs: Vec<HostTensor>,
    outputs: Vec<HostTensor>,
    chains: Vec<ChainInfo>,
    origins: Vec<OriginInfo>,
    runs: Vec<AsmRun>,
}

/// Assembles one entry `main` for `target`. The artifact is not verified.
pub fn assemble(text: &str, target: &Target) -> Result<Artifact, AsmError> {
    let mut p = Parser {
        n_chips: 1,
        ..Parser::default()
    };
    for (i, raw) in text.lines().enumerate() {
        let line = strip_comment(raw);
        p.line(line.trim(), i + 1, target)
            .map_err(|what| AsmError { line: i + 1, what })?;
    }
    p.finish(target)
}

/// The built-in target `toy`: 32 lanes, groups at positions 3, 7, 11, 15 of each side, SXM 18, MXM 20, links 22.
pub fn toy() -> Target {
    Target::builtin("toy")
        .and_then(Result::ok)
        .expect("the target toy is built in")
}

/// Cuts a comment, which starts at a `;` outside of brackets.
fn strip_comment(raw: &str) -> &str {
    let mut depth = 0;
    for (i, c) in raw.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ';' if depth == 0 => return &raw[..i],
            _ => {}
        }
    }
    raw
}

impl Parser {
    fn line(&mut self, line: &str, n: usize, t: &Target) -> Res<()> {
        let tokens: Vec<&str> = line.split_whitespace().collect();
        match tokens.first() {
            None => Ok(()),
            Some(&"chips") => {
                self.n_chips = num(arg(&tokens, 1)?)? as u16;
                Ok(())
            }
            Some(&"start") => {
                let chip = num(arg(&tokens, 1)?.trim_start_matches('c'))? as usize;
                if self.starts.len() <= chip {
                    self.starts.resize(chip + 1, 0);
                }
                self.starts[chip] = num(arg(&tokens, 2)?)? as u64;
                Ok(())
            }
            Some(&"value") => self.value(&tokens, t),
            Some(&"input") => {
                let h = self.host(line)?;
                self.inputs.push(h);
                Ok(())
            }
            Some(&"output") => {
                let h = self.host(line)?;
                self.outputs.push(h);
                Ok(())
            }
            Some(&"chain") => self.chain(&tokens, line),
            Some(_) => self.run(line, n, t),
        }
    }

    fn value(&mut self, tokens: &[&str], t: &Target) -> Res<()> {
        let name = arg(tokens, 1)?.to_string();
        let kind = arg(tokens, 3)?;
        let index = self.values.len() as u32;
        if kind == "next" {
            let of = self.value_id(arg(tokens, 4)?)?;
            let value = Value {
                kind: ValueKind::NextState(of),
                ..self.values[of as usize].clone()
            };
            self.values.push(value);
            self.names.push(name);
            return Ok(());
        }
        let at = if kind == "state" { 6 } else { 4 };
        let (chip, place) = place(arg(tokens, at)?, t)?;
        let n_vectors = num(arg(tokens, at + 2)?.trim_start_matches('x'))? as u32;
        let dtype = dtype(arg(tokens, at + 3)?)?;
        let (lo, hi) = pair(arg(tokens, at + 4)?)?;
        let kind = match kind {
            "input" => ValueKind::Input,
            "computed" => ValueKind::Computed,
            "state" => {
                self.states.push(State {
                    name: arg(tokens, 4)?.trim_matches('"').to_string(),
                    from: arg(tokens, 5)?.trim_matches('"').to_string(),
                });
                ValueKind::State(self.states.len() as u32 - 1)
            }
            "const" => {
                let n = n_vectors as usize * (hi as usize).saturating_sub(lo as usize);
                let bytes = data(tokens.get(at + 6..).unwrap_or(&[]), n, dtype)?;
                while !self.weights.len().is_multiple_of(64) {
                    self.weights.push(0);
                }
                self.consts.push(Const {
                    offset: self.weights.len() as u64,
                    length: bytes.len() as u64,
                    form: ConstForm::Rows,
                });
                self.weights.extend(bytes);
                ValueKind::Const(self.consts.len() as u32 - 1)
            }
            other => return Err(format!("value kind {other:?} is not known")),
        };
        if self.names.contains(&name) {
            return Err(format!("value {name} (v{index}) is defined twice"));
        }
        self.names.push(name);
        self.values.push(Value {
            chip,
            place,
            base: num(arg(tokens, at + 1)?)? as u16,
            n_vectors,
            dtype,
            lo,
            hi,
            kind,
        });
        Ok(())
    }

    fn value_id(&self, name: &str) -> Res<u32> {
        self.names
            .iter()
            .position(|n| n == name)
            .map(|i| i as u32)
            .ok_or_else(|| format!("value {name:?} is not defined"))
    }

    fn host(&self, line: &str) -> Res<HostTensor> {
        let (head, map) = line.split_once('=').ok_or("expected `= VALUE`")?;
        let head: Vec<&str> = head.split_whitespace().collect();
        let name = arg(&head, 1)?.trim_matches('"').to_string();
        let dtype_name = arg(&head, 2)?;
        let dtype = HostDType::ALL
            .into_iter()
            .find(|d| d.name() == dtype_name)
            .ok_or_else(|| format!("host dtype {dtype_name:?} is not known"))?;
        let shape: Vec<u64> = match head.get(3) {
            None => Vec::new(),
            Some(s) => s.split(',').map(|d| num(d).map(|d| d as u64)).collect::<Res<_>>()?,
        };
        let mut nests = Vec::new();
        for part in map.split('+') {
            nests.push(self.nest(part.trim(), &shape)?);
        }
        Ok(HostTensor {
            name,
            dtype,
            shape,
            fill: 0,
            nests,
        })
    }

    fn nest(&self, text: &str, shape: &[u64]) -> Res<HostNest> {
        let Some((name, rest)) = text.split_once('[') else {
            let value = self.value_id(text)?;
            let lane = self.values[value as usize].lo;
            let lanes = shape.last().copied().unwrap_or(1);
            let rows: u64 = shape.iter().rev().skip(1).product();
            let row = HostDim {
                count: rows as u32,
                element: lanes as i64,
                vector: 1,
                lane: 0,
            };
            let lane_dim = HostDim {
                count: lanes as u32,
                element: 1,
                vector: 0,
                lane: 1,
            };
            return Ok(HostNest {
                value,
                element: 0,
                vector: 0,
                lane,
                dims: vec![row, lane_dim],
            });
        };
        let value = self.value_id(name)?;
        let (vector, rest) = rest.split_once("].").ok_or("expected `VALUE[VECTOR].LANE`")?;
        let (rest, element) = match rest.split_once('@') {
            Some((r, e)) => (r, num(e.trim())? as u64),
            None => (rest, 0),
        };
        let mut parts = rest.split('(');
        let lane = num(parts.next().unwrap_or("").trim())? as u16;
        let mut dims = Vec::new();
        for part in parts {
            let f: Vec<i64> = part
                .trim()
                .trim_end_matches(')')
                .split_whitespace()
                .map(num)
                .collect::<Res<_>>()?;
            let [count, element, vector, lane] = f[..] else {
                return Err("a dimension is (COUNT ELEMENT VECTOR LANE)".into());
            };
            dims.push(HostDim {
                count: count as u32,
                element,
                vector: vector as i32,
                lane: lane as i32,
            });
        }
        Ok(HostNest {
            value,
            element,
            vector: num(vector)? as u32,
            lane,
            dims,
        })
    }

    fn chain(&mut self, tokens: &[&str], line: &str) -> Res<()> {
        let (from, to) = match arg(tokens, 1)?.split_once("->") {
            Some((a, b)) => (a, Some(b)),
            None => (arg(tokens, 1)?, None),
        };
        let chip = |s: &str| num(s.trim_start_matches('c')).map(|c| c as u16);
        let op = line.split('"').nth(1).unwrap_or("chain").to_string();
        self.chains.push(ChainInfo {
            chip: chip(from)?,
            to: to.map(chip).transpose()?,
            origin: self.origins.len() as u32,
        });
        self.origins.push(OriginInfo { op, nodes: Vec::new() });
        Ok(())
    }

    fn run(&mut self, line: &str, n: usize, t: &Target) -> Res<()> {
        let spaced = line.replace(',', " ");
        let tokens: Vec<&str> = spaced.split_whitespace().collect();
        let (chip, queue_name) = arg(&tokens, 0)?
            .strip_prefix('c')
            .and_then(|q| q.split_once('.'))
            .ok_or("expected a queue such as c0.mem3.b1")?;
        let chip = num(chip)? as u16;
        let cycle = num(arg(&tokens, 1)?.strip_prefix('@').ok_or("expected @CYCLE")?)?;
        let (op, alu) = opcode(arg(&tokens, 2)?)?;
        let queue = queue(queue_name, op, t)?;
        let chain = self.chains.len().checked_sub(1).ok_or("no chain yet")? as u32;
        let mut run = Run::new(op, DType::F32, queue);
        run.cycle = u32::try_from(cycle).map_err(|_| "a cycle is at least 0")?;
        run.alu = alu;
        let mut mem = None;
        let mut lanes_given = false;
        let mut operands: Vec<Operand> = Vec::new();
        let mut typed: Vec<bool> = Vec::new();
        let mut imms = 0;
        let (mut after_arrow, mut word, mut given_dtype) = (false, false, None);
        let (mut acc_in, mut acc_out) = (None, None);
        let mut raw_imm: Vec<(usize, &str)> = Vec::new();
        for &tok in &tokens[3..] {
            let starts = |c: char| tok.starts_with(c) && tok[1..].starts_with(|d: char| d.is_ascii_digit());
            if tok == "->" {
                after_arrow = true;
            } else if let Some((key, v)) = tok.split_once('=') {
                match key {
                    "cols" => (run.window.n0, run.window.n1) = pair(v)?,
                    "rows" => (run.window.k0, run.window.k1) = pair(v)?,
                    "belts" => run.belts = num(v)? as u8,
                    "limit" => run.limit = num(v)? as u32,
                    "rstride" => run.row_stride = num(v)? as u16,
                    "seg" => run.segment = num(v)? as u16,
                    "n" => run.n_out = num(v)? as u16,
                    "fill" => run.imm[0] = num(v)? as u32,
                    "fold" => run.fold_dims = num(v)? as u8,
                    "lanes" => {
                        (run.lo, run.hi) = pair(v)?;
                        lanes_given = true;
                    }
                    _ => return Err(format!("option {key:?} is not known")),
                }
            } else if tok == "swap" {
                run.swap = true;
            } else if tok == "every" {
                run.emit_every = true;
            } else if tok == "word" {
                word = true;
            } else if tok == "zero" {
                acc_in = None;
            } else if let Some((name, rest)) = tok.split_once('[') {
                let (base, strides) = strides(rest)?;
                if name == "acc" {
                    let addr = Addr {
                        base: base as u16,
                        strides: strides.map(|s| s as i16),
                    };
                    if after_arrow {
                        acc_out = Some(addr);
                    } else {
                        acc_in = Some(addr);
                    }
                } else {
                    mem = Some(MemClaim {
                        value: self.value_id(name)?,
                        base: base as u32,
                        strides: strides.map(|s| s as i32),
                        limit: 0,
                        row_stride: 0,
                    });
                }
            } else if starts('x') {
                for (d, dim) in tok[1..].split('*').enumerate() {
                    let (count, stride) = match dim.split_once(':') {
                        Some((c, s)) => (num(c)? as u16, num(s)? as u16),
                        None => (num(dim)? as u16, 1),
                    };
                    let stride = if count == 1 { 0 } else { stride };
                    *run.dims.get_mut(d).ok_or("at most three dimensions")? = Dim { count, stride };
                }
            } else if let Ok(d) = dtype(tok) {
                given_dtype = Some(d);
            } else if tok.starts_with("st") || starts('a') {
                let (o, explicit) = operand(tok)?;
                if after_arrow {
                    let Src::Stream(s) = o.src else {
                        return Err("a result goes to a stream".into());
                    };
                    run.out = Some(s);
                } else {
                    operands.push(o);
                    typed.push(explicit);
                }
            } else {
                raw_imm.push((operands.len(), tok));
                operands.push(Operand {
                    src: Src::Imm(imms),
                    ..Operand::default()
                });
                typed.push(false);
                imms += 1;
            }
        }
        let value = mem.as_ref().map(|m| &self.values[m.value as usize]);
        run.dtype = given_dtype.or(value.map(|v| v.dtype)).unwrap_or(match op {
            Opcode::Send | Opcode::Recv => DType::U8,
            _ => DType::F32,
        });
        for (o, explicit) in operands.iter_mut().zip(&typed) {
            if !explicit {
                o.dtype = run.dtype;
            }
        }
        for (i, text) in raw_imm {
            let Src::Imm(slot) = operands[i].src else {
                continue;
            };
            let bits = run.imm.get_mut(slot as usize).ok_or("at most three immediates")?;
            *bits = immediate(text, run.dtype)?;
        }
        match op {
            Opcode::Read | Opcode::Write => {
                run.words = if word { 1 } else { run.dtype.words() as u8 };
                if word && op == Opcode::Write {
                    operands.iter_mut().for_each(|o| o.dtype = DType::U8);
                }
            }
            Opcode::Gather | Opcode::Scatter => {
                let index = if op == Opcode::Gather { 0 } else { 1 };
                if let Some(o) = operands.get_mut(index) {
                    o.dtype = DType::I32;
                }
                let step = run.row_stride.max(1);
                run.row_stride = step * run.dtype.words();
                if let Some(m) = &mut mem {
                    m.limit = run.limit;
                    m.row_stride = step as u32;
                }
            }
            Opcode::LoadRow | Opcode::LoadCol => run.belts = run.belts.max(1),
            Opcode::Mul => {
                run.acc_in = match (acc_in, operands.len()) {
                    (Some(addr), _) => {
                        run.addr = addr;
                        AccIn::Row
                    }
                    (None, 2) => AccIn::Stream,
                    _ => AccIn::Zero,
                };
                if let Some(addr) = acc_out {
                    run.addr2 = addr;
                }
                let wide = asm_claims::result_dtype(&run);
                if let (Some(o), true) = (operands.get_mut(1), typed.get(1) == Some(&false)) {
                    o.dtype = wide;
                }
            }
            Opcode::Permute => {
                if let Some(o) = operands.get_mut(1) {
                    o.dtype = DType::U16;
                }
            }
            Opcode::Fold => run.fold_dims = run.fold_dims.max(1),
            _ => {}
        }
        if let (Some(m), Some(v)) = (&mem, value) {
            let unit = if run.words == 1 { 1 } else { v.dtype.words() as i64 };
            run.addr.base = (v.base as i64 + m.base as i64 * unit) as u16;
            for d in 0..3 {
                run.addr.strides[d] = (m.strides[d] as i64 * unit) as i16;
            }
        }
        let mut operands = operands.into_iter();
        run.a = operands.next().unwrap_or_default();
        run.b = operands.next().unwrap_or_default();
        run.c = operands.next().unwrap_or_default();
        self.runs.push(AsmRun {
            chip,
            run,
            chain,
            mem,
            lanes_given,
            line: n,
        });
        Ok(())
    }

    fn finish(mut self, t: &Target) -> Result<Artifact, AsmError> {
        self.starts.resize(self.n_chips as usize, 0);
        // Canonical order: chip, queue, cycle.
        self.runs.sort_by_key(|r| (r.chip, r.run.queue, r.run.cycle));
        if let Some(r) = self.runs.iter().find(|r| r.chip >= self.n_chips) {
            return Err(AsmError {
                line: r.line,
                what: format!("chip c{} of {}", r.chip, self.n_chips),
            });
        }
        let claims = asm_claims::derive(&mut self.runs, &self.starts, &self.values, t, self.n_chips)?;
        let mut programs = vec![Program::default(); self.n_chips as usize];
        let mut chips: Vec<ChipProgram> = (0..self.n_chips)
            .map(|c| ChipProgram {
                program: c as u32,
                start: self.starts[c as usize],
                claims: Vec::new(),
                origins: Vec::new(),
            })
            .collect();
        let mut makespan = 0;
        for (r, claim) in self.runs.iter().zip(claims) {
            let c = r.chip as usize;
            let end = t.run_end(&r.run) as u64 + r.run.cycle as u64 + self.starts[c];
            makespan = makespan.max(end);
            programs[c].runs.push(r.run);
            let claim: Claims = claim;
            chips[c].origins.push(self.chains[claim.chain as usize].origin);
            chips[c].claims.push(claim);
        }
        let length = self.weights.len() as u64;
        Ok(Artifact {
            name: "asm".into(),
            target: t.clone(),
            n_chips: self.n_chips,
            programs,
            entries: vec![Entry {
                name: "main".into(),
                values: self.values,
                chips,
                chains: self.chains,
                origins: self.origins,
                inputs: self.inputs,
                outputs: self.outputs,
                makespan,
            }],
            states: self.states,
            consts: self.consts,
            tiles: Vec::new(),
            weights: Arc::new(self.weights),
            weights_range: (0, length),
            report: "{}".into(),
            tokenizer: String::new(),
        })
    }
}

fn arg<'a>(tokens: &[&'a str], i: usize) -> Res<&'a str> {
    tokens
        .get(i)
        .copied()
        .ok_or_else(|| format!("field {} is missing", i + 1))
}

fn num(s: &str) -> Res<i64> {
    let parsed = match s.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => s.parse(),
    };
    parsed.map_err(|_| format!("{s:?} is not a number"))
}

fn pair(s: &str) -> Res<(u16, u16)> {
    let (a, b) = s.split_once(':').ok_or_else(|| format!("{s:?} is not LO:HI"))?;
    Ok((num(a)? as u16, num(b)? as u16))
}

fn dtype(s: &str) -> Res<DType> {
    DType::ALL
        .into_iter()
        .find(|d| d.name() == s)
        .ok_or_else(|| format!("dtype {s:?} is not known"))
}

/// `BASE;S0/S1/S2]`.
fn strides(s: &str) -> Res<(i64, [i64; 3])> {
    let s = s.strip_suffix(']').ok_or("expected `]`")?;
    let (base, rest) = s.split_once(';').unwrap_or((s, ""));
    let mut strides = [0; 3];
    for (d, text) in rest.split('/').filter(|t| !t.is_empty()).enumerate() {
        *strides.get_mut(d).ok_or("at most three strides")? = num(text)?;
    }
    Ok((num(base)?, strides))
}

/// `cC.memG.bB`.
fn place(s: &str, t: &Target) -> Res<(u16, Place)> {
    let (chip, rest) = s
        .strip_prefix('c')
        .and_then(|s| s.split_once('.'))
        .ok_or_else(|| format!("{s:?} is not a place"))?;
    match queue(rest, Opcode::Read, t)? {
        Queue::Mem(place) => Ok((num(chip)? as u16, place)),
        _ => Err(format!("{s:?} is not a place")),
    }
}

/// `mem3.b1`, `mxm0`, `vxm3`, `sxm1`, `c2c0`: numbers count the east side first.
fn queue(s: &str, op: Opcode, t: &Target) -> Res<Queue> {
    let (unit, bank) = s.split_once(".b").unwrap_or((s, "0"));
    let at = unit.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    let (kind, n) = (&unit[..at], num(&unit[at..])? as u8);
    let side = |per: u8| {
        let per = per.max(1);
        let hemi = if n / per == 0 { Dir::East } else { Dir::West };
        (hemi, n % per)
    };
    Ok(match (kind, op) {
        ("mem", _) => {
            let (hemi, group) = side(t.groups);
            Queue::Mem(Place {
                hemi,
                group,
                bank: num(bank)? as u8,
            })
        }
        ("mxm", Opcode::Mul) => {
            let (hemi, plane) = side(t.mxm.planes_per_hemisphere);
            Queue::MxmMul(hemi, plane)
        }
        ("mxm", _) => {
            let (hemi, plane) = side(t.mxm.planes_per_hemisphere);
            Queue::MxmLoad(hemi, plane)
        }
        ("vxm", _) => Queue::Alu(n),
        ("sxm", _) => Queue::Sxm(side(1).0),
        ("c2c", Opcode::Recv) => Queue::Recv(n),
        ("c2c", _) => Queue::Send(n),
        _ => return Err(format!("{s:?} is not a queue")),
    })
}

fn opcode(s: &str) -> Res<(Opcode, AluOp)> {
    let find = |m: &str| Opcode::ALL.iter().copied().find(|o| o.mnemonic() == m);
    if let Some(op) = find(s) {
        return Ok((op, AluOp::Add));
    }
    let unknown = || format!("instruction {s:?} is not known");
    let (op, alu) = s.split_once('.').ok_or_else(unknown)?;
    let alu = AluOp::ALL
        .iter()
        .copied()
        .find(|a| a.name() == alu)
        .ok_or_else(unknown)?;
    Ok((find(op).ok_or_else(unknown)?, alu))
}

/// `st4.e+2:f16` or `a3+1:i32`; also says whether the dtype was given.
fn operand(s: &str) -> Res<(Operand, bool)> {
    let (s, dt) = match s.split_once(':') {
        Some((s, d)) => (s, Some(dtype(d)?)),
        None => (s, None),
    };
    let (s, delay) = match s.split_once('+') {
        Some((s, d)) => (s, num(d)? as u8),
        None => (s, 0),
    };
    let src = if let Some(rest) = s.strip_prefix("st") {
        let (index, dir) = rest.split_once('.').ok_or_else(|| format!("{s:?} is not a stream"))?;
        let dir = match dir {
            "e" => Dir::East,
            "w" => Dir::West,
            _ => return Err(format!("{s:?} is not a stream")),
        };
        Src::Stream(Stream {
            dir,
            index: num(index)? as u8,
        })
    } else {
        Src::Alu(num(&s[1..])? as u8)
    };
    let operand = Operand {
        src,
        delay,
        dtype: dt.unwrap_or(DType::F32),
    };
    Ok((operand, dt.is_some()))
}

fn immediate(s: &str, dtype: DType) -> Res<u32> {
    if dtype.is_float() || s.contains('.') {
        s.parse::<f32>()
            .map(f32::to_bits)
            .map_err(|_| format!("{s:?} is not an operand"))
    } else {
        num(s).map(|v| v as i32 as u32)
    }
}

/// Bytes of `n` elements as the DATA text says.
fn data(tokens: &[&str], n: usize, dtype: DType) -> Res<Vec<u8>> {
    let float = |i: usize| -> Res<f64> {
        arg(tokens, i)?
            .parse::<f64>()
            .map_err(|_| format!("field {} of the data is not a number", i + 1))
    };
    let kind = tokens.first().copied().unwrap_or("");
    let mut state = if kind == "rand" { float(1)? as u64 } else { 0 };
    let mut out = Vec::with_capacity(n * dtype.bytes());
    for i in 0..n {
        let v = match kind {
            "fill" => float(1)?,
            "iota" => float(1)? + float(2)? * i as f64,
            "mod" => {
                let m = float(1)?;
                i as f64 % m - (m / 2.0).floor()
            }
            "rand" => {
                state = splitmix(state);
                (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
            }
            "list" => float(1 + i)?,
            other => return Err(format!("data {other:?} is not known")),
        };
        match dtype {
            DType::F32 => out.extend((v as f32).to_le_bytes()),
            DType::F16 => out.extend(half::f16::from_f64(v).to_le_bytes()),
            DType::BF16 => out.extend(half::bf16::from_f64(v).to_le_bytes()),
            DType::I32 => out.extend((v as i32).to_le_bytes()),
            DType::U16 => out.extend((v as u16).to_le_bytes()),
            DType::I4 => out.push(v as u8),
            DType::I8 => out.extend((v as i8).to_le_bytes()),
            DType::U8 => out.extend((v as u8).to_le_bytes()),
        }
    }
    Ok(out)
}

/// One step of the splitmix64 generator.
pub fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hand-written programs of `tests/cases/verify`, by file name; all of them are valid.
pub fn verify_cases() -> Vec<(String, String)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../cases/verify");
    let mut out: Vec<(String, String)> = std::fs::read_dir(dir)
        .expect("the folder of cases")
        .filter_map(|f| {
            let f = f.ok()?;
            let name = f.file_name().into_string().ok()?;
            let text = std::fs::read_to_string(f.path()).ok()?;
            name.ends_with(".lks-asm").then_some((name, text))
        })
        .collect();
    out.sort();
    out
}

/// The hand-written program in `tests/cases/verify/NAME.lks-asm`.
pub fn verify_case(name: &str) -> String {
    let path = format!("{}/../cases/verify/{name}.lks-asm", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}
