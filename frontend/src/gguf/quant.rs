//! Element types: plain ones stay as they are, blocks of quantised elements become f32.

use super::file::Entry;
use bytes::Bytes;
use half::f16;
use lockstep_graph::{DType, Shape, Weights};

/// An element type: ggml's number, its name, elements and bytes of a block, and how it is expanded.
struct Kind {
    number: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    form: Form,
}

enum Form {
    Plain(DType),
    Blocks(fn(&[u8], &mut Vec<f32>)),
}

const KINDS: &[Kind] = &[
    Kind {
        number: 0,
        name: "F32",
        elements: 1,
        bytes: 4,
        form: Form::Plain(DType::F32),
    },
    Kind {
        number: 1,
        name: "F16",
        elements: 1,
        bytes: 2,
        form: Form::Plain(DType::F16),
    },
    Kind {
        number: 30,
        name: "BF16",
        elements: 1,
        bytes: 2,
        form: Form::Plain(DType::Bf16),
    },
    Kind {
        number: 2,
        name: "Q4_0",
        elements: 32,
        bytes: 18,
        form: Form::Blocks(q4_0),
    },
    Kind {
        number: 3,
        name: "Q4_1",
        elements: 32,
        bytes: 20,
        form: Form::Blocks(q4_1),
    },
    Kind {
        number: 8,
        name: "Q8_0",
        elements: 32,
        bytes: 34,
        form: Form::Blocks(q8_0),
    },
    Kind {
        number: 12,
        name: "Q4_K",
        elements: 256,
        bytes: 144,
        form: Form::Blocks(q4_k),
    },
    Kind {
        number: 14,
        name: "Q6_K",
        elements: 256,
        bytes: 210,
        form: Form::Blocks(q6_k),
    },
];

/// A tensor's dtype and row-major elements.
pub(super) fn expand(name: &str, entry: &Entry, data: &Bytes) -> Result<(DType, Shape, Weights), String> {
    let here = |message: String| format!("tensor \"{}\" {message}", name.escape_debug());
    let Some(kind) = KINDS.iter().find(|kind| kind.number == entry.kind) else {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        return Err(here(format!(
            "has element type {}, allowed: {}",
            entry.kind,
            known.join(", ")
        )));
    };
    let n = entry.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    let row = entry.shape.last().copied().unwrap_or(1);
    let n = n.filter(|_| row.is_multiple_of(kind.elements));
    let Some(n) = n else {
        let shape = Shape::from(entry.shape.as_slice());
        return Err(here(format!("has shape {shape}, which {} cannot hold", kind.name)));
    };
    let length = (n / kind.elements).checked_mul(kind.bytes);
    let start = usize::try_from(entry.offset).ok();
    let range = start
        .zip(length)
        .and_then(|(start, length)| Some(start..start.checked_add(length)?));
    let Some(range) = range.filter(|range| range.end <= data.len()) else {
        return Err(here(format!(
            "lies beyond the end of the file, which has {} bytes of data",
            data.len()
        )));
    };
    let shape = Shape::from(entry.shape.as_slice());
    match kind.form {
        Form::Plain(dtype) => Ok((dtype, shape, Weights::new(data.slice(range)))),
        Form::Blocks(block) => {
            let mut out = Vec::with_capacity(n);
            for bytes in data[range].chunks_exact(kind.bytes) {
                block(bytes, &mut out);
            }
            Ok((DType::F32, shape, Weights::from(out.as_slice())))
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low nibbles of 16 bytes, then high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let low = bytes.iter().map(|byte| byte & 15);
    low.chain(bytes.iter().map(|byte| byte >> 4))
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| scale * (f32::from(q) - 8.0)));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (scale, least) = (half(block, 0), half(block, 2));
    out.extend(nibbles(&block[4..]).map(|q| scale * f32::from(q) + least));
}

fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half(block, 0);
    out.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
}

/// Eight groups of 32 with a scale and a minimum of 6 bits each.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, least) = (half(block, 0), half(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..144]);
    let pair = |group: usize| match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | (packed[group - 4] >> 6) << 4,
            packed[group + 4] >> 4 | (packed[group] >> 6) << 4,
        ),
    };
    for (n, bytes) in quants.chunks_exact(32).enumerate() {
        for (half, shift) in [(0, 0), (1, 4)] {
            let (s, m) = pair(2 * n + half);
            let (s, m) = (scale * f32::from(s), least * f32::from(m));
            out.extend(bytes.iter().map(|byte| s * f32::from(byte >> shift & 15) - m));
        }
    }
}

/// Sixteen groups of 16 with a scale of 8 bits each; quants of 4 low and 2 high bits.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half(block, 208);
    for n in 0..2 {
        for quarter in 0..4 {
            for l in 0..32 {
                let nibble = low[64 * n + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
                let bits = high[32 * n + l] >> (2 * quarter) & 3;
                let q = f32::from(nibble | bits << 4) - 32.0;
                let group = f32::from(scales[8 * n + 2 * quarter + l / 16] as i8);
                out.push(scale * group * q);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: u32, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Vec<f32>, String> {
        let entry = Entry { shape, kind, offset: 0 };
        let (_, _, data) = expand("t", &entry, &Bytes::from(bytes))?;
        let floats = data.bytes().chunks_exact(4);
        Ok(floats.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    #[test]
    fn blocks_of_four_bits() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
        let quants: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let plain = one(2, vec![32], [half(0.5), quants.clone()].concat()).expect("a block");
        assert_eq!((plain[0], plain[15], plain[16], plain[31]), (-4.0, 3.5, 3.5, -4.0));
        let moved = one(3, vec![32], [half(0.5), half(-1.0), quants].concat()).expect("a block");
        assert_eq!((moved[0], moved[15], moved[16], moved[31]), (-1.0, 6.5, 6.5, -1.0));
    }

    #[test]
    fn large_blocks() {
        // Scale 1, minimum 1; group 0 has scale 2 and minimum 3, group 4 scale 16 + 1 and minimum 32 + 2.
        let mut block = vec![0u8; 144];
        block[..4].copy_from_slice(&[0, 0x3c, 0, 0x3c]);
        block[4] = 2 | 1 << 6;
        block[8] = 3 | 2 << 6;
        block[12] = 1 | 2 << 4;
        block[16] = 5;
        block[16 + 64] = 7;
        let y = one(12, vec![256], block).expect("a block");
        assert_eq!((y[0], y[1], y[128], y[129]), (7.0, -3.0, 7.0 * 17.0 - 34.0, -34.0));

        let mut block = vec![0u8; 210];
        block[208..].copy_from_slice(&[0, 0x38]);
        block[0] = 3 | 9 << 4;
        block[128] = 2 | 1 << 4;
        block[192..208].copy_from_slice(&[1, 1, 1, 1, 0xfe, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let y = one(14, vec![256], block).expect("a block");
        assert_eq!((y[0], y[64], y[1]), (0.5 * 3.0, -(9.0 + 16.0 - 32.0), -16.0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(one(2, vec![31], vec![0; 18]).is_err());
        assert!(one(0, vec![2], vec![0; 7]).is_err());
        assert!(one(0, vec![usize::MAX, 2], vec![0; 8]).is_err());
        let error = one(99, vec![1], vec![0; 8]).expect_err("an error");
        assert_eq!(
            error,
            "tensor \"t\" has element type 99, allowed: F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K"
        );
    }
}
