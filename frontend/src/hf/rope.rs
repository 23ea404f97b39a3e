//! Rotary position embedding: frequencies as config.json describes them, and the tables of cosines and sines.
//!
//! Frequencies and angles are rounded to f32 as transformers does; cosine and sine are correctly rounded. The sine of the first half of a
//! head is stored negated, so that a rotation is x · cos + swapped(x) · sin, where `swapped` exchanges the halves of a head.

use super::config::Json;
use lockstep_graph::Weights;

/// Frequencies of half a head in radians per position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    inverse: Vec<f32>,
    /// Both tables are multiplied by this.
    scale: f32,
}

/// Kinds of scaling that are known.
const KINDS: &str = "default, linear, llama3, yarn";

impl Rope {
    /// Frequencies for heads of `head` elements (even); `json` is `rope_scaling` or `rope_parameters`, where there is one; `positions` is
    /// `max_position_embeddings`.
    pub fn new(head: usize, theta: f64, json: Option<&Json>, positions: usize) -> Result<Self, String> {
        let inverse: Vec<f32> = (0..head / 2)
            .map(|i| 1.0 / libm::powf(theta as f32, (2 * i) as f32 / head as f32))
            .collect();
        let plain = |inverse| Ok(Self { inverse, scale: 1.0 });
        let Some(json) = json else { return plain(inverse) };
        let kind = json.get("rope_type").or_else(|| json.get("type"));
        let kind = kind.and_then(|kind| kind.as_str()).unwrap_or("default");
        let number = |key: &str| {
            let value = json.get(key).and_then(|value| value.as_f64());
            value.ok_or_else(|| format!("rope scaling of type {kind} has no number \"{key}\""))
        };
        match kind {
            "default" => plain(inverse),
            "linear" => {
                let factor = number("factor")? as f32;
                plain(inverse.iter().map(|f| f / factor).collect())
            }
            "llama3" => {
                let factor = number("factor")? as f32;
                let (low, high) = (number("low_freq_factor")? as f32, number("high_freq_factor")? as f32);
                let original = number("original_max_position_embeddings")? as f32;
                let scaled = |&f: &f32| {
                    let wave = 2.0 * std::f32::consts::PI / f;
                    if wave > original / low {
                        f / factor
                    } else if wave < original / high {
                        f
                    } else {
                        let smooth = (original / wave - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain(inverse.iter().map(scaled).collect())
            }
            "yarn" => {
                let factor = number("factor")?;
                let or = |key: &str, value: f64| json.get(key).and_then(|v| v.as_f64()).unwrap_or(value);
                let original = or("original_max_position_embeddings", positions as f64);
                let attention = or("attention_factor", 0.1 * libm::log(factor.max(1.0)) + 1.0);
                let (fast, slow) = (or("beta_fast", 32.0), or("beta_slow", 1.0));
                let turn = |turns: f64| {
                    head as f64 * libm::log(original / (turns * 2.0 * std::f64::consts::PI)) / (2.0 * libm::log(theta))
                };
                let (low, high) = (turn(fast).floor().max(0.0), turn(slow).ceil().min(head as f64 - 1.0));
                let span = if high == low { 0.001 } else { high - low };
                let blend = |(i, &f): (usize, &f32)| {
                    let inner = ((i as f64 - low) / span).clamp(0.0, 1.0) as f32;
                    f / factor as f32 * inner + f * (1.0 - inner)
                };
                Ok(Self {
                    inverse: inverse.iter().enumerate().map(blend).collect(),
                    scale: attention as f32,
                })
            }
            other => Err(format!(
                "rope scaling has type \"{}\", allowed: {KINDS}",
                other.escape_debug()
            )),
        }
    }

    /// Multiplies every frequency; for checkpoints that store a divisor per frequency.
    pub fn divide(&mut self, divisors: &[f32]) {
        for (f, divisor) in self.inverse.iter_mut().zip(divisors) {
            *f /= divisor;
        }
    }

    /// Cosines and signed sines, f32[positions, head] each.
    pub fn tables(&self, positions: usize) -> (Weights, Weights) {
        let mut cos = Vec::with_capacity(positions * self.inverse.len() * 2);
        let mut sin = Vec::with_capacity(positions * self.inverse.len() * 2);
        for position in 0..positions {
            for half in 0..2 {
                for f in &self.inverse {
                    let angle = f64::from(position as f32 * f);
                    let sign = if half == 0 { -1.0 } else { 1.0 };
                    cos.push(libm::cos(angle) as f32 * self.scale);
                    sin.push(sign * libm::sin(angle) as f32 * self.scale);
                }
            }
        }
        (Weights::from(cos.as_slice()), Weights::from(sin.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frequencies_and_their_tables() {
        let rope = Rope::new(4, 10000.0, None, 8).expect("frequencies");
        assert_eq!(rope.inverse, [1.0, 0.01]);
        let (cos, sin) = rope.tables(2);
        let floats = |w: &Weights| -> Vec<f32> {
            w.bytes()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        };
        assert_eq!(floats(&cos)[..4], [1.0; 4]);
        let (s, c) = (1f64.sin() as f32, 1f64.cos() as f32);
        assert_eq!(floats(&cos)[4], c);
        assert_eq!((floats(&sin)[4], floats(&sin)[6]), (-s, s));
    }

    #[test]
    fn an_unknown_scaling_names_the_known_ones() {
        let json = serde_json::json!({ "rope_type": "magic" });
        let error = Rope::new(4, 10000.0, Some(&json), 8).expect_err("an error");
        assert_eq!(
            error,
            "rope scaling has type \"magic\", allowed: default, linear, llama3, yarn"
        );
    }
}
