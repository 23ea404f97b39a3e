//! Storage of the matrices of a decoder: as another float type, as 8-bit integers with a scale per output channel, or as integers in
//! blocks of inputs with a scale each.
//!
//! An integer matrix `NAME` has its scales beside it as `NAME.scale`. f32[outputs] is a scale per channel: element (o, i) is
//! `q * scale[o]`, with q in -127..=127 and the scale such that the largest element of a channel is 127. f16[outputs, blocks] (with the
//! inputs first, [blocks, outputs]) is a scale per block: element (o, i) is `q * scale[o, i / block]`. 4-bit integers are made in blocks of
//! 32, or of the largest power of two that divides the inputs: q in -8..=7, the element of the largest magnitude being -8; a block whose
//! elements already are such integers times a 16-bit scale (GGUF's Q4_0) keeps their values. A matrix of an odd number of inputs gets
//! 8-bit integers. Vectors (norms, biases) and learned positions stay as they are. So do, where matrices
//! become integers, the embeddings of tokens, but as 16-bit floats: a scale per row would take as much SRAM as a whole row. An output
//! head that shares their elements gets integers of its own.

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
    /// 4-bit integers in blocks of 32 inputs with an f16 scale each.
    Int4,
}

impl WeightFormat {
    /// Whether matrices become integers with scales.
    fn is_integer(self) -> bool {
        matches!(self, WeightFormat::Int8 | WeightFormat::Int4)
    }
}

/// Inputs of a block of 4-bit integers.
const BLOCK: usize = 32;

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
    if format.is_integer()
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
            (_, Some(DType::F16)) if format.is_integer() && embeds(&name) => WeightFormat::F16,
            _ if format.is_integer() && embeds(&name) => WeightFormat::Bf16,
            (WeightFormat::Int4, _) if !inputs(stored, &name).is_multiple_of(2) => WeightFormat::Int8,
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
                let shape = Shape::from([scales.len()].as_slice());
                let scale = Stored::new(DType::F32, shape, Weights::from(scales.as_slice()));
                stored.set(DType::I8, data);
                tensors.insert(format!("{name}{SCALE}"), scale);
                continue;
            }
            WeightFormat::Int4 => {
                let values: Vec<f32> = values.collect();
                let last = outputs_last(&name);
                let block = block(inputs(stored, &name));
                let (data, scales) = blocks(&values, stored.shape.0[1], last, block);
                let mut shape = stored.shape.clone();
                shape.0[usize::from(!last)] /= block;
                let scales: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
                stored.set(DType::I8, data);
                tensors.insert(format!("{name}{SCALE}"), Stored::new(DType::F16, shape, scales.into()));
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
        self.format.is_some_and(WeightFormat::is_integer) && is_matrix(name) && !embeds(name)
    }

    /// Shape of the scales of a matrix that is stored as integers: per channel, or per block as [`convert`] makes them.
    pub fn scales(&self, name: &str, shape: &[usize]) -> Option<Vec<usize>> {
        let (channels, inputs) = (usize::from(outputs_last(name)), usize::from(!outputs_last(name)));
        match self.format {
            _ if !self.is_scaled(name) || shape.len() != 2 => None,
            Some(WeightFormat::Int4) if shape[inputs].is_multiple_of(2) => {
                let mut scales = shape.to_vec();
                scales[inputs] /= block(shape[inputs]);
                Some(scales)
            }
            _ => Some(vec![shape[channels]]),
        }
    }

    /// Dtype of a weight.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> DType {
        match self.format {
            _ if name.ends_with(SCALE) && shape.len() == 2 => DType::F16,
            _ if name.ends_with(SCALE) => DType::F32,
            Some(format) if shape.len() == 2 && is_matrix(name) => match format {
                WeightFormat::F32 => DType::F32,
                WeightFormat::F16 => DType::F16,
                WeightFormat::Bf16 => DType::Bf16,
                _ if !embeds(name) => DType::I8,
                _ if self.plain == DType::F16 => DType::F16,
                _ => DType::Bf16,
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

/// Inputs of a block of 4-bit integers: 32, or the largest power of two that divides the inputs of the matrix.
fn block(inputs: usize) -> usize {
    1 << inputs.trailing_zeros().min(BLOCK.trailing_zeros())
}

/// Inputs of a matrix.
fn inputs(stored: &Stored, name: &str) -> usize {
    stored.shape.0[usize::from(!outputs_last(name))]
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

/// 4-bit integers, one to a byte, and scales of a matrix with rows of `columns` elements, in blocks along the rows, or along the columns
/// where outputs come `last`.
fn blocks(values: &[f32], columns: usize, last: bool, block: usize) -> (Vec<u8>, Vec<f16>) {
    let columns = columns.max(1);
    let (of, n) = match last {
        true => (columns, values.len() / block.max(1)),
        false => (1, values.len() / block.max(1)),
    };
    // Element `i` of block `b`.
    let at = |b: usize, i: usize| b / of * of * block + b % of + i * of;
    let mut data = vec![0u8; values.len()];
    let mut scales = Vec::with_capacity(n);
    for b in 0..n {
        let elements = || (0..block).map(|i| values[at(b, i)]);
        let scale = block_scale(elements);
        for i in (0..block).map(|i| at(b, i)) {
            data[i] = nibble(values[i], scale) as i8 as u8;
        }
        scales.push(scale);
    }
    (data, scales)
}

/// The 4-bit integer of an element of a block, as a float.
fn nibble(x: f32, scale: f16) -> f32 {
    match scale.to_f32() {
        0.0 => 0.0,
        by => (x / by).round_ties_even().clamp(-8.0, 7.0),
    }
}

/// The scale of a block: one with which its 4-bit integers are exact, if there is one, else that by which the element of the largest
/// magnitude is -8.
fn block_scale<I: Iterator<Item = f32>>(elements: impl Fn() -> I) -> f16 {
    let largest = elements().fold(0f32, |a, x| if x.abs() > a.abs() { x } else { a });
    let scale = |q: i8| f16::from_f32(largest / f32::from(q));
    let exact = |scale: &f16| elements().all(|x| nibble(x, *scale) * scale.to_f32() == x);
    // The integer of the largest element.
    (-8..0).map(scale).find(exact).unwrap_or(scale(-8))
}

impl Stored {
    /// A tensor of a known element type.
    pub(crate) fn new(dtype: DType, shape: Shape, data: Weights) -> Stored {
        Stored {
            dtype: Some(dtype),
            dtype_name: dtype.to_string(),
            shape,
            data,
        }
    }

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
    fn blocks_are_within_half_a_step() {
        let values: Vec<f32> = (0..8 * 12).map(|i| ((i * 37 % 61) as f32 - 29.0) * 0.01).collect();
        for last in [false, true] {
            let (data, scales) = blocks(&values, 12, last, 4);
            assert_eq!(scales.len(), 24);
            for (at, (x, q)) in values.iter().zip(&data).enumerate() {
                let (row, column) = (at / 12, at % 12);
                let scale = scales[if last {
                    row / 4 * 12 + column
                } else {
                    row * 3 + column / 4
                }]
                .to_f32();
                let q = f32::from(*q as i8);
                assert!((-8.0..=7.0).contains(&q));
                // The largest of the other sign is as far off as a whole step.
                assert!((x - q * scale).abs() <= 1.001 * scale.abs(), "{x} {q} {scale}");
            }
        }
    }

    /// Whatever the largest integer of a block and the sign of its scale.
    #[test]
    fn blocks_of_four_bits_keep_their_values() {
        for largest in 1..=8i32 {
            for (n, scale) in [0.013f32, -2.7, 6e-7, 4096.0].into_iter().enumerate() {
                let by = f16::from_f32(scale).to_f32();
                let least = -largest;
                let integers = (0..64).map(|i| (least + (i * 5 + n as i32) % (2 * largest)).min(7) as f32);
                let values: Vec<f32> = integers.map(|q| q * by).collect();
                let (data, scales) = blocks(&values, 32, false, 32);
                for (at, x) in values.iter().enumerate() {
                    let q = f32::from(data[at] as i8);
                    assert_eq!(q * scales[at / 32].to_f32(), *x, "{largest} {scale} {at}");
                }
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
        tensors.insert("wide.weight".into(), tensor(&[2, 48]));
        convert(&mut tensors, WeightFormat::Int4, true);
        assert_eq!(tensors["wide.weight.scale"].shape.0, [2, 3]);
        assert_eq!(tensors["a.weight.scale"].shape.0, [2]);
        let mut tensors = Tensors::new();
        tensors.insert("a.weight".into(), tensor(&[2, 3]));
        convert(&mut tensors, WeightFormat::Bf16, true);
        assert!(!tensors.contains_key(HEAD));
        assert_eq!(tensors["a.weight"].data.bytes()[..2], bf16::from_f32(1.5).to_le_bytes());
    }
}
