//! Tensors in numpy's files: .npy (one array) and .npz (a zip of them).
//!
//! Reads bool, integers, f16, f32 and f64 in either byte order and either element order; writes row-major little-endian. bfloat16 has no numpy dtype
//! and is written as the f32 of the same value.

use crate::isa::artifact::HostDType;
use crate::runtime::HostTensor;
use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use std::io::{Cursor, Read, Write};

/// Why an array cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {what}")]
pub struct TensorError {
    /// The file, or the array in it.
    pub name: String,
    /// What was found and what is allowed.
    pub what: String,
}

/// Most bytes of one array.
const MOST: u64 = 16 << 30;

fn bad(name: &str, what: impl Into<String>) -> TensorError {
    TensorError {
        name: name.to_owned(),
        what: what.into(),
    }
}

/// Reads the bytes of a .npy file; the tensor gets this name.
///
/// # Errors
/// No npy file, an element type that no tensor has, fewer bytes than the header says.
pub fn read_npy(name: &str, bytes: &[u8]) -> Result<HostTensor, TensorError> {
    let fail = |e: std::io::Error| bad(name, format!("no readable npy array: {e}"));
    let file = NpyFile::new(bytes).map_err(fail)?;
    let header = file.header();
    let DType::Plain(ty) = header.dtype() else {
        return Err(bad(name, "the array holds records; expected plain numbers"));
    };
    let dtype = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Bool, 1) => HostDType::Bool,
        (TypeChar::Int, 1) => HostDType::I8,
        (TypeChar::Int, 2) => HostDType::I16,
        (TypeChar::Int, 4) => HostDType::I32,
        (TypeChar::Int, 8) => HostDType::I64,
        (TypeChar::Uint, 1) => HostDType::U8,
        (TypeChar::Uint, 2) => HostDType::U16,
        (TypeChar::Uint, 4) => HostDType::U32,
        (TypeChar::Uint, 8) => HostDType::U64,
        (TypeChar::Float, 2) => HostDType::F16,
        (TypeChar::Float, 4) => HostDType::F32,
        (TypeChar::Float, 8) => HostDType::F64,
        _ => {
            let allowed = "bool, int8 to int64, uint8 to uint64, float16, float32 and float64";
            return Err(bad(name, format!("dtype {ty} is no tensor's; allowed are {allowed}")));
        }
    };
    let shape = header.shape().to_vec();
    let count = lockstep_runtime::host_tensor::element_count(&shape);
    let length = count.and_then(|n| n.checked_mul(dtype.bytes() as u64));
    // The data lies behind the header and is never longer than the file.
    let Some(length) = length.filter(|&n| n <= bytes.len() as u64) else {
        let what = format!(
            "shape {shape:?} of {} needs more bytes than the file's {}",
            dtype.name(),
            bytes.len()
        );
        return Err(bad(name, what));
    };
    let fortran = header.order() == Order::Fortran;
    macro_rules! elements {
        ($t:ty) => {{
            let data: Vec<$t> = file.into_vec().map_err(fail)?;
            data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }};
    }
    let data: Vec<u8> = match dtype {
        HostDType::Bool => file
            .into_vec::<bool>()
            .map_err(fail)?
            .into_iter()
            .map(u8::from)
            .collect(),
        HostDType::I8 => elements!(i8),
        HostDType::I16 => elements!(i16),
        HostDType::I32 => elements!(i32),
        HostDType::I64 => elements!(i64),
        HostDType::U8 => elements!(u8),
        HostDType::U16 => elements!(u16),
        HostDType::U32 => elements!(u32),
        HostDType::U64 => elements!(u64),
        HostDType::F16 | HostDType::BF16 => elements!(half::f16),
        HostDType::F32 => elements!(f32),
        HostDType::F64 => elements!(f64),
    };
    if data.len() as u64 != length {
        return Err(bad(name, "the array is cut short"));
    }
    let bytes = if fortran {
        row_major(&shape, dtype.bytes(), &data)
    } else {
        data
    };
    Ok(HostTensor {
        name: name.to_owned(),
        dtype,
        shape,
        bytes,
    })
}

/// Column-major elements of `size` bytes in row-major order.
fn row_major(shape: &[u64], size: usize, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0u64; shape.len()];
    for _ in 0..data.len() / size.max(1) {
        let mut at = 0;
        for (i, n) in index.iter().zip(shape).rev() {
            at = at * n + i;
        }
        let at = at as usize * size;
        out.extend_from_slice(&data[at..at + size]);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// Reads the bytes of a .npz file: its arrays by name, in the file's order.
///
/// # Errors
/// No zip file, or an array that [`read_npy`] refuses; [`TensorError::name`] is the array's.
pub fn read_npz(name: &str, bytes: &[u8]) -> Result<Vec<HostTensor>, TensorError> {
    let fail = |e: zip::result::ZipError| bad(name, format!("no readable npz file: {e}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(fail)?;
    let mut out = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let file = archive.by_index(i).map_err(fail)?;
        let Some(array) = file.name().strip_suffix(".npy").map(str::to_owned) else {
            continue;
        };
        let mut data = Vec::new();
        file.take(MOST)
            .read_to_end(&mut data)
            .map_err(|e| bad(&array, format!("cannot unpack it: {e}")))?;
        out.push(read_npy(&array, &data)?);
    }
    Ok(out)
}

/// The bytes of a .npy file.
///
/// # Errors
/// A tensor whose byte length does not fit its shape.
pub fn write_npy(tensor: &HostTensor) -> Result<Vec<u8>, TensorError> {
    let mut out = Vec::new();
    let fail = |e: std::io::Error| bad(&tensor.name, e.to_string());
    macro_rules! write {
        ($t:ty) => {
            write!($t, |b: &[u8]| b
                .try_into()
                .map(<$t>::from_le_bytes)
                .unwrap_or_default())
        };
        ($t:ty, $of:expr) => {{
            let mut writer = npyz::WriteOptions::<$t>::new()
                .default_dtype()
                .shape(&tensor.shape)
                .writer(&mut out)
                .begin_nd()
                .map_err(fail)?;
            let elements = tensor.bytes.chunks_exact(tensor.dtype.bytes());
            writer.extend(elements.map($of)).map_err(fail)?;
            writer.finish().map_err(fail)?;
        }};
    }
    let two = |b: &[u8]| b.try_into().unwrap_or_default();
    match tensor.dtype {
        HostDType::F32 => write!(f32),
        HostDType::F64 => write!(f64),
        HostDType::F16 => write!(half::f16, |b| half::f16::from_le_bytes(two(b))),
        HostDType::BF16 => write!(f32, |b| half::bf16::from_le_bytes(two(b)).to_f32()),
        HostDType::I8 => write!(i8),
        HostDType::I16 => write!(i16),
        HostDType::I32 => write!(i32),
        HostDType::I64 => write!(i64),
        HostDType::U8 => write!(u8),
        HostDType::U16 => write!(u16),
        HostDType::U32 => write!(u32),
        HostDType::U64 => write!(u64),
        HostDType::Bool => write!(bool, |b| b != [0]),
    }
    Ok(out)
}

/// The bytes of a .npz file, stored without compression. The same tensors give the same bytes.
///
/// # Errors
/// As [`write_npy`], and two tensors of one name.
pub fn write_npz(tensors: &[HostTensor]) -> Result<Vec<u8>, TensorError> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for tensor in tensors {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default());
        let bytes = write_npy(tensor)?;
        zip.start_file(format!("{}.npy", tensor.name), options)
            .map_err(|e| bad(&tensor.name, e.to_string()))?;
        zip.write_all(&bytes).map_err(|e| bad(&tensor.name, e.to_string()))?;
    }
    let done = zip.finish().map_err(|e| bad("npz", e.to_string()))?;
    Ok(done.into_inner())
}

/// The elements as f64, whatever the dtype. Integers beyond 2^53 lose digits.
pub fn to_f64(tensor: &HostTensor) -> Vec<f64> {
    fn all<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|b| of(*b)).collect()
    }
    let bytes = tensor.bytes.as_slice();
    match tensor.dtype {
        HostDType::F32 => all(bytes, |b| f32::from_le_bytes(b).into()),
        HostDType::F64 => all(bytes, f64::from_le_bytes),
        HostDType::F16 => all(bytes, |b| half::f16::from_le_bytes(b).into()),
        HostDType::BF16 => all(bytes, |b| half::bf16::from_le_bytes(b).into()),
        HostDType::I8 => all(bytes, |b| i8::from_le_bytes(b).into()),
        HostDType::I16 => all(bytes, |b| i16::from_le_bytes(b).into()),
        HostDType::I32 => all(bytes, |b| i32::from_le_bytes(b).into()),
        HostDType::I64 => all(bytes, |b| i64::from_le_bytes(b) as f64),
        HostDType::U8 | HostDType::Bool => all(bytes, |b| u8::from_le_bytes(b).into()),
        HostDType::U16 => all(bytes, |b| u16::from_le_bytes(b).into()),
        HostDType::U32 => all(bytes, |b| u32::from_le_bytes(b).into()),
        HostDType::U64 => all(bytes, |b| u64::from_le_bytes(b) as f64),
    }
}

/// Appends an element to a tensor's bytes, converted to its dtype: floats round to nearest, integers saturate.
pub fn push_f64(tensor: &mut HostTensor, x: f64) {
    let bytes = &mut tensor.bytes;
    match tensor.dtype {
        HostDType::F32 => bytes.extend((x as f32).to_le_bytes()),
        HostDType::F64 => bytes.extend(x.to_le_bytes()),
        HostDType::F16 => bytes.extend(half::f16::from_f64(x).to_le_bytes()),
        HostDType::BF16 => bytes.extend(half::bf16::from_f64(x).to_le_bytes()),
        HostDType::I8 => bytes.extend((x as i8).to_le_bytes()),
        HostDType::I16 => bytes.extend((x as i16).to_le_bytes()),
        HostDType::I32 => bytes.extend((x as i32).to_le_bytes()),
        HostDType::I64 => bytes.extend((x as i64).to_le_bytes()),
        HostDType::U8 => bytes.push(x as u8),
        HostDType::U16 => bytes.extend((x as u16).to_le_bytes()),
        HostDType::U32 => bytes.extend((x as u32).to_le_bytes()),
        HostDType::U64 => bytes.extend((x as u64).to_le_bytes()),
        HostDType::Bool => bytes.push(u8::from(x != 0.0)),
    }
}

/// Pseudo-random elements from a seed (splitmix64): floats uniform in [-1, 1), integers 0 or 1. The same seed, name and shape give the same
/// tensor everywhere.
pub fn random(name: &str, dtype: HostDType, shape: &[u64], seed: u64) -> HostTensor {
    let n = lockstep_runtime::host_tensor::element_count(shape).unwrap_or(0);
    let mut state = name
        .bytes()
        .fold(seed, |s, b| (s ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut bytes = Vec::with_capacity(n as usize * dtype.bytes());
    for _ in 0..n {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match dtype {
            HostDType::F32 => bytes.extend(unit.to_le_bytes()),
            HostDType::F64 => bytes.extend(f64::from(unit).to_le_bytes()),
            HostDType::F16 => bytes.extend(half::f16::from_f32(unit).to_le_bytes()),
            HostDType::BF16 => bytes.extend(half::bf16::from_f32(unit).to_le_bytes()),
            _ => {
                let at = bytes.len();
                bytes.resize(at + dtype.bytes(), 0);
                bytes[at] = (z & 1) as u8;
            }
        }
    }
    HostTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_survives_npz() {
        let shape = [2, 3];
        let all: Vec<HostTensor> = HostDType::ALL
            .into_iter()
            .filter(|d| *d != HostDType::BF16)
            .map(|d| random(d.name(), d, &shape, 7))
            .collect();
        let back = read_npz("x.npz", &write_npz(&all).expect("bytes")).expect("arrays");
        assert_eq!(back, all);
    }

    #[test]
    fn scalars_and_empty_arrays_survive() {
        for shape in [&[][..], &[0, 4]] {
            let one = random("x", HostDType::F32, shape, 1);
            let bytes = write_npy(&one).expect("bytes");
            assert_eq!(read_npy("x", &bytes).expect("an array"), one);
        }
    }

    #[test]
    fn column_major_becomes_row_major() {
        // [[0, 1, 2], [3, 4, 5]] by columns.
        assert_eq!(row_major(&[2, 3], 1, &[0, 3, 1, 4, 2, 5]), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_short_file_is_an_error() {
        let bytes = write_npy(&random("x", HostDType::F32, &[100], 1)).expect("bytes");
        for n in 0..bytes.len() {
            assert!(read_npy("x", &bytes[..n]).is_err(), "{n} bytes");
        }
        assert!(read_npz("x", b"PK").is_err());
    }
}
