//! Tensors whose elements are known at import: shape operands, small constants.

use half::{bf16, f16};
use lockstep_graph::{DType, Shape, Weights};

/// A tensor with decoded elements. Integers and bool are exact, floats are values of the dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// Elements in row-major order.
    pub data: Data,
}

/// Elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of integers and bool (0 or 1).
    Int(Vec<i128>),
    /// Of floats.
    Float(Vec<f64>),
}

impl Tensor {
    /// An integer or bool tensor; elements wrap into the dtype.
    pub fn ints(dtype: DType, shape: impl Into<Shape>, data: Vec<i128>) -> Self {
        let data = data.into_iter().map(|value| wrap(dtype, value)).collect();
        Self {
            dtype,
            shape: shape.into(),
            data: Data::Int(data),
        }
    }

    /// A float tensor; elements are rounded to the dtype.
    pub fn floats(dtype: DType, shape: impl Into<Shape>, data: Vec<f64>) -> Self {
        let data = data.into_iter().map(|value| round(dtype, value)).collect();
        Self {
            dtype,
            shape: shape.into(),
            data: Data::Float(data),
        }
    }

    /// Decodes little-endian elements; `None` if the length does not fit.
    pub fn decode(dtype: DType, shape: &Shape, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != shape.n_elements().checked_mul(dtype.size())? {
            return None;
        }
        let bits = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        let words = bytes.chunks_exact(dtype.size()).map(bits);
        let data = match dtype {
            DType::F32 => Data::Float(words.map(|w| f64::from(f32::from_bits(w as u32))).collect()),
            DType::F64 => Data::Float(words.map(f64::from_bits).collect()),
            DType::F16 => Data::Float(words.map(|w| f16::from_bits(w as u16).to_f64()).collect()),
            DType::Bf16 => Data::Float(words.map(|w| bf16::from_bits(w as u16).to_f64()).collect()),
            DType::Bool => Data::Int(words.map(|w| i128::from(w != 0)).collect()),
            _ => Data::Int(words.map(|w| wrap(dtype, i128::from(w))).collect()),
        };
        Some(Self {
            dtype,
            shape: shape.clone(),
            data,
        })
    }

    /// Little-endian elements.
    pub fn encode(&self) -> Weights {
        let size = self.dtype.size();
        let bytes: Vec<u8> = match (&self.data, self.dtype) {
            (Data::Float(data), DType::F32) => data.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            (Data::Float(data), DType::F16) => data.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect(),
            (Data::Float(data), DType::Bf16) => data.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect(),
            (Data::Float(data), _) => data.iter().flat_map(|&v| v.to_le_bytes()).collect(),
            (Data::Int(data), _) => data
                .iter()
                .flat_map(|&v| v.to_le_bytes().into_iter().take(size))
                .collect(),
        };
        bytes.into()
    }

    /// The elements as integers, if they are.
    pub fn as_ints(&self) -> Option<&[i128]> {
        match &self.data {
            Data::Int(data) => Some(data),
            Data::Float(_) => None,
        }
    }

    /// The elements as floats; integers are converted.
    pub fn to_floats(&self) -> Vec<f64> {
        match &self.data {
            Data::Int(data) => data.iter().map(|&v| v as f64).collect(),
            Data::Float(data) => data.clone(),
        }
    }

    /// The elements at these row-major positions as a tensor of another shape.
    pub fn pick(&self, shape: Shape, positions: &[usize]) -> Option<Tensor> {
        let data = match &self.data {
            Data::Int(data) => Data::Int(
                positions
                    .iter()
                    .map(|&at| data.get(at).copied())
                    .collect::<Option<_>>()?,
            ),
            Data::Float(data) => Data::Float(
                positions
                    .iter()
                    .map(|&at| data.get(at).copied())
                    .collect::<Option<_>>()?,
            ),
        };
        Some(Tensor {
            dtype: self.dtype,
            shape,
            data,
        })
    }
}

/// The value modulo 2^bits in the range of an integer dtype; 0 or 1 of bool; floats do not come here.
pub fn wrap(dtype: DType, value: i128) -> i128 {
    match dtype {
        DType::I8 => i128::from(value as i8),
        DType::I16 => i128::from(value as i16),
        DType::I32 => i128::from(value as i32),
        DType::I64 => i128::from(value as i64),
        DType::U8 => i128::from(value as u8),
        DType::U16 => i128::from(value as u16),
        DType::U32 => i128::from(value as u32),
        DType::U64 => i128::from(value as u64),
        _ => i128::from(value != 0),
    }
}

/// The nearest value of a float dtype.
pub fn round(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::Bf16 => bf16::from_f64(value).to_f64(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_inverts_encode() {
        for dtype in DType::ALL {
            let tensor = if dtype.is_float() {
                Tensor::floats(dtype, [3], vec![0.0, -1.5, 0.1])
            } else {
                Tensor::ints(dtype, [3], vec![0, -3, 300])
            };
            assert_eq!(
                Tensor::decode(dtype, &tensor.shape, tensor.encode().bytes()),
                Some(tensor.clone()),
                "{dtype}"
            );
        }
        assert_eq!(Tensor::decode(DType::F32, &Shape::from([2]), &[0; 7]), None);
    }
}
