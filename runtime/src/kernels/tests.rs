//! Every kernel of every level against the scalar definition, bit for bit.

use super::*;
use crate::plan::Piece;
use lockstep_isa::scalar;

fn levels() -> Vec<Kernels> {
    let all = [Level::Scalar, Level::Avx2, Level::Avx512];
    all.into_iter().filter_map(|l| Kernels::new(Some(l))).collect()
}

/// Deterministic words: small numbers, special values and raw bits.
fn words(seed: u32, n: usize) -> Vec<u32> {
    let special = [
        0u32,
        0x8000_0000,
        1,
        0x8000_0001,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x4f00_0000,
        0xcf00_0000,
        0x7fff_ffff,
        0x3f00_0000,
        0x4020_0000,
        0x33ff_ffff,
    ];
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|i| {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            match s % 4 {
                0 => special[i % special.len()],
                1 => s,
                2 => (s >> 8) % 100,
                _ => ((s >> 8) as f32 / 16_777_216.0 * 20.0 - 10.0).to_bits(),
            }
        })
        .collect()
}

/// A row to read.
fn line<T>(row: &[T]) -> Lines {
    Lines {
        first: row.as_ptr().cast_mut().cast(),
        step: 0,
    }
}

/// A row to write.
fn line_mut<T>(row: &mut [T]) -> Lines {
    Lines {
        first: row.as_mut_ptr().cast(),
        step: 0,
    }
}

fn same(got: u32, want: u32, float: bool) -> bool {
    got == want || float && f32::from_bits(got).is_nan() && f32::from_bits(want).is_nan()
}

#[test]
fn maps_equal_the_scalar_definition() {
    let n = 1003;
    let (a, b, c) = (words(1, n), words(2, n), words(3, n));
    for k in levels() {
        for &op in AluOp::ALL {
            for ty in [DType::F32, DType::I32] {
                if !scalar::is_defined(op, ty) || op == AluOp::Iota {
                    continue;
                }
                let mut out = vec![0u32; n];
                let args = MapArgs {
                    a: line(&a),
                    b: line(&b),
                    c: line(&c),
                    out: line_mut(&mut out),
                    rows: 1,
                    n,
                };
                // SAFETY: every buffer has n elements.
                unsafe { (k.map)(op, ty, &args) };
                for i in 0..n {
                    let want = match op {
                        AluOp::Cvt if ty == DType::F32 => scalar::convert(a[i], ty, DType::I32),
                        AluOp::Cvt => scalar::convert(a[i], ty, DType::F32),
                        AluOp::Select => scalar::alu(op, ty, scalar::truth(a[i], ty), b[i], c[i]),
                        _ => scalar::alu(op, ty, a[i], b[i], c[i]),
                    };
                    let float = scalar::result_type(op, ty) == DType::F32 || op == AluOp::Select;
                    assert!(
                        same(out[i], want, float),
                        "{:?} {} {ty} lane {i}: {:08x} {:08x} {:08x} -> {:08x}, want {want:08x}",
                        k.level,
                        op.name(),
                        a[i],
                        b[i],
                        c[i],
                        out[i]
                    );
                }
            }
        }
    }
}

/// Around the place where `exp` takes a shortcut to zero, every number.
#[test]
fn small_exponentials_equal_the_scalar_definition() {
    let (from, to) = ((-103.0f32).to_bits(), (-105.0f32).to_bits());
    let a: Vec<u32> = (from..to).collect();
    let n = a.len();
    let want: Vec<u32> = a
        .iter()
        .map(|&x| scalar::alu(AluOp::Exp, DType::F32, x, 0, 0))
        .collect();
    for k in levels() {
        let mut out = vec![1u32; n];
        let args = MapArgs {
            a: line(&a),
            b: Lines::NONE,
            c: Lines::NONE,
            out: line_mut(&mut out),
            rows: 1,
            n,
        };
        // SAFETY: the buffers hold `n` elements.
        unsafe { (k.map)(AluOp::Exp, DType::F32, &args) };
        assert!(out == want, "{:?}", k.level);
    }
}

#[test]
fn conversions_equal_the_scalar_definition() {
    let n = 777;
    let wide = words(5, n);
    let raw: Vec<u8> = words(6, n).iter().flat_map(|w| w.to_le_bytes()).collect();
    for k in levels() {
        for dtype in DType::ALL {
            let mut out = vec![0u32; n];
            // SAFETY: the buffers hold n elements.
            unsafe { (k.widen)(dtype, raw.as_ptr(), out.as_mut_ptr().cast(), n) };
            for i in 0..n {
                let mut bits = [0u8; 4];
                let s = dtype.bytes();
                bits[..s].copy_from_slice(&raw[i * s..(i + 1) * s]);
                let want = scalar::widen(u32::from_le_bytes(bits), dtype);
                assert!(same(out[i], want, dtype.is_float()), "{:?} {dtype} {i}", k.level);
            }
            for ty in [DType::F32, DType::I32] {
                let mut out = vec![0u8; n * dtype.bytes()];
                // SAFETY: the buffers hold n elements.
                unsafe { (k.narrow)(ty, dtype, wide.as_ptr().cast(), out.as_mut_ptr(), n) };
                for i in 0..n {
                    let mut bits = [0u8; 4];
                    let s = dtype.bytes();
                    bits[..s].copy_from_slice(&out[i * s..(i + 1) * s]);
                    let (got, want) = (u32::from_le_bytes(bits), scalar::convert(wide[i], ty, dtype));
                    let nan = |b| dtype.is_float() && f32::from_bits(scalar::widen(b, dtype)).is_nan();
                    assert!(
                        got == want || nan(got) && nan(want),
                        "{:?} {ty} {:08x} -> {dtype}: {got:x}, want {want:x}",
                        k.level,
                        wide[i]
                    );
                }
            }
        }
    }
}

#[test]
fn reductions_equal_the_scalar_definition() {
    let n = 960;
    let x = words(9, n);
    for k in levels() {
        for op in [AluOp::Add, AluOp::Mul, AluOp::Min, AluOp::Max] {
            for ty in [DType::F32, DType::I32] {
                for segment in [1usize, 3, 16, 20, 32, 64, 120, 320] {
                    let mut out = vec![0u32; n];
                    // SAFETY: the buffers hold n elements.
                    unsafe { (k.reduce)(op, ty, segment, x.as_ptr().cast(), out.as_mut_ptr().cast(), n) };
                    for s in 0..n / segment {
                        let part = &x[s * segment..(s + 1) * segment];
                        let want = scalar::reduce(op, ty, part);
                        for &got in &out[s * segment..(s + 1) * segment] {
                            assert!(same(got, want, ty == DType::F32), "{:?} {op:?} {ty}", k.level);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn products_equal_the_scalar_chain() {
    let lanes = 320;
    for k in levels() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I32] {
            for (rows, depth, n) in [
                (1usize, 40usize, 320usize),
                (2, 33, 200),
                (3, 7, 64),
                (5, 64, 33),
                (13, 20, 50),
                (31, 16, 96),
                (6, 300, 40),
            ] {
                let float = dtype.is_float();
                let number = |i: usize, salt: usize| ((i * 7919 + salt * 31) % 201) as i32 - 100;
                let x: Vec<u32> = (0..rows * lanes)
                    .map(|i| match float {
                        true => (number(i, 1) as f32 / 37.0).to_bits(),
                        false => (number(i, 1) as f32).to_bits(),
                    })
                    .collect();
                let panels = n.div_ceil(32);
                let narrow = |i: usize| match float {
                    true => scalar::narrow_f32(number(i, 2) as f32 / 53.0, dtype),
                    false => scalar::narrow_i32(number(i, 2), dtype),
                };
                let w: Vec<u32> = (0..panels * depth * 32).map(narrow).collect();
                let bytes: Vec<u8> = w
                    .iter()
                    .flat_map(|v| v.to_le_bytes()[..dtype.bytes()].to_vec())
                    .collect();
                for zero in [true, false] {
                    let start: Vec<u32> = (0..rows * lanes).map(|i| (i as f32 * 0.01).to_bits()).collect();
                    let mut acc = start.clone();
                    let mut scratch = vec![0u32; 32 * depth];
                    let pointers: Vec<*const u8> = (0..rows).map(|r| x[r * lanes..].as_ptr().cast()).collect();
                    let sums: Vec<*mut u8> = (0..rows).map(|r| acc[r * lanes..].as_mut_ptr().cast()).collect();
                    // The first rows of the window as one factor, the others as another.
                    let head = depth / 3;
                    let step = 32 * dtype.bytes();
                    let factor = |from: usize, k: usize| Factor {
                        x: from as isize * 4,
                        w: bytes[from * step..].as_ptr(),
                        w_step: step,
                        panel_step: step * depth,
                        k,
                        scales: None,
                    };
                    let factors = [factor(0, head), factor(head, depth - head)];
                    let p = Product {
                        x: &pointers,
                        acc: &sums,
                        factors: &factors,
                        integer: !float,
                        dtype,
                        n,
                        zero,
                        next: std::ptr::null(),
                        scratch: scratch.as_mut_ptr().cast(),
                    };
                    // SAFETY: the buffers have the sizes stated.
                    unsafe { (k.product)(&p) };
                    for r in 0..rows {
                        for j in 0..lanes {
                            let mut want = start[r * lanes + j];
                            if j < n {
                                want = if zero { 0 } else { want };
                                for d in 0..depth {
                                    let w = w[((j / 32) * depth + d) * 32 + j % 32];
                                    let w = scalar::widen(w, dtype);
                                    let x = x[r * lanes + d];
                                    want = if float {
                                        scalar::mac_f32(f32::from_bits(x), f32::from_bits(w), f32::from_bits(want))
                                            .to_bits()
                                    } else {
                                        scalar::mac_i32(f32::from_bits(x) as i32, w as i32, want as i32) as u32
                                    };
                                }
                            }
                            assert_eq!(
                                acc[r * lanes + j],
                                want,
                                "{:?} {dtype} {rows}x{depth}x{n} row {r} column {j}",
                                k.level
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Integers in blocks with a scale each: every weight is its integer times its scale, rounded once.
#[test]
fn scaled_products_equal_the_scalar_chain() {
    let lanes = 320;
    for k in levels() {
        for (dtype, per) in [(DType::I4, 2usize), (DType::I8, 1)] {
            for (rows, depth, n, block) in [
                (1usize, 64usize, 320usize, 32usize),
                (1, 31, 70, 8),
                (2, 40, 96, 32),
                (3, 32, 33, 16),
                (6, 65, 200, 32),
            ] {
                let number = |i: usize, salt: usize| ((i * 7919 + salt * 31) % 201) as i32 - 100;
                let x: Vec<f32> = (0..rows * lanes).map(|i| number(i, 1) as f32 / 37.0).collect();
                let (panels, stored, blocks) = (n.div_ceil(32), depth.div_ceil(per), depth.div_ceil(block));
                let bytes: Vec<u8> = (0..panels * stored * 32).map(|i| number(i, 2) as u8).collect();
                let scales: Vec<u16> = (0..panels * blocks * 32)
                    .map(|i| scalar::narrow_f32(number(i, 3) as f32 / 300.0, DType::F16) as u16)
                    .collect();
                let mut acc = vec![0f32; rows * lanes];
                let mut scratch = vec![0u32; 32 * depth];
                let pointers: Vec<*const u8> = (0..rows).map(|r| x[r * lanes..].as_ptr().cast()).collect();
                let sums: Vec<*mut u8> = (0..rows).map(|r| acc[r * lanes..].as_mut_ptr().cast()).collect();
                let factor = Factor {
                    x: 0,
                    w: bytes.as_ptr(),
                    w_step: 32,
                    panel_step: 32 * stored,
                    k: depth,
                    scales: Some(super::Scales {
                        from: scales.as_ptr().cast(),
                        blocks,
                        rows: block,
                        dtype: DType::F16,
                    }),
                };
                let p = Product {
                    x: &pointers,
                    acc: &sums,
                    factors: &[factor],
                    integer: false,
                    dtype,
                    n,
                    zero: true,
                    next: std::ptr::null(),
                    scratch: scratch.as_mut_ptr().cast(),
                };
                // SAFETY: the buffers have the sizes stated.
                unsafe { (k.product)(&p) };
                for r in 0..rows {
                    for j in 0..n {
                        let mut want = 0f32;
                        for d in 0..depth {
                            let byte = bytes[(j / 32 * stored + d / per) * 32 + j % 32];
                            let q = match dtype {
                                DType::I4 => scalar::pair(byte)[d % 2] as f32,
                                _ => byte as i8 as f32,
                            };
                            let scale = scales[(j / 32 * blocks + d / block) * 32 + j % 32];
                            let w = q * f32::from_bits(scalar::widen(scale.into(), DType::F16));
                            want = scalar::mac_f32(x[r * lanes + d], w, want);
                        }
                        let got = acc[r * lanes + j];
                        assert_eq!(
                            got.to_bits(),
                            want.to_bits(),
                            "{:?} {dtype} {rows}x{depth}x{n} row {r} column {j}",
                            k.level
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn permutes_follow_their_map() {
    let (lanes, lo, hi) = (320usize, 5usize, 261usize);
    let x: Vec<u8> = (0..lanes * 4).map(|i| (i * 31 + 7) as u8).collect();
    let map: Vec<u16> = (0..lanes)
        .map(|l| match l % 7 {
            0 => u16::MAX,
            1 => lanes as u16,
            _ => (l * 37 % lanes) as u16,
        })
        .collect();
    let fill = 0x8001_02ff_u32;
    for k in levels() {
        for size in [1usize, 2, 4] {
            let mut out = vec![0x55u8; lanes * 4];
            let (from, map_at, to) = (x.as_ptr(), map.as_ptr().cast(), out.as_mut_ptr());
            // SAFETY: all rows have `lanes` elements.
            unsafe { (k.permute)(from, map_at, to, size, lanes, lo, hi, fill) };
            for (l, &i) in map.iter().enumerate() {
                let got = &out[l * size..(l + 1) * size];
                let want = match (lo..hi).contains(&l) {
                    false => vec![0x55; size],
                    true if (i as usize) < lanes => x[i as usize * size..][..size].to_vec(),
                    true => fill.to_le_bytes()[..size].to_vec(),
                };
                assert_eq!(got, want, "{:?} {size} lane {l}", k.level);
            }
        }
    }
}

#[test]
fn pieces_are_copied_or_filled() {
    let x: Vec<u8> = (0..64).collect();
    let fill = 0x8001_0203_u32;
    for size in [1usize, 2, 4] {
        let mut out = vec![0xffu8; 64];
        let piece = |to, from, bytes| Piece { to, from, bytes };
        let pieces = [piece(4, Some(20), 12), piece(16, None, 8), piece(24, Some(0), 4)];
        // SAFETY: all pieces lie in the rows.
        unsafe { copy_pieces(x.as_ptr(), out.as_mut_ptr(), &pieces, size, fill) };
        let mut want = vec![0xffu8; 64];
        want[4..16].copy_from_slice(&x[20..32]);
        for at in (16..24).step_by(size) {
            want[at..at + size].copy_from_slice(&fill.to_le_bytes()[..size]);
        }
        want[24..28].copy_from_slice(&x[..4]);
        assert_eq!(out, want, "{size}");
    }
}

#[test]
fn sums_of_products_equal_the_scalar_chain() {
    let (rows, step) = (3usize, 320usize);
    let x = words(5, rows * step);
    let (a, b) = (words(6, rows * step), words(7, step));
    for k in levels() {
        for n in [1usize, 7, 16, 64, 100, 272, 320] {
            for terms in [1usize, 2, 5] {
                let mut out = vec![0u32; rows * step];
                let lines = |words: &[u32], step: isize| Lines {
                    first: words.as_ptr().cast_mut().cast(),
                    step,
                };
                let all: Vec<(Lines, Lines)> = vec![(lines(&a, 1280), lines(&b, 0)); terms];
                let args = MapArgs {
                    a: Lines::NONE,
                    b: Lines::NONE,
                    c: lines(&x, 1280),
                    out: Lines {
                        first: out.as_mut_ptr().cast(),
                        step: 1280,
                    },
                    rows,
                    n,
                };
                // SAFETY: all rows have `step` elements of 4 bytes.
                unsafe { (k.multiply_add)(&all, &args) };
                for r in 0..rows {
                    for (i, &b) in b.iter().enumerate() {
                        let at = r * step + i;
                        let want = (0..terms).fold(x[at], |c, _| scalar::alu(AluOp::Fma, DType::F32, a[at], b, c));
                        let want = if i < n { want } else { 0 };
                        assert!(
                            same(out[at], want, true),
                            "{:?} {n} x{terms} row {r} element {i}",
                            k.level
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn columns_are_packed_k_major() {
    let (k0, k, lanes) = (3, 37, 64);
    for kernels in levels() {
        for dtype in [DType::F32, DType::F16, DType::I8] {
            let rows: Vec<Vec<u8>> = (0..21)
                .map(|n| {
                    (0..lanes * dtype.bytes())
                        .map(|i| (i * 13 + n * 7) as u8 & 0x7b)
                        .collect()
                })
                .collect();
            let pointers: Vec<*const u8> = rows.iter().map(|r| r.as_ptr()).collect();
            let mut out = vec![1u32; k * 32];
            // SAFETY: the buffers have the sizes stated.
            unsafe { (kernels.pack_columns)(dtype, &pointers, k0, k, 32, out.as_mut_ptr().cast()) };
            for d in 0..k {
                for n in 0..32 {
                    let want = rows.get(n).map_or(0, |r| {
                        let mut bits = [0u8; 4];
                        let s = dtype.bytes();
                        bits[..s].copy_from_slice(&r[(k0 + d) * s..(k0 + d + 1) * s]);
                        scalar::widen(u32::from_le_bytes(bits), dtype)
                    });
                    assert_eq!(out[d * 32 + n], want);
                }
            }
        }
    }
}

#[test]
fn the_float_environment_is_restored() {
    let tiny = std::hint::black_box(1e-40f32);
    {
        let _environment = FloatEnvironment::enter();
        assert!(std::hint::black_box(tiny) * std::hint::black_box(1.0) > 0.0);
    }
    assert!(tiny > 0.0);
}

/// GFLOP/s of products and the share of the peak; run it alone, in release.
#[test]
#[ignore = "a measurement"]
fn speed_of_products() {
    for k in levels() {
        let peak = k.peak_flops() / 1e9;
        println!("{:?}: peak {peak:.1} GFLOP/s", k.level);
        if k.level == Level::Scalar {
            continue;
        }
        for (rows, depth, n) in [
            (128usize, 320usize, 320usize),
            (128, 1536, 384),
            (64, 384, 320),
            (49, 320, 320),
            (12, 320, 320),
            (8, 320, 320),
            (4, 320, 320),
            (1, 320, 320),
            (1, 576, 1536),
        ] {
            let x = vec![0.5f32; rows * depth];
            let w = vec![0.25f32; n.div_ceil(32) * 32 * depth + 16];
            let w = &w[w.as_ptr().align_offset(64)..][..n.div_ceil(32) * 32 * depth];
            let mut acc = vec![0f32; rows * n];
            let mut scratch = vec![0u32; 32 * depth];
            let pointers: Vec<*const u8> = (0..rows).map(|r| x[r * depth..].as_ptr().cast()).collect();
            let mut best = f64::MAX;
            for _ in 0..40 {
                let start = std::time::Instant::now();
                for k0 in (0..depth).step_by(320) {
                    let kk = (depth - k0).min(320);
                    let x: Vec<*const u8> = pointers.iter().map(|p| p.wrapping_add(k0 * 4)).collect();
                    let sums: Vec<*mut u8> = (0..rows).map(|r| acc[r * n..].as_mut_ptr().cast()).collect();
                    let factor = Factor {
                        x: 0,
                        w: w.as_ptr().wrapping_add(k0 * 32).cast(),
                        w_step: 128,
                        panel_step: 128 * depth,
                        k: kk,
                        scales: None,
                    };
                    let p = Product {
                        x: &x,
                        acc: &sums,
                        factors: &[factor],
                        integer: false,
                        dtype: DType::F32,
                        n,
                        zero: k0 == 0,
                        next: std::ptr::null(),
                        scratch: scratch.as_mut_ptr().cast(),
                    };
                    // SAFETY: the buffers have the sizes stated.
                    unsafe { (k.product)(&p) };
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let rate = 2.0 * (rows * depth * n) as f64 / best / 1e9;
            println!("  {rows}x{depth}x{n}: {rate:.1} GFLOP/s, {:.0} %", rate / peak * 100.0);
            if rows == 1 {
                // What a row costs at least: reading the weights.
                let words: Vec<u32> = w.iter().map(|x| x.to_bits()).collect();
                let (mut read, mut sum) = (f64::MAX, 0u32);
                for _ in 0..40 {
                    let start = std::time::Instant::now();
                    sum = std::hint::black_box(&words).iter().fold(sum, |s, &x| s.wrapping_add(x));
                    std::hint::black_box(sum);
                    read = read.min(start.elapsed().as_secs_f64());
                }
                let bytes = (w.len() * 4) as f64 / 1e9;
                println!(
                    "    {:.1} GB/s of weights; read alone {:.1} GB/s",
                    bytes / best,
                    bytes / read
                );
            }
        }
        let n = 320 * 64;
        let x = vec![0.7f32; n];
        let mut y = vec![0f32; n];
        for op in [AluOp::Add, AluOp::Exp, AluOp::Erf, AluOp::Tanh, AluOp::Sin, AluOp::Log] {
            let mut best = f64::MAX;
            for _ in 0..100 {
                let start = std::time::Instant::now();
                let args = MapArgs {
                    a: line(&x),
                    b: line(&x),
                    c: Lines::NONE,
                    out: line_mut(&mut y),
                    rows: 1,
                    n,
                };
                // SAFETY: the buffers have n elements.
                unsafe { (k.map)(op, DType::F32, &args) };
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!("  {}: {:.2} ns per 16 lanes", op.name(), best * 1e9 / n as f64 * 16.0);
        }
    }
}
