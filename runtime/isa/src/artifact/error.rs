//! Why an artifact cannot be read or written.

use crate::decode::DecodeError;
use crate::figures::TargetError;
use std::fmt;

/// Why an artifact cannot be read or written: what is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("artifact{at}: {kind}")]
pub struct ArtifactError {
    /// What is wrong.
    pub kind: ArtifactErrorKind,
    /// Where in the artifact.
    pub at: At,
}

/// A place in an artifact (`section claims`, `entry "main", chip 2, run 17`); empty for the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct At(pub String);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ", {}", self.0)
    }
}

/// What is wrong with an artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactErrorKind {
    /// The file does not start as an artifact does.
    #[error("not a lockstep artifact: the file starts with {found:02x?}")]
    NotAnArtifact {
        /// First bytes, at most eight.
        found: Vec<u8>,
    },
    /// Another version of the format.
    #[error("format version {found} is not supported; this build reads version {supported}")]
    Version {
        /// Version of the file.
        found: u32,
        /// Version of this build.
        supported: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error("the file has {found} bytes, its header says {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes as stated.
        expected: u64,
    },
    /// A checksum differs.
    #[error("checksum {found:#010x} differs from the stated {expected:#010x}: the file is damaged")]
    Checksum {
        /// crc32 of the bytes.
        found: u32,
        /// crc32 as stated.
        expected: u32,
    },
    /// A cryptographic hash differs.
    #[error("blake3 hash differs from the stated one: the section is not what the compiler wrote")]
    Hash,
    /// A byte between sections is not zero.
    #[error("byte {offset} lies between sections and is {found:#04x}, not zero")]
    Padding {
        /// Offset in the file.
        offset: u64,
        /// The byte.
        found: u8,
    },
    /// A field has a value that is not allowed.
    #[error("{what} is {found}, allowed is {allowed}")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        found: String,
        /// Allowed values.
        allowed: String,
    },
    /// A section ends before its records are complete, or has some left over.
    #[error("section {section} has {found} {unit}, the records that refer to it need {needed}")]
    Pool {
        /// Name of the section.
        section: &'static str,
        /// What it holds.
        unit: &'static str,
        /// How many there are.
        found: u64,
        /// How many are needed.
        needed: u64,
    },
    /// A string is no UTF-8.
    #[error("a string is not valid utf-8")]
    Utf8,
    /// A run's bytes are no run.
    #[error(transparent)]
    Run(#[from] DecodeError),
    /// The target cannot be.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The bytes could not be written.
    #[error("cannot write: {0}")]
    Io(#[from] std::io::Error),
}

impl ArtifactErrorKind {
    /// The error at a place.
    pub(crate) fn at(self, at: impl Into<String>) -> ArtifactError {
        ArtifactError {
            kind: self,
            at: At(at.into()),
        }
    }

    /// A field with a value that is not allowed.
    pub(crate) fn value(what: &'static str, found: impl fmt::Display, allowed: impl fmt::Display) -> ArtifactErrorKind {
        ArtifactErrorKind::Value {
            what,
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }
}
