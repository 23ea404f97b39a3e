//! Fitting of affine runs: sequences of vectors become as few boxes of up to three dimensions as possible.

use crate::chain::{Affine, BufId};

/// One vector of a buffer.
pub type At = (BufId, u32);

/// A box of consecutive steps over which every track stays in one buffer and moves affinely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First step.
    pub start: usize,
    /// Steps per dimension, innermost first.
    pub dims: [u32; 3],
    /// Per track: buffer and address.
    pub at: Vec<(BufId, Affine)>,
}

impl Piece {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.dims.iter().map(|&d| d as usize).product()
    }
}

/// Cuts equally long tracks into pieces of at most `most` steps and `max_dims` dimensions, in order.
pub fn fit(tracks: &[Vec<At>], most: usize, max_dims: usize) -> Vec<Piece> {
    let n = tracks.first().map_or(0, Vec::len);
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < n {
        let piece = fit_one(tracks, start, (n - start).min(most), max_dims);
        start += piece.len();
        pieces.push(piece);
    }
    pieces
}

/// As [`fit`], but steps that take the same buffers come together, whatever lies between them.
pub fn fit_by_buffers(tracks: &[Vec<At>], most: usize, max_dims: usize) -> Vec<Piece> {
    let n = tracks.first().map_or(0, Vec::len);
    let mut groups: Vec<(Vec<BufId>, Vec<usize>)> = Vec::new();
    for step in 0..n {
        let bufs: Vec<BufId> = tracks.iter().map(|t| t[step].0).collect();
        match groups.iter_mut().find(|g| g.0 == bufs) {
            Some(group) => group.1.push(step),
            None => groups.push((bufs, vec![step])),
        }
    }
    let mut pieces = Vec::new();
    for (_, steps) in groups {
        let taken: Vec<Vec<At>> = tracks.iter().map(|t| steps.iter().map(|&s| t[s]).collect()).collect();
        pieces.extend(fit(&taken, most, max_dims));
    }
    pieces
}

fn fit_one(tracks: &[Vec<At>], start: usize, room: usize, max_dims: usize) -> Piece {
    let mut dims = [1u32; 3];
    let mut strides = vec![[0i32; 3]; tracks.len()];
    let mut size = 1;
    for d in 0..max_dims {
        // Repeat the box found so far along one more dimension, as often as every track follows.
        if size * 2 > room {
            break;
        }
        let step: Vec<i64> = tracks
            .iter()
            .map(|t| t[start + size].1 as i64 - t[start].1 as i64)
            .collect();
        let mut count = 1;
        while size * (count + 1) <= room {
            let block = start + count * size;
            let follows = tracks.iter().zip(&step).all(|(t, &s)| {
                (0..size).all(|k| {
                    let (buf, index) = t[block + k];
                    buf == t[start].0 && index as i64 == t[start + k].1 as i64 + s * count as i64
                })
            });
            if !follows {
                break;
            }
            count += 1;
        }
        if count == 1 {
            break;
        }
        dims[d] = count as u32;
        for (t, &s) in strides.iter_mut().zip(&step) {
            t[d] = s as i32;
        }
        size *= count;
    }
    let at = tracks
        .iter()
        .zip(strides)
        .map(|(t, strides)| {
            (
                t[start].0,
                Affine {
                    base: t[start].1,
                    strides,
                },
            )
        })
        .collect();
    Piece { start, dims, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_graph::EntityId;

    fn track(buf: usize, indices: &[u32]) -> Vec<At> {
        indices.iter().map(|&i| (BufId::from_index(buf), i)).collect()
    }

    #[test]
    fn a_box_is_one_piece_and_a_jump_starts_another() {
        let a = track(0, &[0, 1, 2, 10, 11, 12, 20, 21, 22, 7]);
        let b = track(1, &[5; 10]);
        let pieces = fit(&[a, b], 100, 3);
        assert_eq!(
            pieces.iter().map(|p| (p.start, p.dims)).collect::<Vec<_>>(),
            [(0, [3, 3, 1]), (9, [1, 1, 1])]
        );
        assert_eq!(pieces[0].at[0].1.strides, [1, 10, 0]);
        assert_eq!(pieces[0].at[1].1.strides, [0, 0, 0]);
    }

    #[test]
    fn another_buffer_ends_a_piece() {
        let mut a = track(0, &[0, 1, 2]);
        a.extend(track(1, &[3, 4]));
        assert_eq!(fit(&[a], 100, 3).iter().map(Piece::len).collect::<Vec<_>>(), [3, 2]);
    }
}
