//! The whole line in one page: build a graph, compile it for two chips, prove the schedule, run it on both executors, compare their bits.
//!
//! `cargo run --release --example mlp`

#![allow(clippy::print_stdout)]

use lockstep::graph::op::{Binary, Unary};
use lockstep::graph::{DType, GraphBuilder, Shape, ValueId, Verified, Weights};
use lockstep::{Chips, LoadOptions, Options, Silent, files, lookup, tensors};
use std::error::Error;
use std::sync::Arc;

/// A weight of small pseudo-random numbers.
fn weight(b: &mut GraphBuilder, name: &str, shape: [usize; 2]) -> Result<ValueId, Box<dyn Error>> {
    let sizes = shape.map(|n| n as u64);
    let tensor = tensors::random(name, lockstep::isa::artifact::HostDType::F32, &sizes, 1);
    let shape = Shape::from(&shape[..]);
    Ok(b.constant(name, DType::F32, shape, Weights::from(tensor.bytes))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut b = GraphBuilder::new("mlp", "main");
    let x = b.input("x", DType::F32, &[4, 64][..])?;
    let up = weight(&mut b, "up", [64, 128])?;
    let h = b.matmul(x, up)?;
    let h = b.unary(Unary::Tanh, h)?;
    let down = weight(&mut b, "down", [128, 64])?;
    let h = b.matmul(h, down)?;
    let y = b.binary(Binary::Add, h, x)?;
    b.output("y", y);
    let graph = Verified::new(b.finish(), &())?;

    let target = files::target("toy")?;
    let options = Options {
        chips: Chips::Exactly(2),
        ..Options::default()
    };
    let compiled = lockstep::compile(&graph, &target, &options, &mut Silent)?;
    let artifact = Arc::new(compiled.artifact.ok_or("the compile was stopped")?);
    let proof = lockstep::verify(&artifact)?;
    println!(
        "{} runs on {} chips, {} cycles",
        proof.entries[0].runs, artifact.n_chips, proof.entries[0].makespan
    );

    let input = tensors::random("x", lockstep::isa::artifact::HostDType::F32, &[4, 64], 2);
    let mut results = Vec::new();
    for name in ["sim", "cpu"] {
        let mut session = lookup(name)?.load(Arc::clone(&artifact), &LoadOptions::default())?;
        let outputs = session.run(0, &[input.view()])?;
        let y = outputs.get("y").ok_or("there is no output y")?;
        println!("{name}: y[0..4] = {:?}, cycles {:?}", &y.to_f32()[..4], outputs.cycles);
        if let Some(cycles) = outputs.cycles {
            assert_eq!(
                cycles, proof.entries[0].makespan,
                "the simulator counts what the schedule says"
            );
        }
        results.push(y.bytes.clone());
    }
    assert_eq!(results[0], results[1], "both executors compute the same bits");
    println!("the same bits on both");
    Ok(())
}
