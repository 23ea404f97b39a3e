//! A progress line on stderr: shown on a terminal, for what takes more than a second; and the time of every stage.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A line that says what is being done.
pub struct Progress {
    bar: ProgressBar,
    stage: Arc<Mutex<String>>,
    timings: Vec<(String, Duration)>,
    since: Instant,
}

/// How long a command may be silent.
const SILENT: Duration = Duration::from_secs(1);

impl Progress {
    /// A line without a stage.
    pub fn new() -> Progress {
        let stage = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&stage);
        let bar = ProgressBar::new_spinner();
        let line = move |state: &ProgressState, out: &mut dyn Write| {
            if state.elapsed() < SILENT {
                return;
            }
            if let Ok(stage) = shown.lock() {
                // Writing into indicatif's buffer cannot fail.
                let _ = write!(out, "{} ({:.0} s)", *stage, state.elapsed().as_secs_f64());
            }
        };
        if let Ok(style) = ProgressStyle::with_template("{line}") {
            bar.set_style(style.with_key("line", line));
        }
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Progress {
            bar,
            stage,
            timings: Vec::new(),
            since: Instant::now(),
        }
    }

    /// A stage begins; the one before it ends.
    pub fn begin(&mut self, name: &str) {
        self.end();
        if let Ok(mut stage) = self.stage.lock() {
            *stage = name.to_owned();
        }
        self.timings.push((name.to_owned(), Duration::ZERO));
    }

    /// The stage ends.
    pub fn end(&mut self) {
        if let Some((_, time)) = self.timings.last_mut()
            && time.is_zero()
        {
            *time = self.since.elapsed();
        }
        self.since = Instant::now();
    }

    /// Time of every stage so far, in order; a name may repeat.
    pub fn timings(&self) -> &[(String, Duration)] {
        &self.timings
    }
}

/// A bar on stderr for work of which the amount is known: shown on a terminal.
#[cfg(feature = "compile")]
pub struct Bar(ProgressBar);

#[cfg(feature = "compile")]
impl Bar {
    /// Nothing of `n` is done.
    pub fn new(n: usize) -> Bar {
        let bar = ProgressBar::new(n as u64);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len}, {elapsed} so far, {eta} to go") {
            bar.set_style(style);
        }
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Bar(bar)
    }

    /// One more is done.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

#[cfg(feature = "compile")]
impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
