//! Which chains need which, and which parts of anything.

use crate::plan::ChainPlan;

/// Bytes that are read or written: first, end, whether they are written.
pub type Access = (i64, i64, bool);

/// For every chain the chains before it that it must not overtake.
pub fn dependences(chains: &[ChainPlan]) -> Vec<Vec<u32>> {
    let all: Vec<&[Access]> = chains.iter().map(|c| c.accesses.as_slice()).collect();
    between(&all)
}

/// For every one of these the ones before it that it must not overtake, by the bytes that they access.
pub fn between(parts: &[impl AsRef<[Access]>]) -> Vec<Vec<u32>> {
    let accesses = parts.iter().flat_map(|p| p.as_ref());
    let (numbers, n) = segments(accesses.flat_map(|a| [a.0, a.1]));
    let mut ends = numbers.chunks_exact(2);
    // Who wrote each segment last, and who has read it since: a list of (reader, next) that begins at the segment's entry.
    const NONE: u32 = u32::MAX;
    let mut writer = vec![NONE; n];
    let mut newest = vec![NONE; n];
    let mut readers: Vec<(u32, u32)> = Vec::new();
    let mut all = Vec::with_capacity(parts.len());
    let mut before: Vec<u32> = Vec::new();
    for (c, part) in parts.iter().enumerate() {
        let c = c as u32;
        before.clear();
        for (&(.., write), ends) in part.as_ref().iter().zip(&mut ends) {
            for s in ends[0] as usize..ends[1] as usize {
                if writer[s] != NONE {
                    before.push(writer[s]);
                }
                let mut reader = newest[s];
                if write {
                    while let Some(&(part, next)) = readers.get(reader as usize) {
                        before.push(part);
                        reader = next;
                    }
                    (writer[s], newest[s]) = (c, NONE);
                } else if readers.get(reader as usize).is_none_or(|r| r.0 != c) {
                    newest[s] = readers.len() as u32;
                    readers.push((c, reader));
                }
            }
        }
        before.sort_unstable();
        before.dedup();
        all.push(before.iter().copied().filter(|&b| b != c).collect());
    }
    all
}

/// The number of each byte among the different ones, by ascending byte, and how many there are.
fn segments(bytes: impl Iterator<Item = i64>) -> (Vec<u32>, usize) {
    let mut sorted: Vec<(i64, u32)> = bytes.zip(0..).collect();
    sorted.sort_unstable();
    let mut numbers = vec![0; sorted.len()];
    let mut n = 0;
    let mut last = None;
    for (byte, i) in sorted {
        n += usize::from(last.is_some_and(|b| b != byte));
        last = Some(byte);
        numbers[i as usize] = n as u32;
    }
    (numbers, n + 1)
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
