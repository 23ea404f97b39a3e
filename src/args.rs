//! The command line as types: verbs, flags, and what each value may be.

mod values;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
pub use values::Address;
#[cfg(feature = "compile")]
pub use values::chips;

/// Compile neural networks into cycle-exact schedules for chips with small SRAM, and run them.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Compile a model into an artifact (.lks)
    #[cfg(feature = "compile")]
    Compile(CompileVerb),
    /// Run an artifact, or a model that is compiled first
    Run(RunVerb),
    /// Prove an artifact from its instructions and claims
    Verify(VerifyVerb),
    /// Cycles, bound, bytes per chip, utilisation, critical path and energy
    Report(ReportVerb),
    /// Look into an artifact, or into a stage of compiling a model
    Inspect(InspectVerb),
    /// Write a schedule as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing
    Trace(TraceVerb),
    /// What changed between two artifacts, and why
    Diff(DiffVerb),
    /// The schedule as one html file to look at: timeline, data flow, SRAM, links, critical path
    View(ViewVerb),
    /// Compile a model for every combination of some figures: chips, precision, sizes of the machine
    #[cfg(feature = "compile")]
    Sweep(SweepVerb),
    /// Continue a text with a language model
    #[cfg(feature = "generate")]
    Generate(GenerateVerb),
    /// Measure the latency of a run on this machine's CPU
    Bench(BenchVerb),
    /// The machines that models are compiled for
    Targets(TargetsVerb),
    /// The executors of this build and the devices that they find
    Backends(BackendsVerb),
    /// The operators that are imported, or those of a model that are not
    #[cfg(feature = "compile")]
    Ops(OpsVerb),
    /// What there is to know of a model before it is compiled: operators, symbols, dtypes, parameters, chips
    #[cfg(feature = "compile")]
    Check(CheckVerb),
}

/// How a model is compiled.
#[cfg(feature = "compile")]
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Compile options")]
pub struct CompileArgs {
    /// Machine: a built-in name (`lockstep targets list`) or a target file
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "tsp-2020")]
    pub target: String,
    /// Chips that hold the weights, or auto for the least makespan
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = values::chips)]
    pub chips: lockstep::Chips,
    /// What partitions are chosen by: the time of a run, or the runs per second over all users in flight
    #[arg(long, value_enum, default_value = "latency")]
    pub optimize: OptimizeArg,
    /// Size of a symbolic dimension, or several (NAME=1,4), one entry each; may be repeated
    #[arg(long = "dim", value_name = "NAME=VALUE[,VALUE..]", value_parser = values::dim)]
    pub dims: Vec<(String, Vec<usize>)>,
    /// Whole shape of an input; may be repeated
    #[arg(long = "shape", value_name = "INPUT=1x3x48x192", value_parser = values::shape)]
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Input that becomes a constant: numbers or a file; may be repeated
    #[arg(long = "const-input", value_name = "NAME=VALUE|NAME=@FILE.npy", value_parser = values::pair)]
    pub const_inputs: Vec<(String, String)>,
    /// Output that feeds an input of the next run; may be repeated
    #[arg(long = "state", value_name = "OUT=IN", value_parser = values::pair)]
    pub states: Vec<(String, String)>,
    /// Dtype of activations and weights; as in the model where absent
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Language models: positions that the states hold [default: 512, or what the model was made for]
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub context: Option<usize>,
    /// Language models: sequences at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub batch: Option<usize>,
    /// Language models: tokens per run of each prefill entry
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = values::at_least_one)]
    pub prefill_chunks: Vec<usize>,
    /// Language models: positions that the decode entries attend to; the whole context is always one of them
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = values::at_least_one)]
    pub buckets: Vec<usize>,
    /// Language models: how matrices are stored on the chips; as in the model where absent
    #[arg(long, value_enum)]
    pub weights: Option<Weights>,
    /// No rewrite that changes a rounding
    #[arg(long)]
    pub exact: bool,
    /// Stop the rewrites after so many applications of rules, to find the one that is wrong
    #[arg(long, value_name = "N")]
    pub stop_after_rewrite: Option<usize>,
    /// Place every chain after the one before it
    #[arg(long)]
    pub serial: bool,
    /// Check every stage, and prove the artifact (the default)
    #[arg(long, overrides_with = "no_verify")]
    pub verify: bool,
    /// Do not prove the artifact
    #[arg(long)]
    pub no_verify: bool,
}

/// `lockstep compile`
#[cfg(feature = "compile")]
#[derive(Args, Debug)]
pub struct CompileVerb {
    /// An .onnx file, or a directory with one, or with config.json and safetensors
    pub model: PathBuf,
    /// Where the artifact goes [default: the model's name with .lks, in the current directory]
    #[arg(short, long, value_name = "FILE.lks")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: CompileArgs,
    /// Write the program after every stage into this directory
    #[arg(long, value_name = "DIR")]
    pub emit_ir: Option<PathBuf>,
    /// Print the program after a pass or stage
    #[arg(long, value_name = "PASS")]
    pub dump_after: Option<String>,
    /// Stop after a pass or stage; no artifact is written
    #[arg(long, value_name = "PASS")]
    pub stop_after: Option<String>,
    /// Print the time of every stage
    #[arg(long)]
    pub timings: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What may stand in place of an artifact: a model and how to compile it.
#[derive(Args, Debug)]
pub struct Subject {
    /// An artifact, or a model
    #[arg(value_name = "FILE.lks|MODEL")]
    pub path: PathBuf,
    #[cfg(feature = "compile")]
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: CompileArgs,
}

/// How an artifact is executed.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// Executor: cpu at full speed, sim cycle by cycle, opencl on an accelerator
    #[arg(long, value_name = "cpu|sim|opencl", default_value = "cpu")]
    pub backend: String,
    /// Device of the opencl executor, by its number in `lockstep backends` [default: the first that can be used]
    #[arg(long, value_name = "N")]
    pub device: Option<usize>,
    /// Let the opencl executor enqueue launches one by one where the device has cl_khr_command_buffer, too
    #[arg(long)]
    pub no_command_buffer: bool,
    /// Threads of the cpu executor
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// SIMD level of the cpu executor [default: the best that this machine has]
    #[arg(long, value_enum)]
    pub simd: Option<SimdArg>,
    /// Entry to run [default: run takes the first whose shapes the inputs have, bench the first]
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
}

/// `lockstep run`
#[derive(Args, Debug)]
pub struct RunVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exec: ExecArgs,
    /// An input from a .npy file, or as numbers; may be repeated
    #[arg(long = "input", value_name = "NAME=@FILE.npy|NAME=VALUES", value_parser = values::pair)]
    pub inputs: Vec<(String, String)>,
    /// Inputs from a .npz file whose keys are tensor names
    #[arg(long = "inputs", value_name = "FILE.npz")]
    pub inputs_file: Option<PathBuf>,
    /// Feed slices of the inputs along this axis, one run after another, and join the outputs along it
    #[arg(long, value_name = "AXIS")]
    pub steps: Option<usize>,
    /// Fill the inputs that are not given from a seed: floats in [-1, 1), integers 0 or 1
    #[arg(long, value_name = "SEED")]
    pub random: Option<u64>,
    /// Write the outputs
    #[arg(short, long, value_name = "FILE.npz")]
    pub output: Option<PathBuf>,
    /// Compare the outputs with these; keys are tensor names, or CASE.inN and CASE.outN
    #[arg(long, value_name = "FILE.npz")]
    pub check: Option<PathBuf>,
    /// Case of the --check file whose inputs are fed and whose outputs are compared
    #[arg(long, value_name = "NAME", requires = "check")]
    pub case: Option<String>,
    /// Relative tolerance of --check
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub rtol: f64,
    /// Absolute tolerance of --check
    #[arg(long, value_name = "A", default_value_t = 1e-4)]
    pub atol: f64,
    /// Print the blake3 hash of the outputs
    #[arg(long)]
    pub digest: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep generate`
#[cfg(feature = "generate")]
#[derive(Args, Debug)]
pub struct GenerateVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exec: ExecArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// The prompt is a user's message to a model that was trained to answer
    #[arg(long)]
    pub chat: bool,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = values::at_least_one)]
    pub max_tokens: usize,
    /// Randomness: 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the most likely tokens that have this share of the probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Of the random numbers
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Print speeds: measured on this machine, and of the schedule
    #[arg(long)]
    pub stats: bool,
    /// Print JSON at the end, instead of text as it comes
    #[arg(long)]
    pub json: bool,
}

/// `lockstep verify`
#[derive(Args, Debug)]
pub struct VerifyVerb {
    /// An artifact
    #[arg(value_name = "FILE.lks")]
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep report`
#[derive(Args, Debug)]
pub struct ReportVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    /// Language models: also how far each layer is from that with f32 weights
    #[cfg(all(feature = "compile", feature = "generate"))]
    #[arg(long)]
    pub quantisation_error: bool,
    /// Text on whose tokens that is measured [default: a sentence of about 16]
    #[cfg(all(feature = "compile", feature = "generate"))]
    #[arg(long, value_name = "TEXT", requires = "quantisation_error")]
    pub prompt: Option<String>,
    /// Write a page with the same figures and plots of them, and print only the first lines
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep inspect`
#[derive(Args, Debug)]
pub struct InspectVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    /// Part of the artifact to print
    #[arg(long, value_enum, conflicts_with = "stage")]
    pub section: Option<Section>,
    /// Program of a stage to print; all but sched need a model
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// Entry [default: the first]
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Only this chip
    #[arg(long, value_name = "N")]
    pub chip: Option<u16>,
    /// What runs in this cycle or in these, the last one excluded; with --stage or --section, only runs that issue in them
    #[arg(long, value_name = "A..B", value_parser = values::cycles)]
    pub cycle: Option<(u64, u64)>,
    /// Where the model nodes whose name contains this live; with --stage, --section or --cycle, only what comes from them
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Who writes and reads a word of SRAM, and when: chip, slice group, bank and word as printed (c2:mem5:b1:0x05c4)
    #[arg(long, value_name = "CHIP:MEM:BANK:WORD", value_parser = values::address, conflicts_with_all = ["section", "stage", "chip", "cycle", "node"])]
    pub address: Option<Address>,
    /// The runs of a chain with where their operands come from
    #[arg(long, value_name = "hN", value_parser = values::chain, conflicts_with_all = ["section", "stage", "chip", "cycle", "node", "address"])]
    pub chain: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep trace`
#[derive(Args, Debug)]
pub struct TraceVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    /// Where the trace goes [default: the subject's name with .pftrace or .json, in the current directory]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How it is written [default: by the extension of the output, .pftrace and .perfetto-trace or .json]
    #[arg(long, value_enum)]
    pub format: Option<TraceFormat>,
    /// Entry [default: the first]
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Values of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    /// Protobuf track events
    Perfetto,
    /// Chrome's trace events, JSON
    Chrome,
}

/// `lockstep diff`
#[derive(Args, Debug)]
pub struct DiffVerb {
    /// An artifact
    #[arg(value_name = "A.lks")]
    pub a: PathBuf,
    /// Another one
    #[arg(value_name = "B.lks")]
    pub b: PathBuf,
    /// What the changes are grouped by
    #[arg(long, value_enum, default_value_t = DiffBy::Node)]
    pub by: DiffBy,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Values of `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffBy {
    /// Nodes of the model
    Node,
    /// Chains of the schedule
    Chain,
    /// Kinds of units
    Unit,
    /// Chips
    Chip,
}

impl DiffBy {
    /// The word in a table's head.
    pub fn head(self) -> &'static str {
        match self {
            DiffBy::Node => "node",
            DiffBy::Chain => "chain",
            DiffBy::Unit => "unit",
            DiffBy::Chip => "chip",
        }
    }
}

/// `lockstep view`
#[derive(Args, Debug)]
pub struct ViewVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    /// Another artifact to show below the first, over the same time
    #[arg(value_name = "OTHER.lks")]
    pub other: Option<PathBuf>,
    /// Where the page goes [default: the subject's name with .html, in the current directory]
    #[arg(short, long, value_name = "FILE.html")]
    pub output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep sweep`
#[cfg(feature = "compile")]
#[derive(Args, Debug)]
pub struct SweepVerb {
    /// An .onnx file or a directory with a model
    pub model: PathBuf,
    /// A key and its values: chips, precision, target, sram_mib, link_gbps, or a figure of the target file (`lockstep targets
    /// show`); may be repeated
    #[arg(long, value_name = "KEY=V1,V2..", value_parser = values::vary, required = true)]
    pub vary: Vec<(String, Vec<String>)>,
    /// What is weighed against each other: two or more of latency, cycles, energy, chips, sram
    #[arg(long, value_name = "A,B..", value_delimiter = ',', default_value = "latency,energy")]
    pub pareto: Vec<String>,
    /// Where the rows go: a .csv file, or a directory for sweep.csv and sweep.svg
    #[arg(short, long, value_name = "DIR|FILE.csv")]
    pub output: Option<PathBuf>,
    /// Plot the first two of --pareto with their front
    #[arg(long, value_name = "FILE.svg")]
    pub svg: Option<PathBuf>,
    /// Compiles at a time; each takes the memory of a compile [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: CompileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep bench`
#[derive(Args, Debug)]
pub struct BenchVerb {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub subject: Subject,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exec: ExecArgs,
    /// Runs that are measured
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Runs before those
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub warmup: u32,
    /// Also show where the time goes on the first thread, from as many runs again
    #[arg(long)]
    pub profile: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep ops`
#[cfg(feature = "compile")]
#[derive(Args, Debug)]
pub struct OpsVerb {
    /// An .onnx file or a directory with a model; without one, every operator is listed
    pub model: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: CompileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep check`
#[cfg(feature = "compile")]
#[derive(Args, Debug)]
pub struct CheckVerb {
    /// An .onnx file or a directory with a model
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: CompileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep backends`
#[derive(Args, Debug)]
pub struct BackendsVerb {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lockstep targets`
#[derive(Args, Debug)]
pub struct TargetsVerb {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: TargetsSub,
}

/// Verbs of `lockstep targets`.
#[derive(Debug, Subcommand)]
pub enum TargetsSub {
    /// List the built-in targets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every figure of a target with its source
    Show {
        /// A built-in name or a target file
        #[arg(value_name = "NAME|FILE.toml")]
        name: String,
        /// Print JSON
        #[arg(long, conflicts_with = "toml")]
        json: bool,
        /// Print a target file
        #[arg(long)]
        toml: bool,
    },
}

/// `--weights`
#[cfg(feature = "compile")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// 16-bit floats with the exponents of 32-bit ones
    Bf16,
    /// 8-bit integers with a scale per output channel
    Int8,
    /// 4-bit integers in blocks of 32 inputs with a scale each
    Int4,
}

#[cfg(feature = "compile")]
impl From<Weights> for lockstep::WeightFormat {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::F32 => Self::F32,
            Weights::F16 => Self::F16,
            Weights::Bf16 => Self::Bf16,
            Weights::Int8 => Self::Int8,
            Weights::Int4 => Self::Int4,
        }
    }
}

/// Values of `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// IEEE binary16
    F16,
    /// bfloat16
    Bf16,
}

/// Values of `--optimize`.
#[cfg(feature = "compile")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizeArg {
    /// Time per run for one user
    Latency,
    /// Runs per second over all users in flight, one per stage
    Throughput,
}

/// Values of `--simd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SimdArg {
    /// AVX-512
    Avx512,
    /// AVX2 and FMA
    Avx2,
    /// No SIMD instructions
    Scalar,
}

/// Values of `--section`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Version, length, section table with checksums
    Header,
    /// Inputs, outputs and states
    Io,
    /// Bytes per chip by kind; with --chip, the values of every bank
    Memory,
    /// Program, start, runs and text of every chip
    Chips,
    /// Runs, issues and cycles of every queue
    Queues,
    /// Words and load of every link
    Links,
    /// Model nodes, the operations made of them, and when these run
    Provenance,
}

/// Values of `--stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The imported graph
    Graph,
    /// The tensor IR
    Tir,
    /// The partitioned tensor IR
    Part,
    /// The schedule: one line per run
    Sched,
}
