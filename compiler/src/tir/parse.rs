//! Parses the `.tir` text form.
//!
//! ```text
//! tir v1 @mlp
//!   v0: f32[1,64]  = input "x"                    ; `as float64[64]` where the host's type differs
//!   v1: f32[64,32] = const @fc.w                  ; elements made up from the name; `[1.0,2.0]` gives them
//!   v2: f32[1,32]  = contract v0, v1 over(1:0)    ; `batch(0:0)` before `over`
//!   v3: f32[1,32]  = map n0 = exp(v2), div(n0, add(n0, 1.0))
//!   v4: f32[32,1]  = move v3{perm 1,0}            ; `{reshape}`, `{[2,3]:(3,1)+0 box(0:1,0:3) | ..}`, `fill 0x3f800000`
//!   v5: f32[1,1]   = reduce.add v3 over(1)
//!   output "y" = v5
//! ```
//!
//! Also `state "h" from "hn"` with a line `next "h" = v7`, `gather`, `scatter`, `scatter.add`, `sort.up v1, v2 axis 0`, `transfer`.
//! Printing what was parsed gives the same text, comments aside.

use super::op::{Arg, Combiner, MapNode, Op, ReduceOp, arg_dtype, compute_dtype};
use super::print::host_dtype;
use super::{ConstData, IndexMap, Port, StateData, TensorIr, Type, ValueData, ValueId, View};
use crate::text::{Line, ParseError, Token, lex};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{AluOp, DType, scalar};
use std::collections::BTreeMap;

type Res<T> = Result<T, ParseError>;

/// The program of a text.
///
/// # Errors
/// At the first place that does not parse. What parses may still break invariants: see [`super::verify`].
pub fn parse(text: &str) -> Res<TensorIr> {
    let mut parser = Parser {
        ir: TensorIr::default(),
        values: BTreeMap::new(),
    };
    let mut lines = lex(text)?.into_iter();
    if let Some(mut line) = lines.next() {
        let ok = line.eat_word("tir") && line.eat_word("v1");
        match line.next_token() {
            Some(Token::Name(name)) if ok => parser.ir.name = name,
            _ => return line.error("expected the header: tir v1 @name"),
        }
    }
    for mut line in lines {
        parser.line(&mut line)?;
        line.finish()?;
    }
    Ok(parser.ir)
}

struct Parser {
    ir: TensorIr,
    values: BTreeMap<String, ValueId>,
}

impl Parser {
    fn line(&mut self, line: &mut Line) -> Res<()> {
        if line.eat_word("output") {
            let name = line.text()?;
            let host = self.host(line)?;
            line.expect('=')?;
            let value = self.value(line)?;
            self.port(name, host, value, false);
            return Ok(());
        }
        if line.eat_word("next") {
            let name = line.text()?;
            line.expect('=')?;
            let next = self.value(line)?;
            return match self.ir.states.iter_mut().find(|(_, s)| s.name == name) {
                Some((_, state)) => {
                    state.next = next;
                    Ok(())
                }
                None => line.error(format!("no state is named \"{name}\"")),
            };
        }
        let label = line.word()?;
        line.expect(':')?;
        let ty = self.ty(line)?;
        line.expect('=')?;
        let id = self.ir.values.next_id();
        let mut inputs = Vec::new();
        let op = self.op(line, id, &ty, &mut inputs)?;
        self.ir.values.push(ValueData {
            ty,
            op,
            inputs,
            origins: Vec::new(),
        });
        if self.values.insert(label.clone(), id).is_some() {
            return line.error(format!("{label} is defined twice"));
        }
        Ok(())
    }

    fn op(&mut self, line: &mut Line, id: ValueId, ty: &Type, inputs: &mut Vec<ValueId>) -> Res<Op> {
        let keyword = line.word()?;
        let (name, suffix) = keyword.split_once('.').unwrap_or((&keyword, ""));
        let reduce_op = |line: &Line| match ReduceOp::ALL.into_iter().find(|r| r.name() == suffix) {
            Some(op) => Ok(op),
            None => line.error(format!("\"{suffix}\" is no reduction, allowed: add, mul, min, max")),
        };
        Ok(match name {
            "input" => {
                let name = line.text()?;
                let host = self.host(line)?;
                let same = (host_dtype(ty.dtype), ty.shape.clone());
                let (host, shape) = host.unwrap_or(same);
                self.ir.inputs.push(Port {
                    name,
                    host,
                    shape,
                    value: id,
                });
                Op::Input
            }
            "const" => self.constant(line, ty)?,
            "state" => {
                let name = line.text()?;
                if !line.eat_word("from") {
                    return line.error("expected: from \"output\"");
                }
                let from = line.text()?;
                Op::State(self.ir.states.push(StateData {
                    name,
                    ty: ty.clone(),
                    from,
                    next: id,
                }))
            }
            "move" => {
                let mut parts = Vec::new();
                loop {
                    let v = self.value(line)?;
                    line.expect('{')?;
                    let map = self.map(line, &self.ir.values[v].ty.shape.clone(), ty)?;
                    line.expect('}')?;
                    parts.push(self.ir.maps.intern(map));
                    inputs.push(v);
                    if !line.eat(',') {
                        break;
                    }
                }
                let fill = if line.eat_word("fill") { bits(line)? } else { 0 };
                Op::Move { parts, fill }
            }
            "map" => Op::Map {
                nodes: self.expression(line, inputs)?,
            },
            "reduce" => {
                let op = reduce_op(line)?;
                self.operands(line, inputs)?;
                if !line.eat_word("over") {
                    return line.error("expected: over(axes)");
                }
                Op::Reduce {
                    op,
                    axes: list(line, '(', ')', Line::number)?,
                }
            }
            "contract" => {
                self.operands(line, inputs)?;
                let pair = |line: &mut Line| -> Res<(u8, u8)> {
                    let left = line.number()?;
                    line.expect(':')?;
                    Ok((left, line.number()?))
                };
                let batch = if line.eat_word("batch") {
                    list(line, '(', ')', pair)?
                } else {
                    Vec::new()
                };
                if !line.eat_word("over") {
                    return line.error("expected: over(left:right,..)");
                }
                Op::Contract {
                    batch,
                    contracted: list(line, '(', ')', pair)?,
                    acc: ty.dtype,
                }
            }
            "gather" => {
                self.operands(line, inputs)?;
                Op::Gather
            }
            "scatter" => {
                let combiner = if suffix.is_empty() {
                    Combiner::Replace
                } else {
                    Combiner::Reduce(reduce_op(line)?)
                };
                self.operands(line, inputs)?;
                Op::Scatter { combiner }
            }
            "sort" => {
                let descending = match suffix {
                    "up" => false,
                    "down" => true,
                    _ => return line.error("expected sort.up or sort.down"),
                };
                self.operands(line, inputs)?;
                if !line.eat_word("axis") {
                    return line.error("expected: axis number");
                }
                Op::Sort {
                    axis: line.number()?,
                    descending,
                }
            }
            "transfer" => {
                self.operands(line, inputs)?;
                Op::Transfer
            }
            _ => return line.error(format!("\"{name}\" is no operation")),
        })
    }

    fn value(&self, line: &mut Line) -> Res<ValueId> {
        let at = line.clone();
        let word = line.word()?;
        match self.values.get(&word) {
            Some(&v) => Ok(v),
            None => at.error(format!("{word} is not defined before its use")),
        }
    }

    fn operands(&self, line: &mut Line, inputs: &mut Vec<ValueId>) -> Res<()> {
        loop {
            inputs.push(self.value(line)?);
            if !line.eat(',') {
                return Ok(());
            }
        }
    }

    fn ty(&self, line: &mut Line) -> Res<Type> {
        let at = line.clone();
        let word = line.word()?;
        let Some(dtype) = DType::ALL.into_iter().find(|d| d.name() == word) else {
            return at.error(format!("\"{word}\" is no element type"));
        };
        Ok(Type {
            dtype,
            shape: list(line, '[', ']', Line::number)?,
        })
    }

    fn host(&self, line: &mut Line) -> Res<Option<(HostDType, Vec<usize>)>> {
        if !line.eat_word("as") {
            return Ok(None);
        }
        let at = line.clone();
        let word = line.word()?;
        let Some(dtype) = HostDType::ALL.into_iter().find(|d| d.name() == word) else {
            return at.error(format!("\"{word}\" is no host type"));
        };
        Ok(Some((dtype, list(line, '[', ']', Line::number)?)))
    }

    fn port(&mut self, name: String, host: Option<(HostDType, Vec<usize>)>, value: ValueId, input: bool) {
        let ty = &self.ir.values[value].ty;
        let (host, shape) = host.unwrap_or((host_dtype(ty.dtype), ty.shape.clone()));
        let ports = if input {
            &mut self.ir.inputs
        } else {
            &mut self.ir.outputs
        };
        ports.push(Port {
            name,
            host,
            shape,
            value,
        });
    }

    fn constant(&mut self, line: &mut Line, ty: &Type) -> Res<Op> {
        let Some(Token::Name(name)) = line.next_token() else {
            return line.error("expected @name");
        };
        let (mut stored, mut bytes) = (host_dtype(ty.dtype), Vec::new());
        if line.peek() == Some(&Token::Mark('[')) {
            let elements = list(line, '[', ']', literal)?;
            if elements.len() != ty.elements() {
                return line.error(format!("{} elements, the type has {}", elements.len(), ty.elements()));
            }
            for element in elements {
                let bits = if ty.dtype.is_float() {
                    scalar::narrow_f32(f32::from_bits(element.as_f32()), ty.dtype)
                } else {
                    scalar::narrow_i32(element.bits as i32, ty.dtype)
                };
                bytes.extend(&bits.to_le_bytes()[..ty.dtype.bytes()]);
            }
        } else {
            if line.eat_word("as") {
                let at = line.clone();
                let word = line.word()?;
                stored = match HostDType::ALL.into_iter().find(|d| d.name() == word) {
                    Some(stored) => stored,
                    None => return at.error(format!("\"{word}\" is no host type")),
                };
            }
            bytes = made_up(&name, ty.elements(), stored);
        }
        Ok(Op::Const(self.ir.consts.push(ConstData {
            name,
            ty: ty.clone(),
            stored,
            bytes: bytes.into(),
        })))
    }

    fn map(&self, line: &mut Line, operand: &[usize], ty: &Type) -> Res<IndexMap> {
        if line.eat_word("reshape") {
            return Ok(IndexMap::reshape(&ty.shape));
        }
        if line.eat_word("perm") {
            let mut perm = vec![line.number::<usize>()?];
            while line.eat(',') {
                perm.push(line.number()?);
            }
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen != (0..operand.len()).collect::<Vec<_>>() {
                return line.error(format!("{perm:?} does not permute {} axes", operand.len()));
            }
            return Ok(IndexMap::transpose(operand, &perm));
        }
        let mut views = Vec::new();
        loop {
            let shape: Vec<usize> = list(line, '[', ']', Line::number)?;
            line.expect(':')?;
            let strides: Vec<i64> = list(line, '(', ')', Line::number)?;
            line.expect('+')?;
            let offset = line.number()?;
            if strides.len() != shape.len() {
                return line.error("as many strides as extents expected");
            }
            let mut view = View::strided(shape, strides, offset);
            if line.eat_word("box") {
                let bounds = list(line, '(', ')', |line| -> Res<(usize, usize)> {
                    let lo = line.number()?;
                    line.expect(':')?;
                    Ok((lo, line.number()?))
                })?;
                if bounds.len() != view.shape.len()
                    || bounds.iter().zip(&view.shape).any(|(b, &n)| b.0 > b.1 || b.1 > n)
                {
                    return line.error("a box that is not inside the extents");
                }
                (view.lo, view.hi) = bounds.into_iter().unzip();
            }
            views.push(view);
            if !line.eat('|') {
                return Ok(IndexMap { views });
            }
        }
    }

    fn expression(&mut self, line: &mut Line, inputs: &mut Vec<ValueId>) -> Res<Vec<MapNode>> {
        let mut e = Expression {
            depth: 0,
            nodes: Vec::new(),
            labels: BTreeMap::new(),
            inputs: Vec::new(),
        };
        loop {
            let label = match (line.peek(), line.peek_second()) {
                (Some(Token::Word(word)), Some(Token::Mark('='))) => Some(word.clone()),
                _ => None,
            };
            if label.is_some() {
                line.next_token();
                line.next_token();
            }
            let node = self.node(line, &mut e)?;
            match label {
                Some(label) => {
                    e.labels.insert(label, node);
                    line.expect(',')?;
                }
                None => break,
            }
        }
        *inputs = e.inputs;
        Ok(e.nodes)
    }

    /// An operation with its arguments; its index.
    fn node(&self, line: &mut Line, e: &mut Expression) -> Res<u32> {
        let at = line.clone();
        let word = line.word()?;
        let (name, suffix) = word.split_once('.').unwrap_or((&word, ""));
        let Some(&op) = AluOp::ALL.iter().find(|op| op.name() == name) else {
            return at.error(format!("\"{name}\" is no operation of a map"));
        };
        line.expect('(')?;
        let mut node = MapNode {
            op,
            dtype: DType::I32,
            args: [Arg::Imm(0); 3],
            axis: 0,
        };
        if op == AluOp::Iota {
            node.axis = line.number()?;
            line.expect(')')?;
            e.nodes.push(node);
            return Ok(e.nodes.len() as u32 - 1);
        }
        let mut literals = [None; 3];
        #[allow(clippy::needless_range_loop)] // `i` indexes two arrays of different lifetimes
        for i in 0..op.arity() {
            if i > 0 {
                line.expect(',')?;
            }
            match line.peek() {
                Some(Token::Word(word)) if e.labels.contains_key(word) => {
                    node.args[i] = Arg::Node(e.labels[word]);
                    line.next_token();
                }
                Some(Token::Word(word)) if self.values.contains_key(word) => {
                    let v = self.value(line)?;
                    let at = e.inputs.iter().position(|&i| i == v).unwrap_or_else(|| {
                        e.inputs.push(v);
                        e.inputs.len() - 1
                    });
                    node.args[i] = Arg::Operand(at as u32);
                }
                Some(Token::Word(word)) if !matches!(word.as_str(), "inf" | "-inf" | "NaN") => {
                    if e.depth == MAX_DEPTH {
                        return line.error(format!("expressions are at most {MAX_DEPTH} deep"));
                    }
                    e.depth += 1;
                    node.args[i] = Arg::Node(self.node(line, e)?);
                    e.depth -= 1;
                }
                _ => literals[i] = Some(literal(line)?),
            }
        }
        line.expect(')')?;
        // The type of the arguments that have one decides; literals follow it, or alone have their own.
        let dtypes: Vec<DType> = e.inputs.iter().map(|&v| self.ir.values[v].ty.dtype).collect();
        let first = usize::from(op == AluOp::Select);
        let typed = (first..op.arity())
            .filter(|&i| literals[i].is_none())
            .find_map(|i| arg_dtype(node.args[i], &e.nodes, &dtypes));
        let float = |l: &Literal| if l.float { DType::F32 } else { DType::I32 };
        let compute = typed
            .or_else(|| literals[first..].iter().flatten().map(float).next())
            .unwrap_or(DType::I32);
        for (i, slot) in literals.iter().enumerate() {
            if let Some(literal) = slot {
                let wide = compute.is_float() && i >= first;
                node.args[i] = Arg::Imm(if wide { literal.as_f32() } else { literal.bits });
            }
        }
        node.dtype = match op {
            AluOp::Cvt => match DType::ALL.into_iter().find(|d| d.name() == suffix) {
                Some(to) => to,
                None => return at.error(format!("\"{suffix}\" is no element type")),
            },
            _ => scalar::result_type(op, compute),
        };
        e.nodes.push(node);
        debug_assert!(compute_dtype(&e.nodes, e.nodes.len() - 1, &dtypes) == compute || typed.is_none());
        Ok(e.nodes.len() as u32 - 1)
    }
}

/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 200;

struct Expression {
    depth: usize,
    nodes: Vec<MapNode>,
    labels: BTreeMap<String, u32>,
    inputs: Vec<ValueId>,
}

/// A number in an expression or constant.
#[derive(Clone, Copy)]
struct Literal {
    bits: u32,
    float: bool,
}

impl Literal {
    /// Bits of the f32 of this value.
    fn as_f32(self) -> u32 {
        if self.float {
            self.bits
        } else {
            (self.bits as i32 as f32).to_bits()
        }
    }
}

fn literal(line: &mut Line) -> Res<Literal> {
    let text = match line.peek() {
        Some(Token::Word(text) | Token::Number(text)) => text.clone(),
        _ => return line.error("expected a number"),
    };
    let hex = text
        .strip_prefix("0x")
        .and_then(|t| t.strip_suffix('f'))
        .and_then(|t| u32::from_str_radix(t, 16).ok());
    let found = match (hex, text.parse::<i32>(), text.parse::<f32>()) {
        (Some(bits), _, _) => Literal { bits, float: true },
        (None, Ok(int), _) => Literal {
            bits: int as u32,
            float: false,
        },
        (None, Err(_), Ok(x)) if x.is_nan() => Literal {
            bits: 0x7fc0_0000,
            float: true,
        },
        (None, Err(_), Ok(x)) => Literal {
            bits: x.to_bits(),
            float: true,
        },
        _ => return line.error(format!("\"{text}\" is no number")),
    };
    line.next_token();
    Ok(found)
}

fn bits(line: &mut Line) -> Res<u32> {
    match line.peek() {
        Some(Token::Number(text)) => match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(bits) => {
                line.next_token();
                Ok(bits)
            }
            Err(_) => line.error("expected bits such as 0x3f800000"),
        },
        _ => line.error("expected bits such as 0x3f800000"),
    }
}

fn list<T>(line: &mut Line, open: char, close: char, item: impl Fn(&mut Line) -> Res<T>) -> Res<Vec<T>> {
    line.expect(open)?;
    let mut items = Vec::new();
    if line.eat(close) {
        return Ok(items);
    }
    loop {
        items.push(item(line)?);
        if line.eat(close) {
            return Ok(items);
        }
        line.expect(',')?;
    }
}

/// Elements of a constant whose text gives none: the same for the same name, floats in [-1, 1), integers in 0..8.
fn made_up(name: &str, n: usize, stored: HostDType) -> Vec<u8> {
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    }) | 1;
    let mut bytes = Vec::with_capacity(n.saturating_mul(stored.bytes()));
    for _ in 0..n {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match stored {
            HostDType::F32 => bytes.extend(x.to_le_bytes()),
            HostDType::F64 => bytes.extend(f64::from(x).to_le_bytes()),
            HostDType::F16 => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
            HostDType::BF16 => bytes.extend(half::bf16::from_f32(x).to_le_bytes()),
            HostDType::Bool => bytes.push(u8::from(x > 0.0)),
            _ => bytes.extend(&(((x + 1.0) * 4.0) as u64).to_le_bytes()[..stored.bytes()]),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "tir v1 @all
  v0: f32[2,3] = input \"x\" as float64[6]
  v1: f32[3,4] = const @w
  v2: i32[2] = const @\"a b\" [1,-2]
  v3: f16[20] = const @h as float64
  v4: f32[2,4] = contract v0, v1 over(1:0)
  v5: f32[2,4] = map n0 = exp(sub(v4, 0.5)), div(n0, add(n0, 1.0))
  v6: i32[2,4] = map select(lt(v5, inf), iota(1), -7)
  v7: f16[2,4] = map cvt.f16(max(v5, NaN))
  v8: f32[4,2] = move v5{perm 1,0}
  v9: f32[2,6] = move v5{[2,6]:(4,1)+-1 box(0:2,1:5)} fill 0x3f800000
  v10: f32[8] = move v5{reshape}
  v11: f32[2,1] = reduce.max v5 over(1)
  v12: f32[2,4] = gather v5, v2
  v13: f32[2,4] = scatter.add v5, v2, v12
  v14: f32[2,4] = scatter v5, v2, v12
  v15: f32[2,4] = sort.down v5, v13 axis 1
  v16: f32[2,4] = state \"s\" from \"y\"
  v17: f32[2,4] = map add(v15, v16)
  v18: f32[4,3] = move v8{[4,2]:(2,1)+0 | [4,3]:(2,1)+0 box(0:4,0:2)}, v1{[4,3]:(0,0)+7 box(0:4,2:3)}
  next \"s\" = v17
  output \"y\" = v17
  output \"z\" as int64[2,4] = v6
";

    #[test]
    fn printing_what_was_parsed_gives_the_text_back() {
        let ir = parse(ALL).unwrap();
        assert_eq!(ir.to_string(), ALL);
        assert_eq!(parse(&ir.to_string()).unwrap().to_string(), ALL);
        let mut errors = lockstep_graph::VerifyErrors::new();
        lockstep_graph::Verify::verify(&ir, &crate::tir::Phase::Lowered, &mut errors);
        assert!(errors.is_empty(), "{errors}");
    }

    #[test]
    fn errors_name_their_place() {
        for (text, expected) in [
            ("tir v2 @x", "line 1, column 8: expected the header: tir v1 @name"),
            (
                "tir v1 @x\n v0: f33[1] = input \"x\"",
                "line 2, column 6: \"f33\" is no element type",
            ),
            (
                "tir v1 @x\n output \"y\" = v1",
                "line 2, column 15: v1 is not defined before its use",
            ),
            (
                "tir v1 @x\n v0: f32[1] = input \"x",
                "line 2, column 21: a string that does not end on its line",
            ),
            (
                "tir v1 @x\n v0: f32[1] = frob v0",
                "line 2, column 20: \"frob\" is no operation",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
    }
}
