//! Compositions that several importers use.

use lockstep_graph::op::{Binary, Unary};
use lockstep_graph::{GraphBuilder, OpError, ValueId};

/// x · Φ(x): exact by erf, or the tanh approximation.
pub(crate) fn gelu(b: &mut GraphBuilder, x: ValueId, tanh: bool) -> Result<ValueId, OpError> {
    let inner = if tanh {
        let square = b.binary(Binary::Mul, x, x)?;
        let cube = b.binary(Binary::Mul, square, x)?;
        let small = b.binary_scalar(Binary::Mul, cube, 0.044715)?;
        let sum = b.binary(Binary::Add, x, small)?;
        let scaled = b.binary_scalar(Binary::Mul, sum, (2.0 / std::f64::consts::PI).sqrt())?;
        b.unary(Unary::Tanh, scaled)?
    } else {
        let scaled = b.binary_scalar(Binary::Mul, x, std::f64::consts::FRAC_1_SQRT_2)?;
        b.unary(Unary::Erf, scaled)?
    };
    let gate = b.binary_scalar(Binary::Add, inner, 1.0)?;
    let half = b.binary_scalar(Binary::Mul, x, 0.5)?;
    b.binary(Binary::Mul, half, gate)
}
