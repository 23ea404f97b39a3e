//! Tensors at the host boundary: borrowed views for inputs, owned buffers for outputs.

use lockstep_isa::artifact::HostDType;

/// A row-major tensor of the caller's.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: HostDType,
    /// Shape; no dimensions for a scalar.
    pub shape: &'a [u64],
    /// Little-endian elements, row-major: `dtype.bytes() * product(shape)` bytes.
    pub bytes: &'a [u8],
}

/// A row-major tensor that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub dtype: HostDType,
    /// Shape; no dimensions for a scalar.
    pub shape: Vec<u64>,
    /// Little-endian elements, row-major.
    pub bytes: Vec<u8>,
}

impl HostTensor {
    /// A tensor of f32 elements. `data` has `product(shape)` elements.
    pub fn from_f32(name: &str, shape: &[u64], data: &[f32]) -> HostTensor {
        HostTensor {
            name: name.to_owned(),
            dtype: HostDType::F32,
            shape: shape.to_vec(),
            bytes: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// A tensor of zeros.
    pub fn zeros(name: &str, dtype: HostDType, shape: &[u64]) -> HostTensor {
        HostTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes: vec![0; shape.iter().product::<u64>() as usize * dtype.bytes()],
        }
    }

    /// A view of this tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            dtype: self.dtype,
            shape: &self.shape,
            bytes: &self.bytes,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// The elements of an f32 tensor; empty for any other dtype.
    pub fn to_f32(&self) -> Vec<f32> {
        if self.dtype != HostDType::F32 {
            return Vec::new();
        }
        self.bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

/// Number of elements of a shape; `None` where it overflows.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}

/// `float32[1, 64]`, for messages.
pub fn describe(dtype: HostDType, shape: &[u64]) -> String {
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("{}[{}]", dtype.name(), dims.join(", "))
}
