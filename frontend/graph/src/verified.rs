//! Verification as a type: [`Verified<T>`] exists only for an IR whose invariants hold.

use std::fmt;
use std::ops::Deref;

/// An IR that can check its own numbered invariants in a context (`()`, a phase, a topology).
pub trait Verify<Cx: ?Sized> {
    /// Appends every violation found to `errors`; never stops at the first.
    fn verify(&self, cx: &Cx, errors: &mut VerifyErrors);
}

/// One violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// Number of the invariant, such as `G3`.
    pub invariant: &'static str,
    /// The entity concerned in its printed spelling, such as `n4`.
    pub entity: String,
    /// The printed line of the entity, empty if it has none.
    pub line: String,
    /// What was found and what is allowed.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.invariant, self.entity, self.message)?;
        if self.line.is_empty() {
            Ok(())
        } else {
            write!(f, " in `{}`", self.line)
        }
    }
}

/// All violations of one verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyErrors {
    errors: Vec<VerifyError>,
}

impl VerifyErrors {
    /// No violation so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a violation.
    pub fn push(
        &mut self,
        invariant: &'static str,
        entity: impl fmt::Display,
        line: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.errors.push(VerifyError {
            invariant,
            entity: entity.to_string(),
            line: line.into(),
            message: message.into(),
        });
    }

    /// The violations in the order found.
    pub fn iter(&self) -> std::slice::Iter<'_, VerifyError> {
        self.errors.iter()
    }

    /// Number of violations.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// Whether nothing is violated.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [] => write!(f, "no error"),
            [one] => write!(f, "{one}"),
            [first, rest @ ..] => write!(f, "{first} (and {} more)", rest.len()),
        }
    }
}

impl std::error::Error for VerifyErrors {}

/// A read-only `T` whose invariants held when it was made; what the next stage demands.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Checks `ir` and wraps it.
    ///
    /// # Errors
    /// All violated invariants.
    pub fn new<Cx: ?Sized>(ir: T, cx: &Cx) -> Result<Self, VerifyErrors>
    where
        T: Verify<Cx>,
    {
        let mut errors = VerifyErrors::new();
        ir.verify(cx, &mut errors);
        if errors.is_empty() { Ok(Self(ir)) } else { Err(errors) }
    }

    /// Gives the IR back for changes; the proof is gone.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> AsRef<T> for Verified<T> {
    fn as_ref(&self) -> &T {
        &self.0
    }
}
