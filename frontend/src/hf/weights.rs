//! Storage of the matrices of a decoder: as another float type, or as 8-bit integers with a scale per output channel.
//!
//! An integer matrix `NAME` has its scales beside it as `NAME.scale`, f32[outputs]: element (o, i) is `q * scale[o]`, with q in -127..=127
//! and the scale such that the largest element of a channel is 127. Vectors (norms, biases) and learned positions stay as they are. So do,
//! where matrices become integers, the embeddings of tokens, but as 16-bit floats: a scale per row would take as much SRAM as a whole row.
//! An output head that shares their elements gets integers of its own.

use crate::safetensors::{Stored, Tensors};
use half::{bf16, f16};
use lockstep_graph::{DType, Shape, Weights};

/// How the matrices of a language model are stored on the chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the exponents of 32-bit ones.
    Bf16,
    /// 8-bit integers with an f32 scale per output channel.
    Int8,
}

/// Largest magnitude of an integer weight.
const LARGEST: f32 = 127.0;

/// Suffix of the name under which the scales of a matrix are stored.
pub(super) const SCALE: &str = ".scale";

/// Embeddings of tokens.
const EMBEDDINGS: [&str; 2] = ["embed_tokens.weight", "wte.weight"];

/// The output head.
pub(super) const HEAD: &str = "lm_head.weight";

/// Converts all matrices; with `tied`, the output head is the embedding of tokens.
pub(super) fn convert(tensors: &mut Tensors, format: WeightFormat, tied: bool) {
    let matrix = |name: &str, t: &Stored| t.shape.0.len() == 2 && is_matrix(name) && floats(t).is_some();
    let names = tensors
        .iter()
        .filter(|(name, t)| matrix(name, t))
        .map(|(name, _)| name.clone());
    let mut names: Vec<String> = names.collect();
    if format == WeightFormat::Int8
        && tied
        && let Some(stored) = names.iter().find(|n| embeds(n)).and_then(|n| tensors.get(n))
    {
        let head = stored.clone();
        tensors.insert(HEAD.into(), head);
        names.push(HEAD.into());
        names.dedup();
    }
    for name in names {
        let Some(stored) = tensors.get_mut(&name) else { continue };
        let format = match (format, stored.dtype) {
            (WeightFormat::Int8, Some(DType::F16)) if embeds(&name) => WeightFormat::F16,
            (WeightFormat::Int8, _) if embeds(&name) => WeightFormat::Bf16,
            _ => format,
        };
        let Some(values) = floats(stored) else { continue };
        let same = matches!(
            (format, stored.dtype),
            (WeightFormat::F32, Some(DType::F32))
                | (WeightFormat::F16, Some(DType::F16))
                | (WeightFormat::Bf16, Some(DType::Bf16))
        );
        if same {
            continue;
        }
        let (dtype, data): (DType, Vec<u8>) = match format {
            WeightFormat::F32 => (DType::F32, values.flat_map(f32::to_le_bytes).collect()),
            WeightFormat::F16 => (
                DType::F16,
                values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            ),
            WeightFormat::Bf16 => (
                DType::Bf16,
                values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            ),
            WeightFormat::Int8 => {
                let values: Vec<f32> = values.collect();
                let (data, scales) = integers(&values, stored.shape.0[1], outputs_last(&name));
                let scale = Stored {
                    dtype: Some(DType::F32),
                    dtype_name: "F32".into(),
                    shape: Shape::from([scales.len()].as_slice()),
                    data: Weights::from(scales.as_slice()),
                };
                stored.set(DType::I8, data);
                tensors.insert(format!("{name}{SCALE}"), scale);
                continue;
            }
        };
        stored.set(dtype, data);
    }
}

/// How the weights of a model are stored of which the shapes alone are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blank {
    /// Dtype of what is no matrix, and of matrices where no format is asked for.
    pub plain: DType,
    /// Format of the matrices.
    pub format: Option<WeightFormat>,
}

impl Blank {
    /// Whether a matrix is stored as integers with scales.
    pub fn is_scaled(&self, name: &str) -> bool {
        self.format == Some(WeightFormat::Int8) && is_matrix(name) && !embeds(name)
    }

    /// Dtype of a weight.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> DType {
        match self.format {
            _ if name.ends_with(SCALE) => DType::F32,
            Some(format) if shape.len() == 2 && is_matrix(name) => match format {
                WeightFormat::F32 => DType::F32,
                WeightFormat::F16 => DType::F16,
                WeightFormat::Bf16 => DType::Bf16,
                WeightFormat::Int8 if !embeds(name) => DType::I8,
                WeightFormat::Int8 if self.plain == DType::F16 => DType::F16,
                WeightFormat::Int8 => DType::Bf16,
            },
            _ => self.plain,
        }
    }
}

/// Whether formats apply to a weight of two axes with this name.
fn is_matrix(name: &str) -> bool {
    name.ends_with(".weight") && !name.ends_with("wpe.weight")
}

fn embeds(name: &str) -> bool {
    EMBEDDINGS.iter().any(|end| name.ends_with(end))
}

/// Whether a matrix is stored as [inputs, outputs], as the layers of GPT-2 are.
pub(super) fn outputs_last(name: &str) -> bool {
    [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The elements of a float tensor; `None` for another.
fn floats(stored: &Stored) -> Option<Box<dyn Iterator<Item = f32> + '_>> {
    let bytes = stored.data.bytes();
    let half = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match stored.dtype? {
        DType::F32 => Some(Box::new(
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        )),
        DType::F16 => Some(Box::new(half().map(|b| f16::from_le_bytes(b).to_f32()))),
        DType::Bf16 => Some(Box::new(half().map(|b| bf16::from_le_bytes(b).to_f32()))),
        _ => None,
    }
}

/// Integers and scales of a matrix with rows of `columns` elements; an output channel is a row, or a column where `last`.
fn integers(values: &[f32], columns: usize, last: bool) -> (Vec<u8>, Vec<f32>) {
    let columns = columns.max(1);
    let channel = |at: usize| if last { at % columns } else { at / columns };
    let n = if last { columns } else { values.len() / columns };
    let mut scales = vec![0f32; n];
    for (at, x) in values.iter().enumerate() {
        let scale = &mut scales[channel(at)];
        *scale = scale.max(x.abs());
    }
    scales.iter_mut().for_each(|s| *s /= LARGEST);
    let quantise = |(at, x): (usize, &f32)| match scales[channel(at)] {
        0.0 => 0,
        scale => (x / scale).round_ties_even().clamp(-LARGEST, LARGEST) as i8 as u8,
    };
    (values.iter().enumerate().map(quantise).collect(), scales)
}

impl Stored {
    fn set(&mut self, dtype: DType, data: Vec<u8>) {
        self.dtype = Some(dtype);
        self.dtype_name = dtype.to_string();
        self.data = Weights::from(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_within_half_a_step() {
        let values: Vec<f32> = (0..60).map(|i| ((i * 37 % 60) as f32 - 29.0) * 0.01).collect();
        for last in [false, true] {
            let (data, scales) = integers(&values, 12, last);
            assert_eq!(scales.len(), if last { 12 } else { 5 });
            for (at, (x, q)) in values.iter().zip(&data).enumerate() {
                let scale = scales[if last { at % 12 } else { at / 12 }];
                assert!((x - f32::from(*q as i8) * scale).abs() <= 0.5001 * scale);
            }
        }
    }

    #[test]
    fn matrices_alone_are_converted() {
        let tensor = |shape: &[usize]| {
            let values = vec![1.5f32; shape.iter().product()];
            Stored {
                dtype: Some(DType::F32),
                dtype_name: "F32".into(),
                shape: Shape::from(shape),
                data: Weights::from(values.as_slice()),
            }
        };
        let mut tensors = Tensors::new();
        tensors.insert("a.weight".into(), tensor(&[2, 3]));
        tensors.insert("norm.weight".into(), tensor(&[3]));
        tensors.insert("wpe.weight".into(), tensor(&[4, 3]));
        tensors.insert("model.embed_tokens.weight".into(), tensor(&[5, 3]));
        convert(&mut tensors, WeightFormat::Int8, true);
        assert_eq!(tensors["model.embed_tokens.weight"].dtype, Some(DType::Bf16));
        assert_eq!(tensors[HEAD].dtype, Some(DType::I8));
        assert_eq!(tensors["lm_head.weight.scale"].shape.0, [5]);
        assert_eq!(tensors["a.weight"].dtype, Some(DType::I8));
        assert_eq!(tensors["a.weight.scale"].shape.0, [2]);
        assert_eq!(tensors["norm.weight"].dtype, Some(DType::F32));
        assert_eq!(tensors["wpe.weight"].dtype, Some(DType::F32));
        let mut tensors = Tensors::new();
        tensors.insert("a.weight".into(), tensor(&[2, 3]));
        convert(&mut tensors, WeightFormat::Bf16, true);
        assert!(!tensors.contains_key(HEAD));
        assert_eq!(tensors["a.weight"].data.bytes()[..2], bf16::from_f32(1.5).to_le_bytes());
    }
}
