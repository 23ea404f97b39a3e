//! Plans of large decoders of which config.json alone is known: one representative of each distinct part is scheduled, the rest are its
//! repetitions.
//!
//! Representatives go through the whole compiler but for the artifact: a stage of each kind on its chips, the output head, the
//! embeddings, and the boundary of two stages, inside a node and between nodes. How many chips a stage takes is chosen by the schedule of
//! one layer; how many layers it has by what that layer leaves free, and a stage that then does not fit gets a layer less. A token passes
//! all stages; while one of them works on it the others work on the tokens of other users. Every figure is a sum of scheduled ones.

use crate::isa::Target;
use crate::isa::topology::Topology;
use crate::{
    Chips, CompileError, CompileErrorKind, EntryReport, Graph, ImportError, Observer, Options, Outline, StageSize,
    report_boundary, report_entries, users_that_fit,
};
use lockstep_graph::{Verified, VerifyErrors};
use std::ops::Range;

/// What is wrong with a plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// config.json does not describe a model that can be built.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The graph of a part breaks an invariant, which is a bug of the importer.
    #[error("import: {0}; this is a bug")]
    Graph(VerifyErrors),
    /// A representative could not be scheduled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// No plan within the chips or the context asked for.
    #[error("{0}")]
    Options(String),
}

/// A part of the model, scheduled once.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is: `layers 0 to 2`, `head`, `embedding`.
    pub name: String,
    /// How often it is instantiated for one token.
    pub times: usize,
    /// The schedule of its representative, for one token.
    pub report: EntryReport,
}

/// A number of chips per layer that was looked at.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Chips of a stage.
    pub degree: u16,
    /// Cycles of the first layer; why there is none.
    pub cycles: Result<u64, String>,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Chips of all stages, head and embeddings.
    pub chips: usize,
    /// Chips of a stage.
    pub degree: u16,
    /// Stages that hold layers.
    pub stages: usize,
    /// Most layers of a stage.
    pub layers_per_stage: usize,
    /// Degrees that were looked at.
    pub tried: Vec<Tried>,
    /// Distinct parts: stages by kind, the head, the embeddings where chips hold them.
    pub parts: Vec<Part>,
    /// Boundaries, in the order: inside a node, between nodes; those that no token passes are left out.
    pub boundaries: Vec<Part>,
    /// Whether the host looks up embeddings, since no chips hold the table.
    pub host_embeds: bool,
    /// Positions that the states hold.
    pub context: usize,
    /// Cycles from a token to its logits.
    pub latency: u64,
    /// Cycles of the slowest part of the pipeline.
    pub slowest: u64,
    /// Users whose states fit, at most one per stage.
    pub users: usize,
    /// Energy of a token in microjoules.
    pub energy: f64,
    /// Share of the time of a stage and its boundary in which the busiest link sends.
    pub link_load: f64,
    /// Clock, hertz.
    pub clock_hz: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Chips of the whole model.
    pub chips: Chips,
    /// Positions that the states hold; as [`crate::LanguageOptions`] where absent.
    pub context: Option<usize>,
}

/// Positions of the states where the user does not say.
const CONTEXT: usize = 512;
/// Most degrees that are scheduled before one is chosen.
const DEGREES: usize = 3;
/// Most numbers of layers per stage that are scheduled before one is chosen.
const SIZES: usize = 3;
/// Most nodes of one stage.
const NODES: u16 = 4;
/// Bytes of a stage per byte of weights and states from which a degree is tried, in percent: padding, text and temporaries come to it.
const ROOM: u64 = 125;

impl Part {
    /// Whether it is a stage of layers.
    #[must_use]
    pub fn is_stage(&self) -> bool {
        self.name.starts_with("layer")
    }
}

impl Plan {
    /// Tokens per second of one user.
    pub fn tokens_per_second(&self) -> f64 {
        self.clock_hz as f64 / self.latency.max(1) as f64
    }

    /// Tokens per second over all users in flight.
    pub fn throughput(&self) -> f64 {
        let most = self.clock_hz as f64 / self.slowest.max(1) as f64;
        most.min(self.users as f64 * self.tokens_per_second())
    }

    /// Seconds from a prompt of so many tokens to the first token of the answer. The tokens of a prompt follow each other through the
    /// stages: one enters a stage when that before it has left.
    pub fn first_token(&self, prompt: usize) -> f64 {
        let cycles = self.latency + self.slowest * (prompt.max(1) as u64 - 1);
        cycles as f64 / self.clock_hz.max(1) as f64
    }
}

/// Bytes of the weights and states of a part.
#[must_use]
pub fn bytes_of(graph: &Graph) -> u64 {
    let weights: u64 = graph.consts.values().map(|c| c.data.len() as u64).sum();
    let states = graph.states.iter().filter_map(|s| graph.inputs.get(s.input));
    let states = states.filter_map(|input| graph.values.get(input.value));
    weights
        + states
            .map(|v| (v.shape.n_elements() * v.dtype.size()) as u64)
            .sum::<u64>()
}

/// Whether a model of so many bytes is planned in parts rather than scheduled as one program: a node does not hold it.
#[must_use]
pub fn is_large(bytes: u64, target: &Target) -> bool {
    bytes > target.sram_bytes() * u64::from(node(target))
}

/// Chips among which any two are joined by links.
fn node(target: &Target) -> u16 {
    match target.topology {
        Topology::Nodes { node } => u16::from(node).max(1),
        Topology::Ring => target.max_chips.clamp(1, 8),
    }
}

/// Plans a decoder.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(
    outline: &Outline,
    target: &Target,
    options: &Options,
    wanted: Wanted,
    observer: &mut dyn Observer,
) -> Result<Plan, PlanError> {
    let context = wanted.context.unwrap_or(outline.positions().min(CONTEXT));
    if context == 0 || context > outline.positions() {
        return Err(PlanError::Options(format!(
            "the context is {context}, the model allows 1 to {}",
            outline.positions()
        )));
    }
    let mut planner = Planner {
        target,
        options,
        observer,
        size: StageSize { tokens: 1, context },
        outline,
    };
    planner.run(wanted.chips)
}

struct Planner<'a> {
    target: &'a Target,
    options: &'a Options,
    observer: &'a mut dyn Observer,
    size: StageSize,
    outline: &'a Outline,
}

/// A layer on so many chips, and how many of them its chips may hold.
struct Fitting {
    makespan: u64,
    degree: u16,
    most: usize,
}

/// Stages on so many chips each, with a representative of each kind.
struct Chosen {
    degree: u16,
    ranges: Vec<Range<usize>>,
    parts: Vec<Part>,
}

/// A scheduled part, or why there is no room.
type Scheduled = Result<EntryReport, String>;

impl Planner<'_> {
    fn run(&mut self, chips: Chips) -> Result<Plan, PlanError> {
        let head = self.verified(self.outline.head(self.size))?;
        let table = self.verified(self.outline.embedding(self.size))?;
        let head = self.part("head", &head)?.map_err(PlanError::Options)?;
        // A table that no chips hold stays with the host, which knows the tokens.
        let table = self.part("embedding", &table)?.ok();
        let around = usize::from(head.chips) + table.as_ref().map_or(0, |t| usize::from(t.chips));
        let limit = match chips {
            Chips::Auto => usize::from(self.target.max_chips),
            Chips::Exactly(n) => usize::from(n),
        };
        let room = limit.saturating_sub(around);
        let (tried, fitting) = self.layer(chips, room)?;
        let mut chosen = None;
        for layer in fitting {
            chosen = self.stages(&layer, room)?;
            if chosen.is_some() {
                break;
            }
        }
        let Some(Chosen {
            degree,
            ranges,
            mut parts,
        }) = chosen
        else {
            return Err(PlanError::Options(self.refusal(&tried, limit, room)));
        };
        let stages = ranges.len();
        let boundaries = self.boundaries(degree, stages, table.is_some())?;
        let crossing = boundaries.iter().map(|b| b.report.makespan).max().unwrap_or(0);
        let users = parts
            .iter()
            .map(|p| users_that_fit(&p.report.sram) as usize)
            .min()
            .unwrap_or(1);
        // A stage and the boundary after it: the busiest link of each, as if it were one.
        let sends = |r: &EntryReport| {
            let words = r.links.iter().map(|l| l.2).max().unwrap_or(0);
            words * u64::from(self.target.c2c.cycles_per_word)
        };
        let handed = boundaries.iter().map(|b| sends(&b.report)).max().unwrap_or(0);
        let load = |r: &EntryReport| (sends(r) + handed) as f64 / (r.makespan + crossing).max(1) as f64;
        let link_load = parts.iter().map(|p| load(&p.report)).fold(0.0, f64::max);
        let host_embeds = table.is_none();
        let around_parts = [("head", Some(head)), ("embedding", table)];
        parts.extend(around_parts.into_iter().filter_map(|(name, report)| {
            Some(Part {
                name: name.into(),
                times: 1,
                report: report?,
            })
        }));
        let all = || parts.iter().chain(&boundaries);
        let in_flight = stages + parts.iter().filter(|p| !p.is_stage()).count();
        Ok(Plan {
            chips: stages * usize::from(degree) + around,
            degree,
            stages,
            layers_per_stage: ranges.iter().map(Range::len).max().unwrap_or(0),
            tried,
            latency: all().map(|p| p.report.makespan * p.times as u64).sum(),
            slowest: parts.iter().map(|p| p.report.makespan + crossing).max().unwrap_or(0),
            users: users.clamp(1, in_flight),
            energy: all().map(|p| p.report.energy.total() * 1e-6 * p.times as f64).sum(),
            link_load,
            host_embeds,
            context: self.size.context,
            clock_hz: self.target.clock_hz,
            parts,
            boundaries,
        })
    }

    /// Schedules the first layer on several numbers of chips: what was tried, and what of it fits `room`, the fastest first.
    fn layer(&mut self, chips: Chips, room: usize) -> Result<(Vec<Tried>, Vec<Fitting>), PlanError> {
        let n_layers = self.outline.n_layers();
        let first = self.verified(self.outline.layers(self.size, 0..1))?;
        let bytes = bytes_of(&first);
        let mut degrees = self.degrees(bytes);
        if let Chips::Exactly(_) = chips {
            // What the chips allow each layer, and one less, may lie between powers of two.
            let each = (room / n_layers.max(1)).min(usize::from(node(self.target))) as u16;
            let more = [each.saturating_sub(1), each];
            degrees.extend(more.into_iter().filter(|&d| d > 0 && self.has_room(d, bytes)));
            degrees.sort_unstable();
            degrees.dedup();
        }
        // What is too much even with as many layers in a stage as its chips could hold at best.
        let stages = |d: u16| {
            let per = u64::from(d) * self.target.sram_bytes() / bytes.max(1);
            n_layers.div_ceil((per as usize).clamp(1, n_layers.max(1)))
        };
        degrees.retain(|&d| stages(d) * usize::from(d) <= room);
        let mut tried: Vec<Tried> = Vec::new();
        let mut fitting: Vec<Fitting> = Vec::new();
        // The largest are the fastest, as a rule.
        for degree in degrees.into_iter().rev() {
            if fitting.len() == DEGREES {
                break;
            }
            // Of two between powers of two the smaller is for where the larger does not fit.
            let between = |d: u16| !d.is_power_of_two();
            if between(degree) && fitting.iter().any(|f| between(f.degree)) {
                continue;
            }
            let found = self.schedule("layer", &first, degree)?;
            let cycles = found.as_ref().map(|r| r.makespan).map_err(Clone::clone);
            tried.push(Tried { degree, cycles });
            let Ok(report) = found else { continue };
            let most = layers_that_fit(&report).clamp(1, n_layers.max(1));
            if n_layers.div_ceil(most) * usize::from(degree) <= room {
                let makespan = report.makespan;
                fitting.push(Fitting { makespan, degree, most });
            }
        }
        fitting.sort_by_key(|f| f.makespan);
        Ok((tried, fitting))
    }

    /// Schedules the distinct stages of at most so many layers on `degree` chips each, of fewer layers where they do not fit or take much
    /// longer than their layers one after another; `None` where that takes more than `room` chips.
    fn stages(&mut self, layer: &Fitting, room: usize) -> Result<Option<Chosen>, PlanError> {
        let n_layers = self.outline.n_layers();
        let alone = layer.makespan * n_layers as u64;
        let mut best: Option<(u64, Chosen)> = None;
        for most in (1..=layer.most).rev().take(SIZES) {
            let n = n_layers.div_ceil(most);
            if n * usize::from(layer.degree) > room {
                break;
            }
            let ranges: Vec<_> = (0..n).map(|i| i * n_layers / n..(i + 1) * n_layers / n).collect();
            let Some(parts) = self.distinct(&ranges, layer.degree)? else {
                continue;
            };
            let cycles = parts.iter().map(|p| p.report.makespan * p.times as u64).sum();
            let enough = cycles <= alone + alone / 4;
            if best.as_ref().is_none_or(|(least, _)| cycles < *least) {
                let degree = layer.degree;
                best = Some((cycles, Chosen { degree, ranges, parts }));
            }
            if enough {
                break;
            }
        }
        Ok(best.map(|(_, chosen)| chosen))
    }

    /// A representative of each distinct stage; `None` where one does not fit.
    fn distinct(&mut self, ranges: &[Range<usize>], degree: u16) -> Result<Option<Vec<Part>>, PlanError> {
        let mut distinct: Vec<(Range<usize>, usize)> = Vec::new();
        for range in ranges {
            let alike = |of: &Range<usize>| self.outline.alike(of.clone(), range.clone());
            match distinct.iter_mut().find(|(of, _)| alike(of)) {
                Some((_, times)) => *times += 1,
                None => distinct.push((range.clone(), 1)),
            }
        }
        let mut parts = Vec::with_capacity(distinct.len());
        for (range, times) in distinct {
            let name = match range.len() {
                1 => format!("layer {}", range.start),
                _ => format!("layers {} to {}", range.start, range.end.saturating_sub(1)),
            };
            let graph = self.verified(self.outline.layers(self.size, range))?;
            match self.schedule(&name, &graph, degree)? {
                Ok(report) => parts.push(Part { name, times, report }),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(parts))
    }

    fn refusal(&self, tried: &[Tried], limit: usize, room: usize) -> String {
        let why = tried.iter().map(|t| match &t.cycles {
            Ok(_) => format!("stages of {} take more than {room} in all", t.degree),
            Err(_) => format!("stages of {} have no room for a layer", t.degree),
        });
        let why: Vec<String> = why.collect();
        format!(
            "no plan on {limit} chips with a context of {}: {}; use more chips, narrower weights or a smaller context",
            self.size.context,
            match &why[..] {
                [] => "its weights and states alone take more".into(),
                why => why.join("; "),
            }
        )
    }

    /// What hands activations from stage to stage, from the embeddings to the first and from the last to the head.
    fn boundaries(&mut self, degree: u16, stages: usize, embeds: bool) -> Result<Vec<Part>, PlanError> {
        let node = node(self.target).max(1);
        // As many stages as fit share a node; the head and the embeddings have nodes of their own.
        let in_node = usize::from((node / degree.max(1)).max(1));
        let hops = stages.saturating_sub(1);
        let crossings = hops / in_node;
        let away = degree.next_multiple_of(node);
        let shape = (self.size.tokens, self.outline.hidden());
        let all = [
            ("boundary inside a node", hops - crossings, degree),
            ("boundary between nodes", crossings + 1 + usize::from(embeds), away),
        ];
        let mut boundaries = Vec::new();
        for (name, times, to) in all.into_iter().filter(|(_, times, _)| *times > 0) {
            self.observer.stage(name);
            let report = report_boundary(shape, 0, to..to.saturating_add(degree), self.target)?;
            let name = name.into();
            boundaries.push(Part { name, times, report });
        }
        Ok(boundaries)
    }

    /// Degrees that may hold so many bytes: powers of two up to a node, and beyond it where a node does not hold them.
    fn degrees(&self, bytes: u64) -> Vec<u16> {
        let node = node(self.target);
        let all = std::iter::successors(Some(1u16), |d| d.checked_mul(2));
        let all = all.take_while(|&d| d <= self.target.max_chips.min(node.saturating_mul(NODES)));
        let fit: Vec<u16> = all.filter(|&d| self.has_room(d, bytes)).collect();
        let inside = fit.iter().filter(|&&d| d <= node).count().max(1);
        fit.into_iter().take(inside).collect()
    }

    fn has_room(&self, degree: u16, bytes: u64) -> bool {
        bytes.saturating_mul(ROOM) / 100 <= u64::from(degree) * self.target.sram_bytes()
    }

    /// A part on the fewest chips that hold it.
    fn part(&mut self, name: &str, graph: &Verified<Graph>) -> Result<Scheduled, PlanError> {
        let mut refused = format!("the {name} does not fit the {} chips of a node", node(self.target));
        for degree in self.degrees(bytes_of(graph)) {
            match self.schedule(name, graph, degree)? {
                Ok(report) => return Ok(Ok(report)),
                Err(why) => refused = format!("the {name} on {degree} chips: {why}"),
            }
        }
        Ok(Err(refused))
    }

    fn schedule(&mut self, name: &str, graph: &Verified<Graph>, degree: u16) -> Result<Scheduled, PlanError> {
        let options = Options {
            chips: Chips::Exactly(degree),
            draft: true,
            ..self.options.clone()
        };
        let entries = [(name.to_owned(), graph)];
        match report_entries(&entries, self.target, &options, self.observer) {
            Ok(report) => match report.and_then(|r| r.entries.into_iter().next()) {
                Some(entry) => Ok(Ok(entry)),
                None => Err(PlanError::Options(format!(
                    "the options stop the compile of the {name}"
                ))),
            },
            Err(e)
                if matches!(
                    e.kind,
                    CompileErrorKind::DoesNotFit { .. } | CompileErrorKind::Options(_)
                ) =>
            {
                Ok(Err(e.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn verified(&self, graph: Result<Graph, ImportError>) -> Result<Verified<Graph>, PlanError> {
        Verified::new(graph?, &()).map_err(PlanError::Graph)
    }
}

/// Layers that the chips of a stage hold, by the chip that holds most; temporaries are shared.
fn layers_that_fit(layer: &EntryReport) -> usize {
    let fit = layer.sram.iter().map(|s| {
        let each = s.used_bytes() - s.scratch_bytes;
        s.total_bytes.saturating_sub(s.scratch_bytes) / each.max(1)
    });
    fit.min().unwrap_or(1) as usize
}
