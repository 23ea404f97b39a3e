//! Imports every model that tests/fetch_models.py fetches; the feature `models` says that they are there.

#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use lockstep_frontend::{ConstInput, ImportOptions, Source, SourceError, import};
use lockstep_graph::Verified;
use std::path::{Path, PathBuf};

/// Files below a directory.
struct Files {
    directory: PathBuf,
    name: String,
    file: Option<String>,
}

impl Source for Files {
    fn name(&self) -> &str {
        &self.name
    }

    fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn list(&self) -> Result<Vec<String>, SourceError> {
        let entries = std::fs::read_dir(&self.directory).map_err(|error| SourceError::Other(error.to_string()))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &str) -> Result<bytes::Bytes, SourceError> {
        std::fs::read(self.directory.join(path))
            .map(Into::into)
            .map_err(|error| SourceError::Other(error.to_string()))
    }
}

/// The outputs' types of a model below models/; options as on the command line: `--dim`, `--shape`, `--const-input` by prefix.
fn outputs(path: &str, flags: &[&str]) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(path);
    let file = full
        .is_file()
        .then(|| full.file_name().unwrap().to_string_lossy().into_owned());
    let directory = if file.is_some() {
        full.parent().unwrap().to_path_buf()
    } else {
        full
    };
    let mut options = ImportOptions::default();
    for flag in flags {
        let (name, value) = flag.split_once('=').unwrap();
        match name.split_once(' ').unwrap() {
            ("dim", name) => drop(options.dims.insert(name.into(), value.parse().unwrap())),
            ("shape", name) => drop(
                options
                    .shapes
                    .insert(name.into(), value.split('x').map(|d| d.parse().unwrap()).collect()),
            ),
            (_, name) => drop(
                options
                    .const_inputs
                    .insert(name.into(), ConstInput::parse(value).unwrap()),
            ),
        }
    }
    let graph = import(
        &Files {
            directory,
            name: path.into(),
            file,
        },
        &options,
    )
    .unwrap_or_else(|error| panic!("{path}: {error}"));
    let graph = Verified::new(graph, &()).unwrap();
    let outputs: Vec<String> = graph
        .outputs
        .iter()
        .map(|output| format!("{} {}", output.name, graph.type_text(output.value)))
        .collect();
    outputs.join(", ")
}

#[test]
fn silero_vad() {
    let rate = ["dim batch=1", "dim sequence=576", "const sr=16000"];
    assert_eq!(
        outputs("silero-vad/silero_vad_openvino_16k.onnx", &[]),
        "output f32[1,1], stateN f32[2,1,128]"
    );
    assert_eq!(
        outputs("silero-vad/silero_vad_16k_sequence.onnx", &["dim sequence_length=4"]),
        "speech_probs f32[4], hn f32[1,1,128], cn f32[1,1,128]"
    );
    assert_eq!(
        outputs("silero-vad/silero_vad_op18_ifless.onnx", &rate),
        "output f32[1,1], stateN f32[2,1,128]"
    );
    assert_eq!(
        outputs("silero-vad/silero_vad_16k_op15.onnx", &rate),
        "output f32[1,1], stateN f32[2,1,128]"
    );
    assert_eq!(
        outputs("silero-vad/silero_vad_half.onnx", &rate[..2]),
        "output f32[1,1], stateN f32[2,1,128]"
    );
    let nested = ["shape input=1x576", "shape state=2x1x128", "const sr=16000"];
    assert_eq!(
        outputs("silero-vad/silero_vad.onnx", &nested),
        "output f32[1,1], stateN f32[2,1,128]"
    );
}

#[test]
fn ppocr() {
    let of = |name: &str, shape: &str| outputs(&format!("ppocr-v4/{name}"), &[&format!("shape x={shape}")]);
    assert_eq!(
        of("ch_ppocr_mobile_v2.0_cls_infer.onnx", "2x3x48x192"),
        "save_infer_model/scale_0.tmp_1 f32[2,2]"
    );
    assert_eq!(
        of("ch_PP-OCRv4_rec_infer.onnx", "1x3x48x320"),
        "softmax_11.tmp_0 f32[1,40,6625]"
    );
    assert_eq!(
        of("ch_PP-OCRv4_det_infer.onnx", "1x3x224x224"),
        "sigmoid_0.tmp_0 f32[1,1,224,224]"
    );
}

#[test]
fn minilm() {
    let dims = ["dim batch=1", "dim sequence=128"];
    assert_eq!(outputs("minilm", &dims), "last_hidden_state f32[1,128,384]");
    assert_eq!(
        outputs("minilm-int8/model.onnx", &dims),
        "last_hidden_state f32[1,128,384]"
    );
}

#[test]
fn openwakeword() {
    assert_eq!(
        outputs("openwakeword/melspectrogram.onnx", &["shape input=1x1760"]),
        "output f32[1,1,8,32]"
    );
    assert_eq!(
        outputs("openwakeword/embedding_model.onnx", &["shape input_1=1x76x32x1"]),
        "conv2d_19 f32[1,1,1,96]"
    );
    assert_eq!(outputs("openwakeword/alexa_v0.1.onnx", &[]), "13 f32[1,1]");
}
