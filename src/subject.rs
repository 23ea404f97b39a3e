//! What a verb works on: an artifact read from a file, or a model compiled on the spot.

use crate::args::Subject;
use crate::diag::{Failure, Outcome};
use crate::progress::Progress;
use lockstep::{Artifact, files};
use std::path::{Path, PathBuf};

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A compiled file.
    Artifact,
    /// A model: a file or a directory.
    Model,
}

/// Tells artifacts from models: by the first bytes, then by the extension.
///
/// # Errors
/// No such file; a file that is neither.
pub fn kind(path: &Path) -> Outcome<Kind> {
    if path.is_dir() {
        return Ok(Kind::Model);
    }
    if files::first_bytes(path)? == lockstep::isa::artifact::container::MAGIC {
        return Ok(Kind::Artifact);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("lks") => Ok(Kind::Artifact),
        Some("onnx" | "gguf") => Ok(Kind::Model),
        _ => Err(Failure::usage(format!(
            "{path:?}: unknown kind of file; expected an artifact (.lks), an ONNX model (.onnx), a GGUF model (.gguf), or a directory with a model"
        ))),
    }
}

/// The artifact of a subject.
///
/// # Errors
/// What reading, importing and compiling report; compile options given for an artifact.
pub fn open(subject: &Subject, progress: &mut Progress) -> Outcome<Artifact> {
    match kind(&subject.path)? {
        Kind::Artifact => {
            #[cfg(feature = "compile")]
            model::refuse_options(&subject.path, &subject.options)?;
            progress.begin("load");
            let artifact = files::read_artifact(&subject.path)?;
            progress.end();
            Ok(artifact)
        }
        #[cfg(feature = "compile")]
        Kind::Model => {
            let stages = model::Stages::default();
            let compiled = model::compile(&subject.path, &subject.options, stages, progress, &mut |_, _| ())?;
            compiled
                .artifact
                .ok_or_else(|| Failure::usage("the compile was stopped before it made an artifact"))
        }
        #[cfg(not(feature = "compile"))]
        Kind::Model => Err(Failure::usage(format!(
            "{:?} is a model and this build has no compiler; build with feature \"compile\"",
            subject.path
        ))),
    }
}

/// Where a result goes that has no `--output`: the subject's name with this extension, in the current directory.
pub fn default_output(path: &Path, extension: &str) -> PathBuf {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_dir() {
        full.file_name()
    } else {
        path.file_stem()
    };
    let mut name = name.unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// Index of an entry by name; the first where no name is given.
///
/// # Errors
/// No entry of this name.
pub fn entry(artifact: &Artifact, name: Option<&str>) -> Outcome<usize> {
    let Some(name) = name else { return Ok(0) };
    let found = artifact.entries.iter().position(|e| e.name == name);
    found.ok_or_else(|| {
        let known: Vec<&str> = artifact.entries.iter().map(|e| e.name.as_str()).collect();
        Failure::usage(format!(
            "entry {name:?} does not exist; the artifact has {}",
            known.join(", ")
        ))
    })
}

#[cfg(feature = "compile")]
pub mod model {
    //! Import and compile with the options of the command line.

    use super::{Failure, Kind, Outcome, Progress, kind};
    use crate::args::{CompileArgs, OptimizeArg, Precision};
    use lockstep::files::{self, FileSource};
    use lockstep::isa::DType;
    use lockstep::isa::artifact::HostDType;
    use lockstep::{
        Compiled, ConstInput, Graph, ImportOptions, LanguageOptions, Objective, Observer, Options, Source,
        WeightFormat, tensors,
    };
    use lockstep_graph::{Shape, Verified, Weights};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Which stages to show or to stop after.
    #[derive(Clone, Debug, Default)]
    pub struct Stages {
        /// Pass or stage whose program is dumped; `all` for every one.
        pub dump_after: Option<String>,
        /// Pass or stage to stop after.
        pub stop_after: Option<String>,
    }

    /// Takes the dumps: name of the stage, text of the program.
    pub type Sink<'a> = &'a mut dyn FnMut(&str, &str);

    struct Watch<'a> {
        progress: &'a mut Progress,
        sink: Sink<'a>,
    }

    impl Observer for Watch<'_> {
        fn stage(&mut self, name: &str) {
            self.progress.begin(name);
        }

        fn dump(&mut self, name: &str, text: &str) {
            (self.sink)(name, text);
        }
    }

    /// Most entries of an artifact that the command line makes.
    const MAX_ENTRIES: usize = 64;

    /// What importing a model gives.
    pub struct Imported {
        /// A name and a graph per entry.
        pub entries: Vec<(String, Graph)>,
        /// Tokenizer of a language model.
        pub tokenizer: Option<String>,
    }

    /// Imports a model. A language model has the entries that its options ask for. Any other model has one entry for every combination
    /// of the sizes that `--dim` lists, the last named changing fastest; it is named after the sizes of which there are several.
    ///
    /// # Errors
    /// A path that is no model; options that do not fit it; what the importer reports.
    pub fn import(path: &Path, args: &CompileArgs, progress: &mut Progress) -> Outcome<Imported> {
        if kind(path)? == Kind::Artifact {
            return Err(Failure::usage(format!("{path:?} is an artifact; expected a model")));
        }
        progress.begin("import");
        let source = FileSource::open(path)?;
        if let Some(model) = language(&source, args)? {
            progress.end();
            return Ok(model);
        }
        let mut entries = Vec::new();
        for (name, options) in import_options(args)? {
            let graph = lockstep::import(&source, &options)?;
            entries.push((name.unwrap_or_else(|| graph.entry.clone()), graph));
        }
        progress.end();
        Ok(Imported {
            entries,
            tokenizer: None,
        })
    }

    /// What the command line fixes at import, for each entry; with a name where there are several.
    ///
    /// # Errors
    /// A constant input whose value cannot be read; too many entries.
    pub fn import_options(args: &CompileArgs) -> Outcome<Vec<(Option<String>, ImportOptions)>> {
        let mut options = ImportOptions {
            shapes: args.shapes.iter().cloned().collect(),
            states: args.states.clone(),
            ..ImportOptions::default()
        };
        for (name, value) in &args.const_inputs {
            options.const_inputs.insert(name.clone(), constant(name, value)?);
        }
        let all = combinations(&args.dims)?.into_iter();
        Ok(all
            .map(|(name, dims)| {
                let options = ImportOptions {
                    dims,
                    ..options.clone()
                };
                (name, options)
            })
            .collect())
    }

    /// The entries of a language model; `None` for another model. Options that belong to the other kind are refused.
    fn language(source: &FileSource, args: &CompileArgs) -> Outcome<Option<Imported>> {
        let options = LanguageOptions {
            context: args.context,
            batch: args.batch.unwrap_or(1),
            prefill: args.prefill_chunks.clone(),
            buckets: args.buckets.clone(),
            weights: args.weights.map(WeightFormat::from),
        };
        let refuse = |flag: &str, kind: &str| {
            let message = format!("--{flag} has no meaning for {:?}, which is {kind}", source.name());
            Err(Failure::usage(message))
        };
        let flags = [
            ("dim", args.dims.is_empty()),
            ("shape", args.shapes.is_empty()),
            ("const-input", args.const_inputs.is_empty()),
            ("state", args.states.is_empty()),
        ];
        let language_flags = [
            ("context", args.context.is_none()),
            ("batch", args.batch.is_none()),
            ("prefill-chunks", args.prefill_chunks.is_empty()),
            ("buckets", args.buckets.is_empty()),
            ("weights", args.weights.is_none()),
        ];
        match lockstep::language_model(source, &options)? {
            Some(model) => match flags.iter().find(|flag| !flag.1) {
                Some((flag, _)) => refuse(flag, "a language model"),
                None => Ok(Some(Imported {
                    entries: model.entries,
                    tokenizer: model.text,
                })),
            },
            None => match language_flags.iter().find(|flag| !flag.1) {
                Some((flag, _)) => refuse(flag, "no language model"),
                None => Ok(None),
            },
        }
    }

    /// Sizes of the symbolic dimensions of one entry, and its name where there are several entries.
    type Sizes = (Option<String>, BTreeMap<String, usize>);

    fn combinations(dims: &[(String, Vec<usize>)]) -> Outcome<Vec<Sizes>> {
        let dims: BTreeMap<&String, (usize, &Vec<usize>)> = dims
            .iter()
            .enumerate()
            .map(|(n, (name, sizes))| (name, (n, sizes)))
            .collect();
        let mut dims: Vec<_> = dims.into_iter().collect();
        dims.sort_by_key(|(_, (n, _))| *n);
        let count = dims
            .iter()
            .fold(1usize, |n, (_, (_, sizes))| n.saturating_mul(sizes.len()));
        if count > MAX_ENTRIES {
            return Err(Failure::usage(format!(
                "--dim lists {count} combinations; allowed are {MAX_ENTRIES}"
            )));
        }
        let mut found: Vec<Sizes> = vec![(None, BTreeMap::new())];
        for (name, (_, sizes)) in dims {
            let longer = found.iter().flat_map(|(entry, known)| {
                sizes.iter().map(move |&size| {
                    let mut known = known.clone();
                    known.insert(name.clone(), size);
                    let entry = match entry {
                        _ if sizes.len() == 1 => entry.clone(),
                        Some(entry) => Some(format!("{entry},{name}={size}")),
                        None => Some(format!("{name}={size}")),
                    };
                    (entry, known)
                })
            });
            found = longer.collect();
        }
        Ok(found)
    }

    /// Imports and compiles a model.
    ///
    /// # Errors
    /// As [`import`]; a target that is unknown or wrong; what the compiler reports.
    pub fn compile(
        path: &Path,
        args: &CompileArgs,
        stages: Stages,
        progress: &mut Progress,
        sink: Sink<'_>,
    ) -> Outcome<Compiled> {
        let target = files::target(&args.target)?;
        let imported = import(path, args, progress)?;
        let graphs = verified(imported.entries)?;
        let options = options(args, stages, imported.tokenizer.unwrap_or_default());
        let mut watch = Watch { progress, sink };
        let entries: Vec<_> = graphs.iter().map(|(name, graph)| (name.clone(), graph)).collect();
        let compiled = lockstep::compile_entries(&entries, &target, &options, &mut watch)?;
        progress.end();
        Ok(compiled)
    }

    /// Proves an imported graph.
    ///
    /// # Errors
    /// A graph that breaks an invariant, which is a bug of the importer.
    pub fn proved(graph: Graph) -> Outcome<Verified<Graph>> {
        Verified::new(graph, &()).map_err(|errors| {
            let message = format!("import: {errors}; this is a bug");
            Failure::new(crate::diag::Code::Check, message)
        })
    }

    /// Proves imported graphs.
    ///
    /// # Errors
    /// As [`proved`].
    pub fn verified(entries: Vec<(String, Graph)>) -> Outcome<Vec<(String, Verified<Graph>)>> {
        let prove = |(name, graph)| Ok((name, proved(graph)?));
        entries.into_iter().map(prove).collect()
    }

    /// What the command line says about a compile, for the compiler.
    pub fn options(args: &CompileArgs, stages: Stages, tokenizer: String) -> Options {
        Options {
            chips: args.chips,
            precision: args.precision.map(|p| match p {
                Precision::F16 => DType::F16,
                Precision::Bf16 => DType::BF16,
            }),
            optimize: match args.optimize {
                OptimizeArg::Latency => Objective::Latency,
                OptimizeArg::Throughput => Objective::Throughput,
            },
            exact: args.exact,
            verify: !args.no_verify,
            verify_passes: args.verify,
            dump_after: stages.dump_after,
            stop_after: stages.stop_after,
            stop_after_rewrite: args.stop_after_rewrite,
            serial: args.serial,
            draft: false,
            tokenizer,
        }
    }

    /// The value of a `--const-input`.
    fn constant(name: &str, value: &str) -> Outcome<ConstInput> {
        use lockstep_graph::DType as G;
        let Some(file) = value.strip_prefix('@') else {
            return ConstInput::parse(value).map_err(|e| Failure::usage(format!("--const-input {name}: {e}")));
        };
        let bytes = files::map_file(Path::new(file))?;
        let tensor = tensors::read_npy(file, bytes.as_ref())?;
        let dtype = match tensor.dtype {
            HostDType::F32 => G::F32,
            HostDType::F16 => G::F16,
            HostDType::BF16 => G::Bf16,
            HostDType::F64 => G::F64,
            HostDType::I8 => G::I8,
            HostDType::I16 => G::I16,
            HostDType::I32 => G::I32,
            HostDType::I64 => G::I64,
            HostDType::U8 => G::U8,
            HostDType::U16 => G::U16,
            HostDType::U32 => G::U32,
            HostDType::U64 => G::U64,
            HostDType::Bool => G::Bool,
        };
        let sizes: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
        Ok(ConstInput::Tensor {
            dtype,
            shape: Shape::from(sizes.as_slice()),
            data: Weights::from(tensor.bytes),
        })
    }

    /// Compile options have no meaning for an artifact.
    pub(super) fn refuse_options(path: &Path, args: &CompileArgs) -> Outcome {
        use clap::Parser;
        #[derive(Parser)]
        struct Default {
            #[command(flatten)]
            args: CompileArgs,
        }
        let default = Default::try_parse_from(["lockstep"]).map_err(|e| Failure::usage(e.to_string()))?;
        if *args == default.args {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{path:?} is an artifact; compile options such as --target, --chips and --dim need a model"
        )))
    }
}
