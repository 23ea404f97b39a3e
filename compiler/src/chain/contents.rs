//! What constant buffers and weight tiles hold: a recipe that is followed when an artifact is written, so that partitions which
//! are looked at and not chosen cost no bytes.

use crate::error::CompileError;
use crate::tir::consteval::weights;
use crate::tir::{TensorIr, ValueId};
use lockstep_graph::Weights;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// A constant value of the tensor IR, evaluated when its elements are first wanted and kept from then on.
#[derive(Debug)]
pub enum Constant {
    /// Given elements, row-major, little-endian.
    Given(Vec<u8>),
    /// A value all of whose ancestors are constants, and its elements once they were wanted.
    Value(Arc<TensorIr>, ValueId, OnceLock<Weights>),
}

impl Constant {
    /// A value all of whose ancestors are constants.
    pub fn new(ir: Arc<TensorIr>, value: ValueId) -> Constant {
        Constant::Value(ir, value, OnceLock::new())
    }

    /// Element bytes, row-major, little-endian.
    fn bytes(&self) -> Result<&[u8], CompileError> {
        let (ir, value, elements) = match self {
            Constant::Given(elements) => return Ok(elements),
            Constant::Value(ir, value, elements) => (ir, value, elements),
        };
        if let Some(known) = elements.get() {
            return Ok(known.bytes());
        }
        let found = weights(ir, *value)?;
        Ok(elements.get_or_init(|| found).bytes())
    }
}

/// Elements that follow each other: the first of them and how many.
pub type Stretch = (usize, usize);

/// Elements as stretches, in order.
pub fn stretches(elements: impl Iterator<Item = usize>) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for at in elements {
        match all.last_mut() {
            Some((first, n)) if *first + *n == at => *n += 1,
            _ => all.push((at, 1)),
        }
    }
    all
}

/// Vectors picked from a constant: the elements `stretches`, counted from the vector's first.
#[derive(Debug)]
pub struct Picked {
    /// Where they come from.
    pub from: Arc<Constant>,
    /// Bytes of an element.
    pub size: usize,
    /// Zero elements before those of each vector.
    pub lead: usize,
    /// The element that each vector counts from.
    pub vectors: Vec<usize>,
    /// Elements of a vector.
    pub stretches: Arc<[Stretch]>,
    /// Bytes after the last vector.
    pub tail: Vec<u8>,
}

#[derive(Debug)]
enum Recipe {
    Given(Vec<u8>),
    Picked(Picked),
    /// Vectors of integers of 4 bits each, two of which become one.
    Pairs(Picked),
    /// Vectors of which so many that follow each other are the same; one of each is kept.
    Alike(Picked, usize),
}

/// The bytes of a constant buffer or tile. Clones are the same contents.
#[derive(Clone, Debug)]
pub struct Contents(Arc<Recipe>);

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Contents {
        Contents(Arc::new(Recipe::Given(bytes)))
    }
}

impl From<Picked> for Contents {
    fn from(picked: Picked) -> Contents {
        Contents(Arc::new(Recipe::Picked(picked)))
    }
}

impl Contents {
    /// Vectors of one-byte integers that fit 4 bits, two of which become one vector of pairs; the last may be alone.
    pub fn pairs(picked: Picked) -> Contents {
        Contents(Arc::new(Recipe::Pairs(picked)))
    }

    /// Vectors of which each `block` that follow each other, and those that are left, are the same; the first of each is kept.
    pub fn alike(picked: Picked, block: usize) -> Contents {
        Contents(Arc::new(Recipe::Alike(picked, block)))
    }

    /// Tells contents apart: equal for clones, and for nothing else that is alive at the time.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// The bytes.
    ///
    /// # Errors
    /// Constants that cannot be evaluated, see [`weights`]; elements outside their constant, integers wider than their pairs and
    /// vectors that are not alike (bugs).
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, CompileError> {
        Ok(match &*self.0 {
            Recipe::Given(bytes) => bytes.into(),
            Recipe::Picked(picked) => picked.bytes()?.into(),
            Recipe::Pairs(picked) => picked.pairs()?.into(),
            Recipe::Alike(picked, block) => picked.first_of_each(*block)?.into(),
        })
    }
}

impl Picked {
    /// Elements of a vector, those before them included.
    fn width(&self) -> usize {
        self.lead + self.stretches.iter().map(|s| s.1).sum::<usize>()
    }

    /// Every two vectors of one-byte integers as one of pairs of 4 bits.
    fn pairs(&self) -> Result<Vec<u8>, CompileError> {
        let (rows, width) = (self.bytes()?, self.width());
        if rows.iter().any(|&x| !(-8..8).contains(&(x as i8))) {
            let found = "an integer of a pair is wider than 4 bits";
            return Err(CompileError::internal("emit", found));
        }
        let pair = |pair: &[u8]| -> Vec<u8> {
            let (low, high) = pair.split_at(width.min(pair.len()));
            let high = high.iter().copied().chain(std::iter::repeat(0));
            low.iter().zip(high).map(|(low, high)| low & 0xf | high << 4).collect()
        };
        Ok(rows.chunks((2 * width).max(1)).flat_map(pair).collect())
    }

    /// The first of every `block` vectors, which are all alike.
    fn first_of_each(&self, block: usize) -> Result<Vec<u8>, CompileError> {
        let (rows, vector) = (self.bytes()?, (self.width() * self.size).max(1));
        let blocks = rows.chunks(vector.saturating_mul(block).max(1));
        let mut kept = Vec::with_capacity(blocks.len() * vector);
        for block in blocks {
            let (first, rest) = block.split_at(vector.min(block.len()));
            if rest.chunks(vector).any(|other| other != first) {
                let found = "rows of a block of weights have scales of their own";
                return Err(CompileError::internal("emit", found));
            }
            kept.extend_from_slice(first);
        }
        Ok(kept)
    }

    fn bytes(&self) -> Result<Vec<u8>, CompileError> {
        let (from, size) = (self.from.bytes()?, self.size);
        let width = self.width();
        let mut out = Vec::with_capacity(self.vectors.len() * width * size + self.tail.len());
        for &vector in &self.vectors {
            out.resize(out.len() + self.lead * size, 0);
            for &(first, n) in &*self.stretches {
                let at = (vector + first) * size;
                let Some(elements) = from.get(at..at + n * size) else {
                    return Err(CompileError::internal(
                        "emit",
                        format!(
                            "elements {}..{} of a constant of {} bytes",
                            vector + first,
                            vector + first + n,
                            from.len()
                        ),
                    ));
                };
                match (elements.first_chunk::<4>(), elements.first_chunk::<2>(), elements.len()) {
                    (Some(four), _, 4) => out.extend(four),
                    (_, Some(two), 2) => out.extend(two),
                    _ => out.extend_from_slice(elements),
                }
            }
        }
        out.extend_from_slice(&self.tail);
        Ok(out)
    }
}
