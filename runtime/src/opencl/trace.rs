//! OpenCL C text of the elementary functions, from the definitions of `isa::math`.
//!
//! Those are generic over a lane type. [`Term`] is one that computes nothing: it writes down each operation as a statement of
//! OpenCL C. So both executors have one definition, down to the coefficients and the order of the operations.

use crate::kernels;
use lockstep_isa::math::{self, Lane};
use std::cell::RefCell;

thread_local! {
    /// Statements of the function that is being written, and what it calls for huge arguments.
    static BODY: RefCell<(Vec<String>, &'static str)> = const { RefCell::new((Vec::new(), "")) };
}

/// A variable of the function being written.
#[derive(Clone, Copy)]
pub struct Term(usize);

/// Writes down a statement that defines a variable.
fn define(ty: &str, value: String) -> Term {
    BODY.with_borrow_mut(|(body, _)| {
        let n = body.len();
        body.push(format!("    const {ty} v{n} = {value};\n"));
        Term(n)
    })
}

fn float(value: String) -> Term {
    define("float", value)
}

fn int(value: String) -> Term {
    define("int", value)
}

/// A float constant by its bits.
fn literal(v: f32) -> String {
    format!("as_float(0x{:08x}u)", v.to_bits())
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Lane for Term {
    type Int = Term;
    type Mask = Term;

    fn splat(v: f32) -> Term {
        float(literal(v))
    }
    fn add(self, o: Term) -> Term {
        float(format!("{self} + {o}"))
    }
    fn sub(self, o: Term) -> Term {
        float(format!("{self} - {o}"))
    }
    fn mul(self, o: Term) -> Term {
        float(format!("{self} * {o}"))
    }
    fn div(self, o: Term) -> Term {
        float(format!("{self} / {o}"))
    }
    fn fma(self, b: Term, c: Term) -> Term {
        float(format!("fma({self}, {b}, {c})"))
    }
    fn lt(self, o: Term) -> Term {
        int(format!("{self} < {o}"))
    }
    fn eq(self, o: Term) -> Term {
        int(format!("{self} == {o}"))
    }
    fn select(m: Term, a: Term, b: Term) -> Term {
        float(format!("{m} ? {a} : {b}"))
    }
    fn bits(self) -> Term {
        int(format!("as_int({self})"))
    }
    fn from_bits(i: Term) -> Term {
        float(format!("as_float({i})"))
    }
    fn int(v: i32) -> Term {
        int(format!("as_int(0x{v:08x}u)"))
    }
    fn int_add(a: Term, b: Term) -> Term {
        int(format!("as_int(as_uint({a}) + as_uint({b}))"))
    }
    fn int_sub(a: Term, b: Term) -> Term {
        int(format!("as_int(as_uint({a}) - as_uint({b}))"))
    }
    fn int_and(a: Term, b: Term) -> Term {
        int(format!("{a} & {b}"))
    }
    fn int_or(a: Term, b: Term) -> Term {
        int(format!("{a} | {b}"))
    }
    fn int_xor(a: Term, b: Term) -> Term {
        int(format!("{a} ^ {b}"))
    }
    fn int_shl<const N: u32>(a: Term) -> Term {
        int(format!("as_int(as_uint({a}) << {N})"))
    }
    fn int_shr<const N: u32>(a: Term) -> Term {
        int(format!("{a} >> {N}"))
    }
    fn int_eq(a: Term, b: Term) -> Term {
        int(format!("{a} == {b}"))
    }
    fn or_else(self, m: Term, x: Term, _: fn(f32) -> f32) -> Term {
        let huge = BODY.with_borrow(|(_, huge)| *huge);
        float(format!("{m} ? {self} : {huge}({x})"))
    }
}

/// The text of a function of the given parameters, by its name and the name of what it calls for huge arguments.
fn function(head: &str, huge: &'static str, parameters: &[(&str, &str)], f: impl Fn(&[Term]) -> Term) -> String {
    BODY.set((Vec::new(), huge));
    let all: Vec<Term> = parameters
        .iter()
        .map(|(ty, name)| define(ty, (*name).to_owned()))
        .collect();
    let result = f(&all);
    let (body, _) = BODY.take();
    format!("{head} {{\n{}    return {result};\n}}\n", body.concat())
}

/// OpenCL C functions `math_exp(float)`, `math_log`, `math_tanh`, `math_erf`, `math_sin`, `math_cos`, and
/// `quadrant(float, float, int)`, which `sin_huge(float)` and `cos_huge(float)` need. These two are declared, not defined.
pub fn functions() -> String {
    let mut text = String::from("static float sin_huge(float);\nstatic float cos_huge(float);\n");
    let three = [("float", "r"), ("float", "c"), ("int", "n")];
    let head = "static inline float quadrant(float r, float c, int n)";
    text += &function(head, "", &three, |p| match p {
        [r, c, n] => math::quadrant(*r, *c, *n),
        _ => Term(0),
    });
    let one = [
        ("exp", "", kernels::exp as fn(Term) -> Term),
        ("log", "", math::log),
        ("tanh", "", math::tanh),
        ("erf", "", math::erf),
        ("sin", "sin_huge", math::sin),
        ("cos", "cos_huge", math::cos),
    ];
    for (name, huge, f) in one {
        let head = format!("static inline float math_{name}(float x)");
        text += &function(&head, huge, &[("float", "x")], |p| {
            f(p.first().copied().unwrap_or(Term(0)))
        });
    }
    text
}
