//! Voice activity along a recording: compiles silero-vad for four `toy` chips, proves the schedule, and feeds it the recording step by step
//! (64 samples of context and 512 new ones), its state carried from run to run.
//!
//! `cargo run --release --example vad [FILE.wav]` (16 kHz, mono, 16 bit)

#![allow(clippy::print_stdout)]

use lockstep::graph::Verified;
use lockstep::{Chips, HostTensor, ImportOptions, LoadOptions, Options, Silent, files, lookup};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const CONTEXT: usize = 64;
const STEP: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let wav = std::env::args()
        .nth(1)
        .map_or(data.join("speech16k.wav"), PathBuf::from);
    let mut reader = hound::WavReader::open(&wav)?;
    let spec = reader.spec();
    if (spec.sample_rate, spec.channels, spec.bits_per_sample) != (16_000, 1, 16) {
        return Err(format!("{wav:?}: expected 16 kHz, mono, 16 bit, found {spec:?}").into());
    }
    let samples = reader.samples::<i16>().map(|s| s.map(|s| f32::from(s) / 32768.0));
    let samples = samples.collect::<Result<Vec<f32>, _>>()?;

    let source = files::FileSource::open(&data.join("silero-vad/silero_vad_openvino_16k.onnx"))?;
    let states = vec![("stateN".to_owned(), "state".to_owned())];
    let graph = lockstep::import(
        &source,
        &ImportOptions {
            states,
            ..ImportOptions::default()
        },
    )?;
    let graph = Verified::new(graph, &())?;
    let target = files::target("toy")?;
    let options = Options {
        chips: Chips::Exactly(4),
        ..Options::default()
    };
    let start = Instant::now();
    let compiled = lockstep::compile(&graph, &target, &options, &mut Silent)?;
    let artifact = Arc::new(compiled.artifact.ok_or("the compile was stopped")?);
    println!(
        "compiled {} for {} chips of {} in {:.2?}",
        artifact.name,
        artifact.n_chips,
        target.name,
        start.elapsed()
    );
    let proof = lockstep::verify(&artifact)?;
    let entry = &proof.entries[0];
    let us = entry.makespan as f64 * 1e6 / target.clock_hz as f64;
    println!(
        "verified: {} cycles a step ({us:.1} us), {} instructions",
        entry.makespan, entry.runs
    );

    let mut session = lookup("cpu")?.load(Arc::clone(&artifact), &LoadOptions::default())?;
    let mut padded = vec![0.0; CONTEXT];
    padded.extend(&samples);
    let (start, mut steps, mut spoken) = (Instant::now(), 0, 0);
    let mut line = String::new();
    for at in (0..samples.len().saturating_sub(STEP - 1)).step_by(STEP) {
        let input = HostTensor::from_f32("input", &[1, (CONTEXT + STEP) as u64], &padded[at..at + CONTEXT + STEP]);
        let outputs = session.run(0, &[input.view()])?;
        let probability = outputs.get("output").map(HostTensor::to_f32).unwrap_or_default();
        let p = probability
            .first()
            .copied()
            .ok_or("the model has no output \"output\"")?;
        line.push([' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'][(p * 9.99) as usize % 10]);
        (steps, spoken) = (steps + 1, spoken + usize::from(p > 0.5));
        if line.len() == 32 {
            println!(
                "{:6.2} s |{line}|",
                (at + STEP) as f64 / 16e3 - 32.0 * STEP as f64 / 16e3
            );
            line.clear();
        }
    }
    if !line.is_empty() {
        println!("{:6.2} s |{line:32}|", (steps - line.len()) as f64 * STEP as f64 / 16e3);
    }
    let time = start.elapsed();
    println!(
        "speech in {spoken} of {steps} steps of 32 ms; {:.1?} of CPU time, {:.1?} a step",
        time,
        time / steps.max(1) as u32
    );
    Ok(())
}
