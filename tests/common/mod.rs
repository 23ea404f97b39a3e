//! Shared by the tests of the root package: the command line as a process, models, goldens.

#![allow(dead_code)]

use lockstep::{HostTensor, files, tensors};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A path below the project's root.
pub fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// The silero-vad model that the repository ships.
pub fn silero() -> PathBuf {
    path("examples/data/silero-vad/silero_vad_openvino_16k.onnx")
}

/// A directory of its own for a test, empty; removed when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// An empty directory; `name` is unique among the tests of a process.
    pub fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("lockstep-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        Scratch(dir)
    }

    /// A file in it.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a file of the test");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the command line in a directory.
pub fn lockstep(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(args)
        .current_dir(dir)
        .output()
        .expect("the command line starts")
}

/// Exit code, stdout and stderr as one text for a snapshot.
pub fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "exit code {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().map_or("none".into(), |c| c.to_string()),
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Runs the command line and compares exit code, stdout and stderr with the snapshot.
#[allow(unused_macros)]
macro_rules! check {
    ($dir:expr, $name:literal, $($arg:expr),+) => {{
        let out = lockstep(&$dir.0, &[$($arg),+]);
        insta::with_settings!({ snapshot_path => "cases/error", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, told(&out));
        });
    }};
}
#[allow(unused_imports)]
pub(crate) use check;

/// A tiny Llama with integer weights, compiled for two `toy` chips.
#[cfg(feature = "compile")]
pub fn llama(weights: lockstep::WeightFormat) -> lockstep::Artifact {
    use lockstep::{Chips, LanguageOptions, Options, Silent};
    let source = files::FileSource::open(&path("tests/data/llm/llama")).expect("a directory");
    let options = LanguageOptions {
        weights: Some(weights),
        ..LanguageOptions::default()
    };
    let model = lockstep::language_model(&source, &options).expect("it imports");
    let (name, graph) = model.expect("it is a decoder").entries.swap_remove(0);
    let graph = lockstep::graph::Verified::new(graph, &()).expect("a good graph");
    let target = files::target("toy").expect("a target");
    let options = Options {
        chips: Chips::Exactly(2),
        ..Options::default()
    };
    let compiled = lockstep::compile_entries(&[(name, &graph)], &target, &options, &mut Silent);
    compiled.expect("it compiles").artifact.expect("an artifact")
}

/// The tiny Llama in a directory of its own, with a tokenizer whose tokens are w0 to w63, or without.
pub fn tiny_llama(dir: &Scratch, tokenizer: bool) -> PathBuf {
    let to = dir.0.join("tiny");
    std::fs::create_dir(&to).expect("a directory");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(path("tests/data/llm/llama").join(file), to.join(file)).expect("a copy");
    }
    if tokenizer {
        let vocab: serde_json::Map<String, serde_json::Value> =
            (0..64).map(|n| (format!("w{n}"), serde_json::json!(n))).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w2" },
        });
        std::fs::write(to.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
        let settings = serde_json::json!({
            "bos_token": { "content": "w0" },
            "chat_template": "{% for m in messages %}\n  {{ bos_token }} w9 {{ m['content'].strip() }}\n{% endfor %}\n{% if add_generation_prompt %}w10{% endif %}",
        });
        std::fs::write(to.join("tokenizer_config.json"), settings.to_string()).expect("a file");
    }
    to
}

/// The arrays of a golden file.
pub fn golden(below: &str) -> Vec<HostTensor> {
    let bytes = files::map_file(&path(below)).expect("the golden file");
    tensors::read_npz(below, bytes.as_ref()).expect("the golden arrays")
}

/// The array of this name.
pub fn array<'a>(all: &'a [HostTensor], name: &str) -> &'a HostTensor {
    let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
    all.iter()
        .find(|t| t.name == name)
        .unwrap_or_else(|| panic!("no array {name} in {names:?}"))
}

/// Largest absolute difference; infinite where one side alone is NaN.
pub fn largest_error(a: &HostTensor, b: &HostTensor) -> f64 {
    assert_eq!(a.shape, b.shape, "shapes of {} and {}", a.name, b.name);
    let pairs = tensors::to_f64(a).into_iter().zip(tensors::to_f64(b));
    pairs
        .map(|(x, y)| if x == y { 0.0 } else { (x - y).abs() })
        .fold(0.0, |m, e| if e.is_nan() { f64::INFINITY } else { m.max(e) })
}
