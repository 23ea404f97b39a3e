//! Failures of the command line: exit code, one line that says where, what and what is allowed, and how it is printed.

use lockstep::files::FileError;
use lockstep::isa::verify::VerifyErrors;
use lockstep::runtime::ExecError;
use lockstep::tensors::TensorError;
use serde_json::{Value, json};

/// Version of every `--json` output.
pub const JSON_VERSION: u32 = 1;

/// Exit codes other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// A check failed: `verify` rejects, `--check` differs, the simulator finds a hazard, the compiler contradicts itself, an
    /// accelerator refuses a kernel or is lost.
    Check = 1,
    /// Wrong use: an option, a path, a target file, an input.
    Usage = 2,
    /// The model is malformed or not supported.
    Model = 3,
    /// The model does not fit the chips, or the artifact does not fit the host.
    DoesNotFit = 4,
    /// The artifact cannot be read.
    Artifact = 5,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: Code,
    /// One line, lower case, no full stop.
    pub message: String,
    /// More lines: a capacity report, all violations, what to try.
    pub detail: Vec<String>,
}

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure of one line.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            detail: Vec::new(),
        }
    }

    /// Wrong use.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, message)
    }

    /// The same with more lines.
    pub fn with(mut self, detail: impl IntoIterator<Item = String>) -> Failure {
        self.detail.extend(detail);
        self
    }

    /// Text for stderr.
    pub fn text(&self) -> String {
        let mut out = format!("error: {}\n", self.message);
        for line in &self.detail {
            out += &format!("  {line}\n");
        }
        out
    }

    /// The same as JSON, for stdout.
    pub fn json(&self) -> Value {
        json!({
            "version": JSON_VERSION,
            "error": { "exit_code": self.code as u8, "message": self.message, "detail": self.detail },
        })
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        let code = match &error {
            FileError::Artifact { .. } => Code::Artifact,
            _ => Code::Usage,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Failure {
        let code = match &error {
            ExecError::Artifact { .. } => Code::Artifact,
            ExecError::Memory { .. } | ExecError::DeviceMemory { .. } => Code::DoesNotFit,
            ExecError::Hazard(_) | ExecError::Kernel { .. } | ExecError::DeviceLost { .. } => Code::Check,
            _ => Code::Usage,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<VerifyErrors> for Failure {
    fn from(errors: VerifyErrors) -> Failure {
        let total = errors.violations.len() as u64 + errors.more;
        let plural = if total == 1 { "violation" } else { "violations" };
        let failure = Failure::new(Code::Check, format!("the artifact is rejected: {total} {plural}"));
        let more = (errors.more > 0).then(|| format!("and {} more", errors.more));
        failure.with(errors.violations.iter().map(ToString::to_string).chain(more))
    }
}

#[cfg(feature = "compile")]
mod compile {
    use super::{Code, Failure};
    use lockstep::{CompileError, CompileErrorKind, ImportError};
    use lockstep_frontend::{ErrorClass, ImportErrorKind};

    impl From<ImportError> for Failure {
        fn from(error: ImportError) -> Failure {
            let code = match error.class() {
                ErrorClass::Usage => Code::Usage,
                ErrorClass::Model => Code::Model,
            };
            match &*error.kind {
                ImportErrorKind::Unsupported(ops) => {
                    let n = ops.len();
                    let plural = if n == 1 { "operator is" } else { "operators are" };
                    Failure::new(code, format!("{}: {n} {plural} not supported", error.at))
                        .with(ops.iter().map(ToString::to_string))
                }
                _ => Failure::new(code, error.to_string()),
            }
        }
    }

    impl From<CompileError> for Failure {
        fn from(error: CompileError) -> Failure {
            match &error.kind {
                CompileErrorKind::Options(message) => Failure::usage(message.clone()),
                CompileErrorKind::Unsupported(list) => {
                    let n = list.len();
                    let plural = if n == 1 { "place is" } else { "places are" };
                    Failure::new(Code::Model, format!("{n} {plural} not supported"))
                        .with(list.iter().map(|u| format!("{}: {}", u.at, u.what)))
                }
                CompileErrorKind::DoesNotFit { summary, report } => {
                    Failure::new(Code::DoesNotFit, summary.clone()).with(report.lines().map(str::to_owned))
                }
                CompileErrorKind::Internal { .. } => Failure::new(Code::Check, error.to_string()),
            }
        }
    }
}
