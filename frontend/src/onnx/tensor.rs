//! ONNX tensors to constants; raw data is not copied.

use super::cx::{Fail, malformed, unsupported};
use super::external;
use super::walk::Walk;
use bytes::Bytes;
use half::{bf16, f16};
use lockstep_graph::{DType, Shape, Weights};
use lockstep_onnx_protobuf::{DataLocation, DataType, TensorProto};

/// Name, dtype, shape and row-major little-endian elements of a file that holds a single tensor, as ONNX's test data stores them. Elements of
/// less than a byte are spread over a byte each.
///
/// # Errors
/// If the bytes are no tensor, its data lies elsewhere, or its elements are of a type that is not supported; one line.
pub fn read(bytes: Bytes) -> Result<(String, DType, Shape, Weights), String> {
    let proto = lockstep_onnx_protobuf::decode_tensor(bytes).map_err(|e| e.to_string())?;
    let (dtype, shape, data) = decode(&proto).map_err(|fail| match fail {
        Fail::Malformed(message) => message,
        Fail::Unsupported { reason, .. } => reason,
        Fail::Import(error) => error.to_string(),
    })?;
    Ok((proto.name, dtype, shape, data))
}

/// The dtype that ONNX numbers so; 4-bit integers are stored in a byte each.
pub(super) fn dtype(data_type: i32) -> Result<DType, Fail> {
    Ok(match DataType::try_from(data_type) {
        Ok(DataType::Float) => DType::F32,
        Ok(DataType::Uint8 | DataType::Uint4 | DataType::Uint2) => DType::U8,
        Ok(DataType::Int8 | DataType::Int4 | DataType::Int2) => DType::I8,
        Ok(DataType::Uint16) => DType::U16,
        Ok(DataType::Int16) => DType::I16,
        Ok(DataType::Int32) => DType::I32,
        Ok(DataType::Int64) => DType::I64,
        Ok(DataType::Bool) => DType::Bool,
        Ok(DataType::Float16) => DType::F16,
        Ok(DataType::Double) => DType::F64,
        Ok(DataType::Uint32) => DType::U32,
        Ok(DataType::Uint64) => DType::U64,
        Ok(DataType::Bfloat16) => DType::Bf16,
        Ok(DataType::Undefined) => return malformed("the element type is missing"),
        Ok(other) => return unsupported(format!("elements of type {other:?} are not supported")),
        Err(_) => return unsupported(format!("element type number {data_type} is not known")),
    })
}

/// Bits per element where it is less than a byte.
pub(super) fn packed_bits(data_type: i32) -> Option<usize> {
    match DataType::try_from(data_type) {
        Ok(DataType::Uint4 | DataType::Int4) => Some(4),
        Ok(DataType::Uint2 | DataType::Int2) => Some(2),
        _ => None,
    }
}

/// Dtype, shape and data of a tensor.
pub(super) fn import(walk: &mut Walk<'_>, proto: &TensorProto) -> Result<(DType, Shape, Weights), Fail> {
    if proto.data_location == DataLocation::External as i32 {
        let (dtype, shape, bytes) = header(proto)?;
        let data = external::read(walk, proto, bytes)?;
        return Ok((dtype, shape, unpack(proto, data)?));
    }
    decode(proto)
}

/// Dtype, shape and data of a tensor whose data lies in the message itself.
pub(crate) fn decode(proto: &TensorProto) -> Result<(DType, Shape, Weights), Fail> {
    let (dtype, shape, bytes) = header(proto)?;
    if proto.segment.is_some() {
        return unsupported("tensors in segments are not supported");
    }
    if !proto.raw_data.is_empty() || bytes == 0 {
        if proto.raw_data.len() != bytes {
            return malformed(format!(
                "{dtype}{shape} needs {bytes} bytes, the data has {}",
                proto.raw_data.len()
            ));
        }
        return Ok((dtype, shape, unpack(proto, Weights::new(proto.raw_data.clone()))?));
    }
    let data: Vec<u8> = match DataType::try_from(proto.data_type) {
        Ok(DataType::Float) => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(DataType::Double) => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(DataType::Int64) => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(DataType::Uint64) => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(DataType::Uint32) => proto
            .uint64_data
            .iter()
            .flat_map(|&v| (v as u32).to_le_bytes())
            .collect(),
        Ok(DataType::Bool) => proto.int32_data.iter().map(|&v| u8::from(v != 0)).collect(),
        _ => {
            let size = if packed_bits(proto.data_type).is_some() {
                1
            } else {
                dtype.size()
            };
            proto
                .int32_data
                .iter()
                .flat_map(|v| v.to_le_bytes().into_iter().take(size))
                .collect()
        }
    };
    if data.len() != bytes {
        return malformed(format!(
            "{dtype}{shape} needs {bytes} bytes, the data has {}",
            data.len()
        ));
    }
    Ok((dtype, shape, unpack(proto, data.into())?))
}

/// Dtype, shape and the number of bytes that the file holds for them.
fn header(proto: &TensorProto) -> Result<(DType, Shape, usize), Fail> {
    let dtype = dtype(proto.data_type)?;
    let dims = proto
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).or_else(|_| malformed(format!("a dimension is {dim}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let shape = Shape(dims);
    let n = shape.n_elements();
    let bytes = match packed_bits(proto.data_type) {
        Some(bits) => n.div_ceil(8 / bits),
        None => match n.checked_mul(dtype.size()) {
            Some(bytes) => bytes,
            None => return malformed(format!("shape {shape} is too large")),
        },
    };
    Ok((dtype, shape, bytes))
}

/// Spreads elements of less than a byte over a byte each, the lowest bits first; the data itself otherwise.
fn unpack(proto: &TensorProto, data: Weights) -> Result<Weights, Fail> {
    let Some(bits) = packed_bits(proto.data_type) else {
        return Ok(data);
    };
    let signed = matches!(DataType::try_from(proto.data_type), Ok(DataType::Int4 | DataType::Int2));
    let (_, shape, _) = header(proto)?;
    let (per_byte, shift) = (8 / bits, 8 - bits);
    let element = |at: usize| {
        let byte = data.bytes()[at / per_byte] << (shift - bits * (at % per_byte));
        if signed {
            ((byte as i8) >> shift) as u8
        } else {
            byte >> shift
        }
    };
    Ok((0..shape.n_elements()).map(element).collect::<Vec<u8>>().into())
}

/// A value attribute that is no tensor: floats and half floats by dtype.
pub(super) fn encode_floats(dtype: DType, values: &[f32]) -> Weights {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bit_elements_spread() {
        let raw = |data_type: DataType| TensorProto {
            dims: vec![3],
            data_type: data_type as i32,
            raw_data: vec![0xf1, 0x08].into(),
            ..TensorProto::default()
        };
        assert_eq!(decode(&raw(DataType::Uint4)).unwrap().2.bytes(), [1, 15, 8]);
        assert_eq!(decode(&raw(DataType::Int4)).unwrap().2.bytes(), [1, 0xff, 0xf8]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let short = TensorProto {
            dims: vec![3],
            data_type: DataType::Float as i32,
            float_data: vec![1.0],
            ..TensorProto::default()
        };
        assert!(matches!(decode(&short), Err(Fail::Malformed(_))));
        let huge = TensorProto {
            dims: vec![i64::MAX, i64::MAX],
            data_type: DataType::Float as i32,
            ..TensorProto::default()
        };
        assert!(matches!(decode(&huge), Err(Fail::Malformed(_))));
    }
}
