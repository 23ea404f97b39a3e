//! Which chains need which.

use crate::plan::ChainPlan;

/// For every chain the chains before it that it must not overtake.
pub fn dependences(chains: &[ChainPlan]) -> Vec<Vec<u32>> {
    let mut cuts: Vec<i64> = chains
        .iter()
        .flat_map(|c| &c.accesses)
        .flat_map(|a| [a.0, a.1])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let at = |byte: i64| cuts.partition_point(|&c| c < byte);
    // Who wrote each segment last, and who has read it since.
    let mut writer: Vec<Option<u32>> = vec![None; cuts.len()];
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); cuts.len()];
    let mut all = Vec::with_capacity(chains.len());
    for (c, chain) in chains.iter().enumerate() {
        let c = c as u32;
        let mut before: Vec<u32> = Vec::new();
        for &(from, to, write) in &chain.accesses {
            for s in at(from)..at(to) {
                before.extend(writer[s]);
                if write {
                    before.append(&mut readers[s]);
                    writer[s] = Some(c);
                } else if readers[s].last() != Some(&c) {
                    readers[s].push(c);
                }
            }
        }
        before.sort_unstable();
        before.dedup();
        before.retain(|&b| b != c);
        all.push(before);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(accesses: &[(i64, i64, bool)]) -> ChainPlan {
        ChainPlan {
            accesses: accesses.to_vec(),
            ..ChainPlan::default()
        }
    }

    #[test]
    fn a_chain_depends_on_writers_and_on_readers_of_what_it_writes() {
        let chains = [
            chain(&[(0, 8, true)]),
            chain(&[(4, 12, false)]),
            chain(&[(8, 16, true)]),
            chain(&[(0, 4, false), (12, 16, false)]),
            chain(&[(16, 20, true)]),
        ];
        let all = dependences(&chains);
        assert_eq!(all, [vec![], vec![0], vec![1], vec![0, 2], vec![]]);
    }
}
