//! How far a language model is from itself with f32 weights, layer by layer, on the tokens of a text.

use crate::graph::{Graph, Verified};
use crate::isa::DType;
use crate::{CompileError, evaluate};
use lockstep_compiler::tir::eval::Tensor;

/// How far one output is from the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// The output: `layer.N`, `norm` or `logits`.
    pub output: String,
    /// Root of the mean square of the differences over that of the reference, the mean over all tokens: one token whose elements are large
    /// would hide the others.
    pub relative_rms: f64,
    /// Largest absolute difference of an element.
    pub largest: f64,
    /// Cosine of the angle between the two, the mean over all tokens.
    pub cosine: f64,
}

impl Distance {
    /// The distance of `values` from `reference`, which are as many, `n` tokens one after another. Where a token has no difference, it has no
    /// distance, also where all is zero; NaN and infinity show in all figures.
    pub fn between(output: &str, reference: &[f32], values: &[f32], n: usize) -> Distance {
        let size = (reference.len() / n.max(1)).max(1);
        let (mut relative, mut cosine, mut largest) = (0f64, 0f64, 0f64);
        for (a, b) in reference.chunks(size).zip(values.chunks(size)) {
            let (mut differences, mut squares, mut own, mut product) = (0f64, 0f64, 0f64, 0f64);
            for (&a, &b) in a.iter().zip(b) {
                let (a, b) = (f64::from(a), f64::from(b));
                let difference = (a - b).abs();
                differences += difference * difference;
                squares += a * a;
                own += b * b;
                product += a * b;
                if difference > largest || difference.is_nan() {
                    largest = difference;
                }
            }
            let equal = differences == 0.0;
            relative += if equal { 0.0 } else { (differences / squares).sqrt() };
            cosine += if equal { 1.0 } else { product / (squares * own).sqrt() };
        }
        Distance {
            output: output.into(),
            relative_rms: relative / n as f64,
            largest,
            cosine: cosine / n as f64,
        }
    }
}

/// How far a model is from the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisationError {
    /// Every layer, the last norm, the logits.
    pub outputs: Vec<Distance>,
    /// Tokens behind which the most likely next one is the same.
    pub same_next: usize,
}

/// Compares two graphs of [`crate::Checkpoint::layers`] on the tokens that both are made for; `precision` is that of the second, as in
/// [`crate::Options`]. The interpreter of the tensor IR runs both.
///
/// # Errors
/// Graphs that are made for another number of tokens; what lowering reports.
pub fn compare(
    reference: &Verified<Graph>,
    graph: &Verified<Graph>,
    precision: Option<DType>,
    tokens: &[u32],
) -> Result<QuantisationError, CompileError> {
    let ids = tokens.iter().map(|&t| t as i32).collect();
    let inputs = [Tensor::i32(&[1, tokens.len()], ids), Tensor::i32(&[1], vec![0])];
    let wanted = evaluate(reference, None, &inputs)?;
    let given = evaluate(graph, precision, &inputs)?;
    let next = |outputs: &[(String, Vec<f32>)]| -> Vec<usize> {
        let logits = outputs.last().map_or(&[][..], |(_, logits)| logits);
        let vocab = logits.len() / tokens.len().max(1);
        logits.chunks(vocab.max(1)).map(best).collect()
    };
    let pairs = next(&wanted).into_iter().zip(next(&given));
    let outputs = wanted.iter().zip(&given);
    let n = tokens.len();
    Ok(QuantisationError {
        same_next: pairs.filter(|(a, b)| a == b).count(),
        outputs: outputs.map(|(a, b)| Distance::between(&a.0, &a.1, &b.1, n)).collect(),
    })
}

/// Index of the largest element; the first of equal ones.
fn best(logits: &[f32]) -> usize {
    let larger = |best: usize, (i, x): (usize, &f32)| if *x > logits[best] { i } else { best };
    logits.iter().enumerate().fold(0, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        let one = |a: &[f32], b: &[f32]| Distance::between("x", a, b, 1);
        let d = one(&[3.0, 4.0], &[3.0, 3.0]);
        assert_eq!((d.relative_rms, d.largest), (0.2, 1.0));
        assert!((d.cosine - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-15);
        let same = one(&[0.0, 0.0], &[0.0, -0.0]);
        assert_eq!((same.relative_rms, same.largest, same.cosine), (0.0, 0.0, 1.0));
        let opposite = one(&[1.0, 2.0], &[-1.0, -2.0]);
        assert_eq!((opposite.relative_rms, opposite.cosine), (2.0, -1.0));
        let lost = one(&[1.0, 2.0, 3.0], &[1.0, f32::NAN, 7.0]);
        assert!(lost.relative_rms.is_nan() && lost.cosine.is_nan() && lost.largest.is_nan());
        assert!(one(&[0.0], &[1.0]).relative_rms.is_infinite());
    }

    #[test]
    fn tokens_count_alike() {
        // The second token is a thousand times the first, which alone differs.
        let d = Distance::between("x", &[3.0, 4.0, 3e3, 4e3], &[-3.0, -4.0, 3e3, 4e3], 2);
        assert_eq!((d.relative_rms, d.largest, d.cosine), (1.0, 8.0, 0.0));
    }

    #[test]
    fn the_first_of_equal_logits_is_the_best() {
        assert_eq!((best(&[1.0, 3.0, 3.0, 2.0]), best(&[-1.0])), (1, 0));
    }
}
