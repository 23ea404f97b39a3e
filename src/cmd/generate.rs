//! `lockstep generate`: text in, text out.

use super::{lines, print_json, run::load};
use crate::args::GenerateVerb;
use crate::diag::{Code, Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::language::{Decoder, LanguageError, Sampler, Sampling, Text};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The model ended it.
    Stop,
    /// `--max-tokens`.
    Length,
    /// No position is left.
    Context,
    /// Ctrl-C.
    Interrupt,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Stop => "stop",
            End::Length => "length",
            End::Context => "context",
            End::Interrupt => "interrupt",
        }
    }
}

/// What was generated, and how long it took.
struct Done {
    tokens: Vec<u32>,
    text: String,
    end: End,
    first: Duration,
    rest: Duration,
}

/// Exit code of a text that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Set by Ctrl-C: the text ends behind the token that is being computed. The second time the program ends at once.
fn interrupted() -> Outcome<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let handler = move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Failure::usage(format!("ctrl-c cannot be handled: {e}")))?;
    Ok(flag)
}

/// Runs the verb.
///
/// # Errors
/// What opening, loading and running report; a prompt longer than the context; an artifact that is no language model.
pub fn run(verb: &GenerateVerb) -> Outcome {
    if verb.exec.entry.is_some() {
        return Err(Failure::usage("generate picks entries itself; leave out --entry"));
    }
    let mut progress = Progress::new();
    let artifact = Arc::new(subject::open(&verb.subject, &mut progress)?);
    let words = Text::read(&artifact.tokenizer)?;
    let prompt = match verb.chat {
        true => words.encode(&words.chat(&verb.prompt)?, false)?,
        false => words.encode(&verb.prompt, true)?,
    };
    if prompt.is_empty() {
        return Err(Failure::usage("the prompt has no tokens"));
    }
    progress.begin("load");
    let session = load(&verb.exec, &artifact)?;
    let mut model = Decoder::new(&artifact, session)?;
    progress.end();
    drop(progress);

    let sampler = Sampler::new(Sampling {
        temperature: verb.temperature,
        top_k: verb.top_k,
        top_p: verb.top_p,
        seed: verb.seed,
    });
    let stop = interrupted()?;
    let done = generate(verb, &words, &mut model, &prompt, sampler, &stop)?;
    let (n, clock) = (done.tokens.len(), artifact.target.clock_hz as f64);
    let measured = (n > 1).then(|| (n - 1) as f64 / done.rest.as_secs_f64());
    let cycles = model.token_cycles();
    let scheduled = (cycles > 0).then(|| clock / cycles as f64);
    if verb.json {
        print_json(&json!({
            "version": JSON_VERSION,
            "backend": verb.exec.backend,
            "prompt_tokens": prompt,
            "tokens": done.tokens,
            "text": done.text,
            "end": done.end.name(),
            "context": model.context(),
            "first_token_seconds": done.first.as_secs_f64(),
            "tokens_per_second": measured,
            "cycles_simulated": (model.cycles() > 0).then_some(model.cycles()),
            "schedule_cycles_per_token": cycles,
            "schedule_tokens_per_second": scheduled,
            "target": artifact.target.name,
            "chips": artifact.n_chips,
        }));
        return leave(done.end);
    }
    let mut out = Vec::new();
    if done.end == End::Context {
        out.push(format!(
            "[the context of {} positions is full; compile with a larger --context]",
            model.context()
        ));
    }
    if verb.stats {
        out.push(format!(
            "{} prompt tokens, {n} tokens, ended by {}",
            prompt.len(),
            done.end.name()
        ));
        out.push(format!(
            "{}: first token after {}{}",
            verb.exec.backend,
            text::microseconds(done.first.as_secs_f64() * 1e6),
            measured.map_or(String::new(), |rate| format!(", then {rate:.1} tokens/s")),
        ));
        out.push(format!(
            "{} x {}: {} cycles per token{}",
            artifact.n_chips,
            artifact.target.name,
            text::count(cycles),
            scheduled.map_or(String::new(), |rate| format!(", {rate:.1} tokens/s")),
        ));
        if model.cycles() > 0 {
            out.push(format!("{} cycles simulated", text::count(model.cycles())));
        }
    }
    lines(out);
    leave(done.end)
}

/// The end of the program, with its exit code.
fn leave(end: End) -> Outcome {
    match end {
        End::Interrupt => std::process::exit(INTERRUPTED),
        _ => Ok(()),
    }
}

fn generate(
    verb: &GenerateVerb,
    words: &Text,
    model: &mut Decoder,
    prompt: &[u32],
    mut sampler: Sampler,
    stop: &AtomicBool,
) -> Outcome<Done> {
    let mut pieces = words.pieces();
    let mut done = Done {
        tokens: Vec::new(),
        text: String::new(),
        end: End::Length,
        first: Duration::ZERO,
        rest: Duration::ZERO,
    };
    let start = Instant::now();
    let mut next = sampler.choose(model.feed(prompt)?);
    done.first = start.elapsed();
    let start = Instant::now();
    loop {
        done.tokens.push(next);
        done.rest = start.elapsed();
        if words.stops(next) {
            done.end = End::Stop;
            break;
        }
        let piece = pieces.push(next)?;
        tell(verb, &piece);
        done.text += &piece;
        if done.tokens.len() >= verb.max_tokens {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            done.end = End::Interrupt;
            break;
        }
        if model.position() == model.context() {
            done.end = End::Context;
            break;
        }
        next = sampler.choose(model.feed(&[next])?);
    }
    tell(verb, "\n");
    Ok(done)
}

/// Prints a piece of text at once. A reader that has gone away ends the program quietly.
fn tell(verb: &GenerateVerb, piece: &str) {
    if verb.json || piece.is_empty() {
        return;
    }
    let mut out = std::io::stdout();
    if write!(out, "{piece}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

impl From<LanguageError> for Failure {
    fn from(error: LanguageError) -> Failure {
        match error {
            LanguageError::Exec(error) => error.into(),
            LanguageError::Tokenizer(_) | LanguageError::Template(_) => Failure::new(Code::Model, error.to_string()),
            other => Failure::usage(other.to_string()),
        }
    }
}
