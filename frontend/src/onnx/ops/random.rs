//! Dropout in training: with a seed, its mask is a constant, drawn as the reference implementation draws it.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::Binary;
use lockstep_graph::{DType, ValueId};

/// Words of the generator's state.
const N: usize = 624;
/// Most elements of a mask.
const MAX_ELEMENTS: usize = 1 << 24;

/// The Mersenne Twister MT19937.
struct Twister {
    state: [u32; N],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = (before ^ before >> 30)
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, at: N }
    }

    fn word(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % N] ^ joined >> 1 ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// Uniform in [0, 1) with 53 bits.
    fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word() >> 5), u64::from(self.word() >> 6));
        (high << 26 | low) as f64 / (1u64 << 53) as f64
    }
}

/// The kept elements of x scaled by 1 / (1 − ratio), and which are kept.
pub(super) fn training_dropout(cx: &mut Cx<'_, '_>, x: ValueId, ratio: f64) -> Imported {
    let Some(seed) = cx.opt_int("seed").and_then(|seed| u32::try_from(seed).ok()) else {
        return unsupported("dropout in training mode without a seed is random");
    };
    let shape = cx.shape(x);
    let n = shape.n_elements();
    if !(0.0..1.0).contains(&ratio) || n > MAX_ELEMENTS {
        return malformed(format!(
            "a ratio of {ratio} over {n} elements, allowed: 0 to below 1, {MAX_ELEMENTS} elements"
        ));
    }
    let mut random = Twister::new(seed);
    let kept: Vec<u8> = (0..n).map(|_| u8::from(random.uniform() >= ratio)).collect();
    let mask = cx.b().constant("", DType::Bool, shape, kept.into())?;
    let y = keep(cx, x, mask, ratio)?;
    Ok(vec![y, mask])
}

fn keep(cx: &mut Cx<'_, '_>, x: ValueId, mask: ValueId, ratio: f64) -> Result<ValueId, Fail> {
    let zero = cx.b().scalar_like(x, 0.0);
    let kept = cx.b().select(mask, x, zero)?;
    Ok(cx.b().binary_scalar(Binary::Mul, kept, 1.0 / (1.0 - ratio))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_its_published_numbers() {
        let mut random = Twister::new(5489);
        assert_eq!([random.word(), random.word()], [3_499_211_612, 581_869_302]);
        let tenth_thousand = (2..10_000).map(|_| random.word()).last();
        assert_eq!(tenth_thousand, Some(4_123_659_995));
    }
}
