//! Static tensor shapes.

use std::fmt;
use std::ops::Deref;

/// Dimensions of a tensor, outermost first; empty for a scalar. Every dimension is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(pub Vec<usize>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Self {
        Self(Vec::new())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; saturates at `usize::MAX`.
    pub fn n_elements(&self) -> usize {
        if self.0.contains(&0) {
            0
        } else {
            self.0.iter().fold(1, |n, &d| n.saturating_mul(d))
        }
    }

    /// Row-major strides in elements; all dimensions must multiply without overflow.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1usize; self.rank()];
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(self.0[axis]);
        }
        strides
    }

    /// The shape that numpy gives to an elementwise operation on `self` and `other`; `None` if they do not fit.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let dim = |shape: &Shape, axis: usize| (axis + shape.rank()).checked_sub(rank).map_or(1, |at| shape.0[at]);
        let dims = (0..rank).map(|axis| match (dim(self, axis), dim(other, axis)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        });
        dims.collect::<Option<Vec<_>>>().map(Shape)
    }

    /// Whether numpy broadcasting takes `self` to exactly `target`.
    pub fn broadcasts_to(&self, target: &Shape) -> bool {
        self.broadcast(target).as_ref() == Some(target)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Self(dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if axis == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let of = |a: &[usize], b: &[usize]| Shape::from(a).broadcast(&Shape::from(b)).map(|s| s.0);
        assert_eq!(of(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
        assert_eq!(of(&[], &[5]), Some(vec![5]));
        assert_eq!(of(&[1], &[0]), Some(vec![0]));
        assert_eq!(of(&[2], &[3]), None);
        assert!(!Shape::from([2, 3]).broadcasts_to(&Shape::from([3])));
    }
}
