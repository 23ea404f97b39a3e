//! Choosing a token from logits.

/// How to choose. Temperature 0 takes the most likely token, the first of equal ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that have this share of the probability together.
    pub top_p: f32,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Chooses tokens; the same settings and logits give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    how: Sampling,
    state: u64,
}

impl Sampler {
    /// A sampler at its first choice.
    pub fn new(how: Sampling) -> Self {
        Self { how, state: how.seed }
    }

    /// A token; 0 if there are no logits.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.how.temperature <= 0.0 {
            let best = |best: usize, (at, &logit): (usize, &f32)| {
                if logit > logits[best] { at } else { best }
            };
            return logits.iter().enumerate().fold(0, best) as u32;
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |token: u32| logits[token as usize];
        order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
        if self.how.top_k > 0 {
            order.truncate(self.how.top_k);
        }
        let Some(&first) = order.first() else { return 0 };
        let weight = |token: u32| f64::from((logit(token) - logit(first)) / self.how.temperature).exp();
        let mut weights: Vec<f64> = order.iter().map(|&token| weight(token)).collect();
        let total: f64 = weights.iter().sum();
        let mut share = 0.0;
        let reached = weights.iter().position(|w| {
            share += w;
            share >= total * f64::from(self.how.top_p)
        });
        weights.truncate(reached.map_or(weights.len(), |at| at + 1));
        let total: f64 = weights.iter().sum();
        let mut left = self.uniform() * total;
        for (&token, weight) in order.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        first
    }

    /// In [0, 1), by splitmix64.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampler::new(Sampling::default()).choose(&[1.0, 3.0, 3.0, 2.0]), 1);
    }

    #[test]
    fn limits_and_seeds() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let draw = |how: Sampling| {
            let mut sampler = Sampler::new(how);
            (0..200).map(|_| sampler.choose(&logits)).collect::<Vec<u32>>()
        };
        let hot = Sampling {
            temperature: 2.0,
            seed: 1,
            ..Sampling::default()
        };
        let all = draw(hot);
        assert_eq!(all, draw(hot));
        assert_ne!(all, draw(Sampling { seed: 2, ..hot }));
        assert!((0..4).all(|token| all.contains(&token)));
        assert!(draw(Sampling { top_k: 2, ..hot }).iter().all(|t| [1, 2].contains(t)));
        assert!(draw(Sampling { top_p: 0.1, ..hot }).iter().all(|&t| t == 1));
    }
}
