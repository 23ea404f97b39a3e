//! Materialises values all of whose ancestors are constants.
//!
//! Moves, which are most of what is computed from weights, copy element bytes by strides; everything else goes through the
//! interpreter.

use super::eval::{Data, Tensor, eval_op};
use super::map::{IndexMap, View, unravel};
use super::op::Op;
use super::{ConstData, TensorIr, ValueId};
use crate::error::CompileError;
use lockstep_graph::{IdSet, Weights};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{DType, scalar};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The values all of whose ancestors are constants: those cost nothing at run time.
pub fn const_values(ir: &TensorIr) -> IdSet<ValueId> {
    let mut set = IdSet::new();
    for (id, value) in ir.values.iter() {
        let constant = match value.op {
            Op::Const(_) => true,
            Op::Input | Op::State(_) | Op::Transfer => false,
            _ => value.inputs.iter().all(|&v| set.contains(v)),
        };
        if constant {
            set.insert(id);
        }
    }
    set
}

/// Whether a constant value is made of data that is absent, so that its type is all that is known.
pub fn is_absent(ir: &TensorIr, v: ValueId) -> bool {
    let mut seen = IdSet::new();
    let mut open = vec![v];
    while let Some(v) = open.pop() {
        if !seen.insert(v) {
            continue;
        }
        match ir.values[v].op {
            Op::Const(k) if ir.consts[k].bytes.is_absent() => return true,
            _ => open.extend(&ir.values[v].inputs),
        }
    }
    false
}

/// Little-endian element bytes of a value of [`const_values`], row-major.
///
/// # Errors
/// If data is absent; if the value depends on an input or state (a bug of the caller), or a stored integer does not fit i32.
pub fn materialise(ir: &TensorIr, v: ValueId) -> Result<Vec<u8>, CompileError> {
    Ok(Evaluation::of(ir, v).bytes(v)?.into_owned())
}

/// As [`materialise`], sharing the bytes of a constant that is stored as it is wanted.
///
/// # Errors
/// As [`materialise`].
pub fn weights(ir: &TensorIr, v: ValueId) -> Result<Weights, CompileError> {
    let Op::Const(k) = ir.values[v].op else {
        return materialise(ir, v).map(Weights::from);
    };
    let stored = &ir.consts[k];
    Ok(match convert(stored)? {
        Cow::Borrowed(_) => stored.bytes.clone(),
        Cow::Owned(made) => made.into(),
    })
}

/// The value as a tensor; see [`materialise`].
///
/// # Errors
/// As [`materialise`].
pub fn tensor(ir: &TensorIr, v: ValueId) -> Result<Tensor, CompileError> {
    let ty = ir.values[v].ty.clone();
    let bytes = Evaluation::of(ir, v).bytes(v)?;
    Ok(Tensor::from_bits(ty.clone(), from_bytes(&bytes, ty.dtype)))
}

/// A value and its ancestors; those that several of them use are computed once.
struct Evaluation<'a> {
    ir: &'a TensorIr,
    /// Computed values with several users, as far as they are known.
    shared: BTreeMap<ValueId, Option<Vec<u8>>>,
}

impl<'a> Evaluation<'a> {
    fn of(ir: &'a TensorIr, v: ValueId) -> Evaluation<'a> {
        let mut seen = IdSet::new();
        let mut shared = BTreeMap::new();
        let mut open = vec![v];
        while let Some(v) = open.pop() {
            if !matches!(ir.values[v].op, Op::Const(_)) && !seen.insert(v) {
                shared.insert(v, None);
            } else {
                open.extend(&ir.values[v].inputs);
            }
        }
        Evaluation { ir, shared }
    }

    fn bytes(&mut self, v: ValueId) -> Result<Cow<'a, [u8]>, CompileError> {
        if let Some(Some(known)) = self.shared.get(&v) {
            return Ok(known.clone().into());
        }
        let found = self.computed(v)?;
        if let Some(slot) = self.shared.get_mut(&v) {
            *slot = Some(found.to_vec());
        }
        Ok(found)
    }

    fn computed(&mut self, v: ValueId) -> Result<Cow<'a, [u8]>, CompileError> {
        let ir = self.ir;
        let value = &ir.values[v];
        match &value.op {
            Op::Const(k) => convert(&ir.consts[*k]),
            Op::Input | Op::State(_) | Op::Transfer => Err(CompileError::internal(
                "const-eval",
                format!("{v} is {}, not a constant", value.op.name()),
            )),
            Op::Move { parts, fill } => {
                let size = value.ty.dtype.bytes();
                let mut out = Vec::with_capacity(value.ty.elements() * size);
                let total = matches!(parts.as_slice(), [one] if ir.maps.get(*one).is_total());
                if total || *fill == 0 {
                    out.resize(value.ty.elements() * size, 0);
                } else {
                    (0..value.ty.elements()).for_each(|_| out.extend(&fill.to_le_bytes()[..size]));
                }
                for (&part, &input) in parts.iter().zip(&value.inputs).rev() {
                    copy(ir.maps.get(part), &self.bytes(input)?, &mut out, size);
                }
                Ok(out.into())
            }
            op => {
                let mut operands = Vec::with_capacity(value.inputs.len());
                for &input in &value.inputs {
                    let ty = ir.values[input].ty.clone();
                    let bits = from_bytes(&self.bytes(input)?, ty.dtype);
                    operands.push(Tensor::from_bits(ty, bits));
                }
                let result = eval_op(op, &operands.iter().collect::<Vec<_>>(), &value.ty, &ir.maps);
                Ok(to_bytes(&result).into())
            }
        }
    }
}

/// A constant's elements.
///
/// # Errors
/// If a stored integer does not fit i32 and is no sentinel of a slice end (see [`convert`]).
pub fn read_const(data: &ConstData) -> Result<Tensor, CompileError> {
    Ok(Tensor::from_bits(
        data.ty.clone(),
        from_bytes(&convert(data)?, data.ty.dtype),
    ))
}

/// Element bytes of a constant in its IR dtype. Integers beyond i32 saturate if they are within 2 of the ends of i64 (models write
/// "to the end" so) and are an error otherwise.
///
/// # Errors
/// As said, and if the stored bytes are not as long as the type says.
pub fn convert(data: &ConstData) -> Result<Cow<'_, [u8]>, CompileError> {
    if data.bytes.is_absent() {
        let message = format!("constant {} has a shape and no data", data.name);
        return Err(CompileError::internal("const-eval", message));
    }
    let (bytes, n) = (data.bytes.bytes(), data.ty.elements());
    let size = data.stored.bytes();
    if bytes.len() != n * size {
        let message = format!(
            "constant {} has {} bytes, its type needs {}",
            data.name,
            bytes.len(),
            n * size
        );
        return Err(CompileError::internal("const-eval", message));
    }
    let same = matches!(
        (data.stored, data.ty.dtype),
        (HostDType::F32, DType::F32)
            | (HostDType::F16, DType::F16)
            | (HostDType::BF16, DType::BF16)
            | (HostDType::I32, DType::I32)
            | (HostDType::I8, DType::I8)
            | (HostDType::U8, DType::U8)
    );
    if same {
        return Ok(bytes.into());
    }
    let mut out = Vec::with_capacity(n * data.ty.dtype.bytes());
    for element in bytes.chunks_exact(size) {
        let to = data.ty.dtype;
        let bits = if matches!(
            data.stored,
            HostDType::F32 | HostDType::F16 | HostDType::BF16 | HostDType::F64
        ) {
            let float = read_float(element, data.stored);
            scalar::narrow_f32(float as f32, to)
        } else {
            let wide = read_int(element, data.stored);
            let int = i32::try_from(wide).or_else(|_| {
                let sentinel = wide >= i128::from(i64::MAX) - 1 || wide <= i128::from(i64::MIN) + 1;
                let end = if wide > 0 { i32::MAX } else { i32::MIN };
                let message = format!(
                    "constant {} holds {wide}, allowed: -2147483648 to 2147483647",
                    data.name
                );
                if sentinel {
                    Ok(end)
                } else {
                    Err(CompileError::unsupported(lockstep_graph::Origin::default(), message))
                }
            })?;
            scalar::narrow_i32(int, to)
        };
        out.extend(&bits.to_le_bytes()[..to.bytes()]);
    }
    Ok(out.into())
}

fn read_float(e: &[u8], stored: HostDType) -> f64 {
    let mut raw = [0u8; 8];
    raw[..e.len()].copy_from_slice(e);
    let bits = u64::from_le_bytes(raw);
    match stored {
        HostDType::F64 => f64::from_bits(bits),
        HostDType::F16 => half::f16::from_bits(bits as u16).to_f64(),
        HostDType::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

fn read_int(e: &[u8], stored: HostDType) -> i128 {
    let mut raw = [0u8; 8];
    raw[..e.len()].copy_from_slice(e);
    let bits = u64::from_le_bytes(raw);
    match stored {
        HostDType::I8 => i128::from(bits as u8 as i8),
        HostDType::I16 => i128::from(bits as u16 as i16),
        HostDType::I32 => i128::from(bits as u32 as i32),
        HostDType::I64 => i128::from(bits as i64),
        HostDType::Bool => i128::from(bits != 0),
        _ => i128::from(bits),
    }
}

/// Element bytes as bits of the f32 or i32 that elements widen to.
fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<u32> {
    let widen = |e: &[u8]| {
        let mut raw = [0u8; 4];
        raw[..e.len()].copy_from_slice(e);
        scalar::widen(u32::from_le_bytes(raw), dtype)
    };
    bytes.chunks_exact(dtype.bytes()).map(widen).collect()
}

/// Little-endian element bytes of a tensor.
pub fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let (dtype, size) = (tensor.ty.dtype, tensor.ty.dtype.bytes());
    let mut out = Vec::with_capacity(tensor.ty.elements() * size);
    match &tensor.data {
        Data::F(v) => v
            .iter()
            .for_each(|x| out.extend(&scalar::narrow_f32(*x, dtype).to_le_bytes()[..size])),
        Data::I(v) => v
            .iter()
            .for_each(|&x| out.extend(&scalar::narrow_i32(x, dtype).to_le_bytes()[..size])),
    }
    out
}

/// Calls `f` with (output element, operand element) wherever the map is defined.
pub fn for_each(map: &IndexMap, mut f: impl FnMut(usize, usize)) {
    let Some((last, inner)) = map.views.split_last() else {
        return;
    };
    let through = |mut index: i64| -> Option<usize> {
        for view in inner.iter().rev() {
            index = view.at(&unravel(usize::try_from(index).ok()?, &view.shape)?)?;
        }
        usize::try_from(index).ok()
    };
    runs(last, |to, from, step, count| {
        for i in 0..count {
            let from = from + i as i64 * step;
            let found = if inner.is_empty() {
                usize::try_from(from).ok()
            } else {
                through(from)
            };
            if let Some(from) = found {
                f(to + i, from);
            }
        }
    });
}

/// Calls `f(first output element, first linear index, step, count)` for every defined row of a view along its last axis.
fn runs(view: &View, mut f: impl FnMut(usize, i64, i64, usize)) {
    let rank = view.shape.len();
    if view.is_empty() {
        return;
    }
    if rank == 0 {
        return f(0, view.offset, 0, 1);
    }
    let own = View::contiguous(&view.shape).strides;
    let (lo, hi, step) = (view.lo[rank - 1], view.hi[rank - 1], view.strides[rank - 1]);
    let mut c: Vec<usize> = view.lo.clone();
    loop {
        let to: i64 = c.iter().zip(&own).map(|(&c, s)| c as i64 * s).sum();
        let from: i64 = view.offset + c.iter().zip(&view.strides).map(|(&c, s)| c as i64 * s).sum::<i64>();
        f(to as usize, from, step, hi - lo);
        let mut d = rank - 1;
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            c[d] += 1;
            if c[d] < view.hi[d] {
                break;
            }
            c[d] = view.lo[d];
        }
    }
}

/// Rows and columns of the blocks in which a transposition is copied, so that both sides stay in cache.
const BLOCK: usize = 32;

/// Copies the elements that a map defines.
fn copy(map: &IndexMap, source: &[u8], out: &mut [u8], size: usize) {
    let [view] = map.views.as_slice() else {
        return for_each(map, |to, from| {
            out[to * size..][..size].copy_from_slice(&source[from * size..][..size])
        });
    };
    let rank = view.shape.len();
    // The axis along which the operand is contiguous; if that is not the last one, copy in blocks of it and the last.
    let unit = (0..rank)
        .rev()
        .find(|&d| view.strides[d] == 1 && view.hi[d] - view.lo[d] > 1);
    if let Some(d) = unit
        && d + 1 < rank
        && view.hi[rank - 1] - view.lo[rank - 1] > 1
    {
        return copy_blocked(view, d, source, out, size);
    }
    runs(view, |to, from, step, count| {
        if step == 1 {
            let from = from as usize * size;
            out[to * size..][..count * size].copy_from_slice(&source[from..][..count * size]);
        } else {
            copy_strided(source, out, size, (to, 1), (from, step), count);
        }
    });
}

fn copy_strided(source: &[u8], out: &mut [u8], size: usize, to: (usize, usize), from: (i64, i64), count: usize) {
    match size {
        1 => copy_sized::<1>(source, out, to, from, count),
        2 => copy_sized::<2>(source, out, to, from, count),
        _ => copy_sized::<4>(source, out, to, from, count),
    }
}

/// Elements of `N` bytes: their number is known when this is compiled, so that each is one load and one store.
fn copy_sized<const N: usize>(source: &[u8], out: &mut [u8], to: (usize, usize), from: (i64, i64), count: usize) {
    for i in 0..count {
        let at = (from.0 + i as i64 * from.1) as usize * N;
        out[(to.0 + i * to.1) * N..][..N].copy_from_slice(&source[at..][..N]);
    }
}

fn copy_blocked(view: &View, unit: usize, source: &[u8], out: &mut [u8], size: usize) {
    let last = view.shape.len() - 1;
    let own = View::contiguous(&view.shape).strides;
    // All other axes at one coordinate each: the outer view has a single element along `unit` and the last axis.
    let mut outer = view.clone();
    outer.hi[unit] = view.lo[unit] + 1;
    outer.hi[last] = view.lo[last] + 1;
    let (rows, columns) = (view.hi[unit] - view.lo[unit], view.hi[last] - view.lo[last]);
    runs(&outer, |to, from, _, _| {
        for r0 in (0..rows).step_by(BLOCK) {
            for c0 in (0..columns).step_by(BLOCK) {
                let count = BLOCK.min(columns - c0);
                for r in r0..rows.min(r0 + BLOCK) {
                    let to = to + r * own[unit] as usize + c0;
                    let from = from + r as i64 + c0 as i64 * view.strides[last];
                    copy_strided(source, out, size, (to, 1), (from, view.strides[last]), count);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::Type;
    use crate::tir::build::TirBuilder;

    #[test]
    fn moves_copy_like_the_interpreter() {
        let mut b = TirBuilder::new("t");
        let values: Vec<f32> = (0..2 * 70 * 3 * 50).map(|i| i as f32).collect();
        let w = b.const_f32("w", &[2, 70, 3, 50], &values).unwrap();
        let cases = [
            b.transpose(w, &[0, 3, 2, 1]).unwrap(),
            b.transpose(w, &[1, 0, 2, 3]).unwrap(),
            b.narrow(w, &[(1, -1, 2), (3, 2, 30), (0, 1, 3), (49, -7, 7)]).unwrap(),
            b.pad(w, &[(0, 1), (2, 0), (0, 0), (3, 1)], 7f32.to_bits()).unwrap(),
            b.concat(&[w, w], 2).unwrap(),
        ];
        for v in cases {
            let ir = b.ir();
            let value = &ir.values[v];
            let operands: Vec<Tensor> = value.inputs.iter().map(|&i| tensor(ir, i).unwrap()).collect();
            let expected = eval_op(&value.op, &operands.iter().collect::<Vec<_>>(), &value.ty, &ir.maps);
            assert_eq!(materialise(ir, v).unwrap(), to_bytes(&expected));
        }
    }

    #[test]
    fn what_several_values_use_is_computed_once() {
        let mut b = TirBuilder::new("t");
        let mut v = b.const_f32("w", &[3], &[1.0, -2.0, 0.5]).unwrap();
        for _ in 0..100 {
            v = b.map(&[v, v], |e, x| e.max(x[0], x[1])).unwrap();
        }
        assert_eq!(tensor(b.ir(), v).unwrap().to_f32(), [1.0, -2.0, 0.5]);
    }

    #[test]
    fn stored_integers_are_checked() {
        let mut b = TirBuilder::new("t");
        let ty = Type::new(DType::I32, &[2]);
        let ok = b
            .constant("end", ty.clone(), HostDType::I64, [i64::MAX, -3].as_slice().into())
            .unwrap();
        let bad = b
            .constant("big", ty, HostDType::I64, [1i64 << 40, 0].as_slice().into())
            .unwrap();
        assert_eq!(tensor(b.ir(), ok).unwrap().data, Data::I(vec![i32::MAX, -3]));
        let text = materialise(b.ir(), bad).unwrap_err().to_string();
        assert!(text.contains("constant big holds 1099511627776"), "{text}");
    }
}
