//! `--quantisation-error`: how far the layers of a language model are from those with f32 weights, on a prompt.

use super::{Part, list, number, word};
use crate::args::ReportVerb;
use crate::diag::{Failure, Outcome};
use crate::progress::Progress;
use crate::subject::{Kind, kind, model};
use crate::text;
use clap::ValueEnum;
use lockstep::files::FileSource;
use lockstep::language::Text;
use lockstep::quantisation::{Distance, compare};
use lockstep::{Checkpoint, Source, WeightFormat};
use serde_json::{Value, json};

/// The prompt where the user gives none.
const PROMPT: &str = "The timetable is printed before the first train leaves, so nobody waits at a signal.";

/// Tokens that stand for a prompt where the model has no tokenizer.
const SPREAD: usize = 16;

/// Where the report has it.
pub const KEY: &str = "quantisation_error";

/// Measures the error of the weights and the precision that the options ask for; `None` where they do not ask for it.
///
/// # Errors
/// A subject that is no language model with weights; a prompt that is empty or longer than the model allows; what importing and lowering
/// report.
pub fn measure(verb: &ReportVerb, progress: &mut Progress) -> Outcome<Option<Value>> {
    if !verb.quantisation_error {
        return Ok(None);
    }
    let (path, args) = (&verb.subject.path, &verb.subject.options);
    if kind(path)? == Kind::Artifact {
        return Err(Failure::usage(format!(
            "{path:?} is an artifact; --quantisation-error needs a model"
        )));
    }
    progress.begin("import");
    let source = FileSource::open(path)?;
    let Some(checkpoint) = Checkpoint::read(&source)? else {
        return Err(Failure::usage(format!(
            "--quantisation-error has no meaning for {:?}, which is no language model",
            source.name()
        )));
    };
    let (prompt, tokens) = prompt(&checkpoint, verb.prompt.as_deref())?;
    let layers = |weights| model::proved(checkpoint.clone().layers(tokens.len(), weights)?);
    let reference = layers(Some(WeightFormat::F32))?;
    let asked = layers(args.weights.map(WeightFormat::from))?;
    progress.begin("quantisation error");
    let precision = model::options(args, model::Stages::default(), String::new()).precision;
    let error = compare(&reference, &asked, precision, &tokens)?;
    progress.end();
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned());
    let output = |d: &Distance| {
        json!({
            "output": d.output,
            "relative_rms_error": d.relative_rms,
            "largest_error": d.largest,
            "cosine_similarity": d.cosine,
        })
    };
    Ok(Some(json!({
        "weights": name(args.weights.and_then(|w| w.to_possible_value())),
        "precision": name(args.precision.and_then(|p| p.to_possible_value())),
        "prompt": prompt,
        "tokens": tokens,
        "same_next_token": error.same_next,
        "outputs": error.outputs.iter().map(output).collect::<Vec<_>>(),
    })))
}

/// A report with the error.
pub fn added(mut report: Value, error: Option<Value>) -> Value {
    if let (Some(error), Some(all)) = (error, report.as_object_mut()) {
        all.insert(KEY.into(), error);
    }
    report
}

/// The prompt and its tokens; no text where the model has no tokenizer, and tokens spread over those that it knows.
fn prompt(checkpoint: &Checkpoint, given: Option<&str>) -> Outcome<(Option<String>, Vec<u32>)> {
    if checkpoint.text.is_none() && given.is_none() {
        let (vocab, positions) = checkpoint.vocab_and_positions()?;
        let n = SPREAD.min(positions);
        let spread = (0..n).map(|i| ((2 * i + 1) * vocab / (2 * n)) as u32);
        return Ok((None, spread.collect()));
    }
    let Some(text) = &checkpoint.text else {
        return Err(Failure::usage("--prompt needs a tokenizer, the model has none"));
    };
    let prompt = given.unwrap_or(PROMPT);
    Ok((Some(prompt.into()), Text::read(text)?.encode(prompt, true)?))
}

/// The error as text.
pub fn parts(error: &Value) -> Vec<Part> {
    let weights = match word(error, "weights") {
        "" => "weights as stored".into(),
        weights => format!("{weights} weights"),
    };
    let precision = match word(error, "precision") {
        "" => String::new(),
        precision => format!(" and {precision} activations"),
    };
    let prompt = match error.get("prompt").and_then(Value::as_str) {
        Some(prompt) => format!("tokens of {prompt:?}"),
        None => "tokens spread over the vocabulary, for the model has no tokenizer".into(),
    };
    let n = list(error, "tokens").len();
    let mut rows = vec![text::row([
        "output",
        "relative rms error",
        "largest error",
        "cosine similarity",
    ])];
    let figure = |output: &Value, key, print: fn(f64) -> String| {
        let figure = output.get(key).and_then(Value::as_f64);
        figure.map_or("not finite".into(), print)
    };
    rows.extend(list(error, "outputs").iter().map(|output| {
        vec![
            word(output, "output").to_owned(),
            figure(output, "relative_rms_error", |x| format!("{x:.3e}")),
            figure(output, "largest_error", |x| format!("{x:.3e}")),
            figure(output, "cosine_similarity", |x| format!("{x:.6}")),
        ]
    }));
    vec![
        Part::Gap,
        Part::Line(format!(
            "quantisation error: {weights}{precision} against f32, over {n} {prompt}"
        )),
        Part::Line(format!(
            "the most likely next token is the same behind {} of {n}",
            number(error, "same_next_token")
        )),
        Part::Table(rows),
    ]
}
