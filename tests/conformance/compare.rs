//! Comparison with an expected tensor, as the official runner does it, and the error in units of the last place.

use lockstep::HostTensor;
use lockstep::isa::artifact::HostDType;

/// Elements: exact integers, or floats.
enum Elements {
    Int(Vec<i128>),
    Float(Vec<f64>),
}

/// Checks name-independent equality: dtype, shape, and each element within `atol + rtol * |expected|`. Gives the largest error of a float
/// result in units of the last place of its dtype (of f32 for f64, which chips compute in f32).
pub fn check(found: &HostTensor, want: &HostTensor, rtol: f64, atol: f64) -> Result<f64, String> {
    if found.dtype != want.dtype || found.shape != want.shape {
        return Err(format!(
            "is {} {:?}, expected {} {:?}",
            found.dtype.name(),
            found.shape,
            want.dtype.name(),
            want.shape
        ));
    }
    match (elements(found), elements(want)) {
        (Elements::Int(a), Elements::Int(b)) => {
            for (i, (&x, &y)) in a.iter().zip(&b).enumerate() {
                if ((x - y).abs() as f64) > atol + rtol * (y as f64).abs() {
                    return Err(format!("element {i} is {x}, expected {y}"));
                }
            }
            Ok(0.0)
        }
        (Elements::Float(a), Elements::Float(b)) => {
            let mut worst = 0.0f64;
            for (i, (&x, &y)) in a.iter().zip(&b).enumerate() {
                let same = x == y || (x.is_nan() && y.is_nan());
                let near = y.is_finite() && (x - y).abs() <= atol + rtol * y.abs();
                if !same && !near {
                    return Err(format!("element {i} is {x:e}, expected {y:e}"));
                }
                if !same {
                    worst = worst.max((x - y).abs() / ulp(y, want.dtype));
                }
            }
            Ok(worst)
        }
        _ => Err("has another kind of elements".into()),
    }
}

/// Distance of neighbouring numbers of the dtype near `y`.
fn ulp(y: f64, dtype: HostDType) -> f64 {
    let (digits, least) = match dtype {
        HostDType::F16 => (10, -14),
        HostDType::BF16 => (7, -126),
        _ => (23, -126),
    };
    let exponent = if y == 0.0 {
        least
    } else {
        (y.abs().log2().floor() as i32).max(least)
    };
    2f64.powi(exponent - digits)
}

fn elements(tensor: &HostTensor) -> Elements {
    let size = tensor.dtype.bytes();
    let float = matches!(
        tensor.dtype,
        HostDType::F32 | HostDType::F16 | HostDType::BF16 | HostDType::F64
    );
    if float {
        return Elements::Float(lockstep::tensors::to_f64(tensor));
    }
    let signed = matches!(
        tensor.dtype,
        HostDType::I8 | HostDType::I16 | HostDType::I32 | HostDType::I64
    );
    let one = |bytes: &[u8]| {
        let bits = bytes.iter().rev().fold(0i128, |all, &b| all << 8 | i128::from(b));
        let sign = 1i128 << (8 * size - 1);
        if signed && bits & sign != 0 {
            bits - 2 * sign
        } else {
            bits
        }
    };
    Elements::Int(tensor.bytes.chunks_exact(size).map(one).collect())
}
