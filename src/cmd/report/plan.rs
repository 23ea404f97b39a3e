//! The report of a language model of which config.json alone is there: a small one is scheduled whole, a large one planned in parts.

use super::super::{lines, print_json};
use crate::args::{CompileArgs, ReportVerb};
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::subject::{Kind, kind, model};
use crate::text;
use lockstep::files::{self, FileSource};
use lockstep::plan::{self, Part, Plan, PlanError, Wanted};
use lockstep::{LanguageOptions, Observer, Outline, Source, WeightFormat, report_entries};
use serde_json::{Value, json};

/// Tokens of the prompt for which the time to the first token is stated.
const PROMPT: usize = 128;

struct Watch<'a>(&'a mut Progress);

impl Observer for Watch<'_> {
    fn stage(&mut self, name: &str) {
        self.0.begin(name);
    }

    fn dump(&mut self, _: &str, _: &str) {}
}

/// Reports a model without weights; `false` where the subject is something else.
///
/// # Errors
/// What importing, compiling and planning report; options that need weights.
pub fn run(verb: &ReportVerb) -> Outcome<bool> {
    let (path, args) = (&verb.subject.path, &verb.subject.options);
    if !path.is_dir() || kind(path)? != Kind::Model {
        return Ok(false);
    }
    let source = FileSource::open(path)?;
    let Some(outline) = Outline::read(&source, args.weights.map(WeightFormat::from))? else {
        return Ok(false);
    };
    #[cfg(feature = "generate")]
    if verb.quantisation_error {
        return Err(Failure::usage(format!(
            "--quantisation-error needs the weights of the model, {path:?} has none"
        )));
    }
    if verb.html.is_some() {
        return Err(Failure::usage(format!(
            "--html needs the weights of the model, {path:?} has none"
        )));
    }
    refuse(args, source.name())?;
    let target = files::target(&args.target)?;
    let options = model::options(args, model::Stages::default(), String::new());
    let language = LanguageOptions {
        context: args.context,
        batch: args.batch.unwrap_or(1),
        ..LanguageOptions::default()
    };
    let graphs = model::verified(outline.language(&language)?.entries)?;
    let bytes = graphs.iter().map(|(_, graph)| plan::bytes_of(graph)).sum();
    let name = graphs.first().map(|(_, graph)| graph.name.clone()).unwrap_or_default();
    let mut progress = Progress::new();
    let mut watch = Watch(&mut progress);
    if !plan::is_large(bytes, &target) {
        let entries: Vec<_> = graphs.iter().map(|(name, graph)| (name.clone(), graph)).collect();
        let report = report_entries(&entries, &target, &options, &mut watch)?;
        let report = report.map(|r| r.to_value()).unwrap_or_default();
        progress.end();
        if verb.json {
            print_json(&json!({ "version": JSON_VERSION, "model": name, "report": report }));
        } else {
            lines(super::whole(&name, &report));
        }
        return Ok(true);
    }
    if language.batch != 1 {
        let message = format!(
            "--batch {}: the weights of {name:?} do not fit a node, and a plan is of one sequence",
            language.batch
        );
        return Err(Failure::usage(message));
    }
    drop(graphs);
    let wanted = Wanted {
        chips: args.chips,
        context: args.context,
    };
    let plan = plan::plan(&outline, &target, &options, wanted, &mut watch).map_err(failure)?;
    progress.end();
    if verb.json {
        print_json(&json!({ "version": JSON_VERSION, "model": name, "plan": value(&plan, &target.name) }));
    } else {
        lines(text_of(&plan, &name, &target.name));
    }
    Ok(true)
}

/// Options that other models or several entries go with: what entries share is found by the data of weights.
fn refuse(args: &CompileArgs, name: &str) -> Outcome {
    let given = [
        ("prefill-chunks", !args.prefill_chunks.is_empty()),
        ("buckets", !args.buckets.is_empty()),
        ("dim", !args.dims.is_empty()),
        ("shape", !args.shapes.is_empty()),
        ("const-input", !args.const_inputs.is_empty()),
        ("state", !args.states.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!(
            "--{flag} has no meaning for {name:?}, a language model without weights, of which one token is reported"
        ))),
        None => Ok(()),
    }
}

fn failure(error: PlanError) -> Failure {
    match error {
        PlanError::Import(e) => e.into(),
        PlanError::Compile(e) => e.into(),
        PlanError::Graph(_) => Failure::new(crate::diag::Code::Check, error.to_string()),
        PlanError::Options(message) => Failure::new(crate::diag::Code::DoesNotFit, message),
    }
}

/// Why so many chips.
fn why(plan: &Plan) -> String {
    let tried: Vec<String> = plan
        .tried
        .iter()
        .map(|t| match &t.cycles {
            Ok(cycles) => format!("a layer on {} takes {} cycles", t.degree, text::count(*cycles)),
            Err(_) => format!("a layer does not fit {}", t.degree),
        })
        .collect();
    format!(
        "{}; the fastest of which all layers fit the chips was taken",
        tried.join(", ")
    )
}

fn text_of(plan: &Plan, name: &str, target: &str) -> Vec<String> {
    let us = |cycles: u64| text::microseconds(cycles as f64 * 1e6 / plan.clock_hz.max(1) as f64);
    let mut out = vec![
        format!(
            "{name} for {target} on {} chips, context {}: {:.0} tokens per second for one user, {:.0} over {} users in flight",
            plan.chips,
            plan.context,
            plan.tokens_per_second(),
            plan.throughput(),
            plan.users
        ),
        format!(
            "a token takes {} cycles, {}; the slowest stage {} cycles; first token of a prompt of {PROMPT} after {:.2} ms",
            text::count(plan.latency),
            us(plan.latency),
            text::count(plan.slowest),
            1e3 * plan.first_token(PROMPT)
        ),
        format!(
            "{} stages of {} chips and at most {} layers; embeddings {}",
            plan.stages,
            plan.degree,
            plan.layers_per_stage,
            if plan.host_embeds { "with the host" } else { "on chips" }
        ),
        format!("why so many chips: {}", why(plan)),
        format!(
            "energy per token {:.1} mJ; the busiest link sends {:.1} % of the time",
            plan.energy * 1e-3,
            100.0 * plan.link_load
        ),
        String::new(),
    ];
    let mut rows = vec![text::row([
        "scheduled",
        "times",
        "chips",
        "cycles",
        "bound",
        "const",
        "state",
        "scratch",
        "lane padding",
        "text",
        "SRAM",
    ])];
    for part in plan.parts.iter().chain(&plan.boundaries) {
        let r = &part.report;
        let fullest = r
            .sram
            .iter()
            .max_by_key(|s| s.used_bytes())
            .cloned()
            .unwrap_or_default();
        rows.push(vec![
            part.name.clone(),
            format!("{}", part.times),
            format!("{}", r.chips),
            text::count(r.makespan),
            text::count(r.bound.bound),
            text::bytes(fullest.const_bytes),
            text::bytes(fullest.state_bytes),
            text::bytes(fullest.scratch_bytes),
            text::bytes(fullest.padding_bytes),
            text::bytes(fullest.text_bytes),
            text::bytes(fullest.total_bytes),
        ]);
    }
    out.extend(text::table(&rows));
    out.push("bytes are those of the fullest chip, for one instance".into());
    out
}

fn value(plan: &Plan, target: &str) -> Value {
    let part =
        |p: &Part| json!({ "part": p.name, "times": p.times, "chips": p.report.chips, "entry": p.report.to_value() });
    json!({
        "target": target,
        "clock_hz": plan.clock_hz,
        "chips": plan.chips,
        "stages": plan.stages,
        "chips_per_stage": plan.degree,
        "layers_per_stage": plan.layers_per_stage,
        "context": plan.context,
        "why": why(plan),
        "embeddings_with_host": plan.host_embeds,
        "token_cycles": plan.latency,
        "slowest_stage_cycles": plan.slowest,
        "tokens_per_second": plan.tokens_per_second(),
        "users_in_flight": plan.users,
        "tokens_per_second_of_all": plan.throughput(),
        "prompt_tokens": PROMPT,
        "first_token_seconds": plan.first_token(PROMPT),
        "energy_microjoules_per_token": plan.energy,
        "link_load": plan.link_load,
        "tried": plan.tried.iter().map(|t| json!({
            "chips_per_stage": t.degree, "layer_cycles": t.cycles.as_ref().ok(), "refused": t.cycles.as_ref().err(),
        })).collect::<Vec<_>>(),
        "parts": plan.parts.iter().map(part).collect::<Vec<_>>(),
        "boundaries": plan.boundaries.iter().map(part).collect::<Vec<_>>(),
    })
}
