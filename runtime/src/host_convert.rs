//! Conversion of single elements between the host's dtypes and the chip's.
//!
//! Every pair is defined: integers saturate, truth values are 0 or 1, f64 rounds to f32, narrower floats round to
//! nearest even, floats to integers truncate and saturate with NaN giving 0; NaN is canonical on its way to the host.

use half::{bf16, f16};
use lockstep_isa::DType;
use lockstep_isa::artifact::HostDType;
use lockstep_isa::scalar;

/// The first `N` bytes of an element; zeros where it is shorter.
#[inline(always)]
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (o, &b) in out.iter_mut().zip(bytes) {
        *o = b;
    }
    out
}

/// Converts a host element (little-endian, `host.bytes()` long) to the bits of a chip element.
#[inline]
pub fn to_chip(bytes: &[u8], host: HostDType, chip: DType) -> u32 {
    let float = |x: f32| scalar::narrow_f32(x, chip);
    let int = |x: i64| {
        if chip.is_float() {
            scalar::narrow_f32(x as f32, chip)
        } else {
            scalar::narrow_i32(x.clamp(i32::MIN as i64, i32::MAX as i64) as i32, chip)
        }
    };
    match host {
        HostDType::F32 => float(f32::from_le_bytes(first(bytes))),
        HostDType::F16 => float(f16::from_le_bytes(first(bytes)).to_f32()),
        HostDType::BF16 => float(bf16::from_le_bytes(first(bytes)).to_f32()),
        HostDType::F64 => float(f64::from_le_bytes(first(bytes)) as f32),
        HostDType::I8 => int(i8::from_le_bytes(first(bytes)) as i64),
        HostDType::I16 => int(i16::from_le_bytes(first(bytes)) as i64),
        HostDType::I32 => int(i32::from_le_bytes(first(bytes)) as i64),
        HostDType::I64 => int(i64::from_le_bytes(first(bytes))),
        HostDType::U8 => int(u8::from_le_bytes(first(bytes)) as i64),
        HostDType::U16 => int(u16::from_le_bytes(first(bytes)) as i64),
        HostDType::U32 => int(u32::from_le_bytes(first(bytes)) as i64),
        HostDType::U64 => int(i64::try_from(u64::from_le_bytes(first(bytes))).unwrap_or(i64::MAX)),
        HostDType::Bool => int(bytes.first().is_some_and(|&b| b != 0) as i64),
    }
}

/// Converts the bits of a chip element to a host element: the first `host.bytes()` bytes of the result.
#[inline]
pub fn to_host(bits: u32, chip: DType, host: HostDType) -> [u8; 8] {
    let wide = scalar::widen(bits, chip);
    if chip.is_float() {
        float_to_host(f32::from_bits(wide), host)
    } else {
        int_to_host(wide as i32, host)
    }
}

fn float_to_host(x: f32, host: HostDType) -> [u8; 8] {
    // The canonical NaN of f32 narrows and widens to that of the other dtypes.
    let x = if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x };
    match host {
        HostDType::F32 => first(&x.to_le_bytes()),
        HostDType::F16 => first(&f16::from_f32(x).to_le_bytes()),
        HostDType::BF16 => first(&bf16::from_f32(x).to_le_bytes()),
        HostDType::F64 => (x as f64).to_le_bytes(),
        HostDType::I8 => first(&(x as i8).to_le_bytes()),
        HostDType::I16 => first(&(x as i16).to_le_bytes()),
        HostDType::I32 => first(&(x as i32).to_le_bytes()),
        HostDType::I64 => (x as i64).to_le_bytes(),
        HostDType::U8 => first(&(x as u8).to_le_bytes()),
        HostDType::U16 => first(&(x as u16).to_le_bytes()),
        HostDType::U32 => first(&(x as u32).to_le_bytes()),
        HostDType::U64 => (x as u64).to_le_bytes(),
        HostDType::Bool => first(&[(x != 0.0) as u8]),
    }
}

fn int_to_host(x: i32, host: HostDType) -> [u8; 8] {
    match host {
        HostDType::F32 => first(&(x as f32).to_le_bytes()),
        HostDType::F16 => first(&f16::from_f32(x as f32).to_le_bytes()),
        HostDType::BF16 => first(&bf16::from_f32(x as f32).to_le_bytes()),
        HostDType::F64 => (x as f64).to_le_bytes(),
        HostDType::I8 => first(&[scalar::narrow_i32(x, DType::I8) as u8]),
        HostDType::I16 => {
            let y = x.clamp(i16::MIN as i32, i16::MAX as i32) as i16;
            first(&y.to_le_bytes())
        }
        HostDType::I32 => first(&x.to_le_bytes()),
        HostDType::I64 => (x as i64).to_le_bytes(),
        HostDType::U8 => first(&[scalar::narrow_i32(x, DType::U8) as u8]),
        HostDType::U16 => first(&(x.clamp(0, u16::MAX as i32) as u16).to_le_bytes()),
        HostDType::U32 => first(&(x.max(0) as u32).to_le_bytes()),
        HostDType::U64 => (x.max(0) as u64).to_le_bytes(),
        HostDType::Bool => first(&[(x != 0) as u8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_saturate_into_i32_and_back() {
        let i64s = |x: i64| to_chip(&x.to_le_bytes(), HostDType::I64, DType::I32) as i32;
        assert_eq!(i64s(1 << 40), i32::MAX);
        assert_eq!(i64s(-(1 << 40)), i32::MIN);
        assert_eq!(i64s(-7), -7);
        let all = [0xff; 8];
        assert_eq!(to_chip(&all, HostDType::U64, DType::I32) as i32, i32::MAX);
        assert_eq!(to_chip(&all, HostDType::U32, DType::I32) as i32, i32::MAX);
        assert_eq!(to_chip(&[9], HostDType::Bool, DType::I32), 1);
        let back = to_host(-7i32 as u32, DType::I32, HostDType::I64);
        assert_eq!(i64::from_le_bytes(back), -7);
        assert_eq!(to_host(-7i32 as u32, DType::I32, HostDType::U32)[..4], [0; 4]);
        assert_eq!(to_host(5, DType::I32, HostDType::Bool)[0], 1);
    }

    #[test]
    fn floats_round_and_nan_is_canonical() {
        let x = 1.0f64 + 2f64.powi(-40);
        assert_eq!(to_chip(&x.to_le_bytes(), HostDType::F64, DType::F32), 0x3f80_0000);
        assert_eq!(to_chip(&1.5f32.to_le_bytes(), HostDType::F32, DType::BF16), 0x3fc0);
        for (chip, bits, host, want) in [
            (DType::F32, 0xff80_0001u32, HostDType::F32, 0x7fc0_0000u64),
            (DType::F16, 0xfe01, HostDType::F16, 0x7e00),
            (DType::BF16, 0xffc1, HostDType::BF16, 0x7fc0),
            (DType::F32, 0xffc0_0000, HostDType::F64, 0x7ff8_0000_0000_0000),
        ] {
            assert_eq!(u64::from_le_bytes(to_host(bits, chip, host)), want, "{chip}");
        }
    }
}
