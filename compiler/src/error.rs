//! Errors of the compiler: the model cannot be compiled, does not fit, or we are wrong.

use lockstep_graph::Origin;
use std::fmt;

/// One thing in the model that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where.
    pub at: Origin,
    /// What was found and what is allowed.
    pub what: String,
}

/// Class and detail of a [`CompileError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileErrorKind {
    /// The options contradict the model or the target (exit code 2).
    Options(String),
    /// The model asks for what cannot be scheduled; all such places (exit code 3).
    Unsupported(Vec<Unsupported>),
    /// It does not fit the chips (exit code 4): a one-line summary, and the capacity report as text.
    DoesNotFit {
        /// One line: needed, available, what would make it fit.
        summary: String,
        /// The report, one line per term.
        report: String,
    },
    /// A bug of ours: the pass and what it found.
    Internal {
        /// Pass or stage.
        pass: &'static str,
        /// What is wrong.
        message: String,
    },
}

/// Why a compile failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Class and detail.
    pub kind: CompileErrorKind,
    /// The place in the model, where there is one.
    pub at: Option<Origin>,
}

impl CompileError {
    /// A bug of ours.
    pub fn internal(pass: &'static str, message: impl Into<String>) -> Self {
        CompileError {
            kind: CompileErrorKind::Internal {
                pass,
                message: message.into(),
            },
            at: None,
        }
    }

    /// Bad options.
    pub fn options(message: impl Into<String>) -> Self {
        CompileError {
            kind: CompileErrorKind::Options(message.into()),
            at: None,
        }
    }

    /// One unsupported place.
    pub fn unsupported(at: Origin, what: impl Into<String>) -> Self {
        let what = what.into();
        CompileError {
            kind: CompileErrorKind::Unsupported(vec![Unsupported { at: at.clone(), what }]),
            at: Some(at),
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CompileErrorKind::Options(message) => f.write_str(message),
            CompileErrorKind::Unsupported(list) => match list.as_slice() {
                [one] => write!(f, "{}: {}", one.at, one.what),
                list => {
                    write!(f, "{} unsupported places:", list.len())?;
                    list.iter().try_for_each(|u| write!(f, "\n  {}: {}", u.at, u.what))
                }
            },
            CompileErrorKind::DoesNotFit { summary, .. } => f.write_str(summary),
            CompileErrorKind::Internal { pass, message } => write!(f, "{pass}: {message}; this is a bug"),
        }
    }
}

impl std::error::Error for CompileError {}
