//! Long results on a terminal: colours, and a pager.
//!
//! Text carries its colours as escape sequences, which are taken out where stdout is no terminal or NO_COLOR is set. On a terminal it
//! goes through $PAGER, `less` where there is none; an empty $PAGER prints straight away.

use crate::cmd;
use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

/// The head of a table, and names.
const STRONG: Style = Style::new().bold();
/// What explains.
const FAINT: Style = Style::new().dimmed();

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A table's lines with its head in bold.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let mut lines = crate::text::table(rows);
    if let Some(head) = lines.first_mut() {
        *head = strong(head);
    }
    lines
}

/// Text that stands out.
pub fn strong(text: &str) -> String {
    styled(STRONG, text)
}

/// Text that explains.
pub fn faint(text: &str) -> String {
    styled(FAINT, text)
}

/// A run as text: its queue in the colour of its unit, what comes behind `;` faint.
pub fn run(line: &str) -> String {
    let (code, comment) = line.split_once(" ;").unwrap_or((line, ""));
    let (queue, rest) = code.split_once(' ').unwrap_or((code, ""));
    let unit = queue.split('.').nth(1).unwrap_or_default();
    let color = match unit.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "mem" => AnsiColor::Blue,
        "mxm" => AnsiColor::Green,
        "vxm" => AnsiColor::Yellow,
        "sxm" => AnsiColor::Magenta,
        _ => AnsiColor::Cyan,
    };
    let queue = styled(color.on_default(), queue);
    if comment.is_empty() {
        format!("{queue} {rest}")
    } else {
        format!("{queue} {rest}{}", faint(&format!(" ;{comment}")))
    }
}

/// Prints lines: paged on a terminal, with colours where they are wanted.
pub fn lines(all: Vec<String>) {
    let colours = anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let all = all.into_iter().map(|line| match colours {
        true => line,
        false => anstream::adapter::strip_str(&line).to_string(),
    });
    let all: Vec<String> = all.collect();
    if !(std::io::stdout().is_terminal() && paged(&all)) {
        cmd::lines(all);
    }
}

/// Whether a pager took the lines.
fn paged(all: &[String]) -> bool {
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".into());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next() else { return false };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Quit where one screen holds all, keep colours, leave the screen as it is.
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut input) = child.stdin.take() {
        // A reader who has seen enough closes the pipe.
        let _ = input.write_all((all.join("\n") + "\n").as_bytes());
    }
    child.wait().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_add_nothing_but_escapes() {
        let line = "c2.mem1.b1 @6235 read 0x0684 -> st0.w f32 lanes=0:32 ; h226 map v266";
        let shown = run(line);
        assert_ne!(shown, line);
        assert_eq!(anstream::adapter::strip_str(&shown).to_string(), line);
        assert_eq!(
            anstream::adapter::strip_str(&run("c0.vxm3 @1 alu")).to_string(),
            "c0.vxm3 @1 alu"
        );
    }
}
