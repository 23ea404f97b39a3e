//! Vectors of the VXM and SXM: the scalar definitions of the ISA applied lane by lane.

use lockstep_isa::{AluOp, DType, for_each_alu_op, scalar};

macro_rules! define_alu_lanes {
    ($(($variant:ident, $code:literal, $name:literal, $arity:literal, $cost:literal, $lat:ident);)*) => {
        /// `out[i] = alu(op, a[i], b[i], c[i])` on widened lanes of type `ty`; all slices have the same length.
        pub(super) fn alu_lanes(
            op: AluOp,
            ty: DType,
            a: &[u32],
            b: &[u32],
            c: &[u32],
            out: &mut [u32],
        ) {
            match (op, ty) {
                $((AluOp::$variant, DType::F32) => {
                    zip(a, b, c, out, |a, b, c| scalar::alu(AluOp::$variant, DType::F32, a, b, c));
                }
                (AluOp::$variant, _) => {
                    zip(a, b, c, out, |a, b, c| scalar::alu(AluOp::$variant, DType::I32, a, b, c));
                })*
            }
        }
    };
}
for_each_alu_op!(define_alu_lanes);

#[inline(always)]
fn zip(a: &[u32], b: &[u32], c: &[u32], out: &mut [u32], f: impl Fn(u32, u32, u32) -> u32) {
    for (((o, &a), &b), &c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *o = f(a, b, c);
    }
}

/// Narrows the results of a `cvt`, widened lanes of type `ty`, to a dtype.
pub(super) fn narrow_lanes(ty: DType, to: DType, lanes: &mut [u32]) {
    for x in lanes {
        *x = match ty {
            DType::F32 => scalar::narrow_f32(f32::from_bits(*x), to),
            _ => scalar::narrow_i32(*x as i32, to),
        };
    }
}

/// Reduces each segment of the lanes; the result goes to all lanes of the segment.
pub(super) fn reduce_lanes(op: AluOp, ty: DType, segment: usize, lanes: &mut [u32]) {
    for s in lanes.chunks_mut(segment) {
        let result = scalar::reduce(op, ty, s);
        s.fill(result);
    }
}

/// `acc[i] = acc[i] op x[i]`.
pub(super) fn fold_lanes(op: AluOp, ty: DType, acc: &mut [u32], x: &[u32]) {
    for (a, &x) in acc.iter_mut().zip(x) {
        *a = scalar::combine(op, ty, *a, x);
    }
}
