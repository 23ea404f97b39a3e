//! Errors in ULPs over a dense sample of all floats, and special values.

use super::*;

/// Errors of `f` against a binary64 reference: the largest in ULPs of the binary32 result.
fn worst(name: &str, f: fn(f32) -> f32, reference: fn(f64) -> f64) -> f64 {
    let (mut worst, mut at) = (0.0f64, 0.0f32);
    let mut check = |x: f32| {
        let want = reference(x as f64);
        let got = f(x);
        if want.is_nan() {
            assert!(got.is_nan(), "{name}({x:e}) = {got:e}, want NaN");
            return;
        }
        let nearest = want as f32;
        if got == nearest {
            return;
        }
        assert!(
            got.is_finite() || nearest.is_infinite() || want.abs() > f32::MAX as f64 * 0.999_999,
            "{name}({x:e}) = {got:e}, want {want:e}"
        );
        let magnitude = (want.abs() as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        let ulp = f32::from_bits((magnitude.to_bits() & 0x7f80_0000).max(24 << 23)) as f64 * f32::EPSILON as f64;
        let ulp = if magnitude == f32::MIN_POSITIVE {
            f32::from_bits(1) as f64
        } else {
            ulp
        };
        let error = (got as f64 - want).abs() / ulp;
        if error > worst {
            (worst, at) = (error, x);
        }
    };
    let mut bits = 0u32;
    loop {
        check(f32::from_bits(bits));
        match bits.checked_add(1009) {
            Some(next) => bits = next,
            None => break,
        }
    }
    // The range in which models live, more densely.
    for i in 0..400_000 {
        check((i as f32 - 200_000.0) * 6.7e-5);
    }
    println!("{name}: {worst:.3} ULP at {at:e}");
    worst
}

#[test]
fn exp_is_accurate() {
    assert!(worst("exp", exp, f64::exp) < 1.1);
}

#[test]
fn log_is_accurate() {
    assert!(worst("log", log, f64::ln) < 1.1);
}

#[test]
fn tanh_is_accurate() {
    assert!(worst("tanh", tanh, f64::tanh) < 1.5);
}

#[test]
fn erf_is_accurate() {
    assert!(worst("erf", erf, libm::erf) < 1.5);
}

#[test]
fn sin_and_cos_are_accurate() {
    assert!(worst("sin", sin, f64::sin) < 1.1);
    assert!(worst("cos", cos, f64::cos) < 1.1);
}

#[test]
fn sin_and_cos_near_multiples_of_pi() {
    for n in (1..200_000u32).step_by(7) {
        let x = (n as f64 * std::f64::consts::FRAC_PI_2) as f32;
        for x in [x, -x] {
            for (got, want) in [(sin(x), (x as f64).sin()), (cos(x), (x as f64).cos())] {
                let error = (got as f64 - want).abs() / want.abs();
                assert!(error < 1.2e-7, "{x:e}: {got:e}, want {want:e}");
            }
        }
    }
}

#[test]
fn special_values() {
    let inf = f32::INFINITY;
    assert_eq!(exp(inf), inf);
    assert_eq!(exp(-inf).to_bits(), 0);
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-200.0).to_bits(), 0);
    assert_eq!(exp(200.0), inf);
    assert_eq!(exp(-103.0).to_bits(), 1);
    assert_eq!(log(0.0), -inf);
    assert_eq!(log(-0.0), -inf);
    assert_eq!(log(1.0).to_bits(), 0);
    assert_eq!(log(inf), inf);
    assert!(log(-1.0).is_nan() && log(-inf).is_nan());
    assert_eq!(tanh(inf), 1.0);
    assert_eq!(tanh(-inf), -1.0);
    assert_eq!(erf(inf), 1.0);
    assert_eq!(erf(-inf), -1.0);
    assert!(sin(inf).is_nan() && cos(-inf).is_nan());
    assert_eq!(cos(0.0), 1.0);
    for f in [tanh, erf, sin] as [fn(f32) -> f32; 3] {
        assert_eq!(f(0.0).to_bits(), 0);
        assert_eq!(f(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(f(1e-42), f(1e-42).abs());
    }
    for f in [exp, log, tanh, erf, sin, cos] as [fn(f32) -> f32; 6] {
        assert!(f(f32::NAN).is_nan());
        assert!(f(-f32::NAN).is_nan());
    }
}
