//! The verbs, one file each.

pub mod backends;
pub mod bench;
#[cfg(feature = "compile")]
pub mod check;
#[cfg(feature = "compile")]
pub mod compile;
pub mod diff;
#[cfg(feature = "generate")]
pub mod generate;
pub mod inspect;
#[cfg(feature = "compile")]
pub mod ops;
pub mod report;
pub mod run;
#[cfg(feature = "compile")]
pub mod sweep;
pub mod targets;
pub mod trace;
pub mod verify;
pub mod view;

use serde_json::Value;
use std::io::Write;

/// Prints one line of a result. A reader that has gone away ends the program quietly.
pub fn line(text: impl AsRef<str>) {
    if writeln!(std::io::stdout(), "{}", text.as_ref()).is_err() {
        std::process::exit(0);
    }
}

/// Prints many lines.
pub fn lines(all: impl IntoIterator<Item = String>) {
    let out = std::io::stdout();
    let mut out = std::io::BufWriter::new(out.lock());
    for one in all {
        if writeln!(out, "{one}").is_err() {
            std::process::exit(0);
        }
    }
    if out.flush().is_err() {
        std::process::exit(0);
    }
}

/// Prints a JSON value: keys sorted, indented.
pub fn print_json(value: &Value) {
    line(format!("{value:#}"));
}
