//! `lockstep view` and the data flow behind it, on the shipped model. tests/view/ drives the page in a browser.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, lockstep, silero};
use lockstep::files;
use lockstep::isa::run::Src;
use lockstep::isa::timing::result_offset;
use lockstep::isa::{Artifact, Opcode, disasm};
use lockstep_view::flow::{Flow, Via};
use serde_json::Value;

/// Compiles silero-vad for four chips of toy into vad.lks of this directory.
fn compile(dir: &Scratch) -> Artifact {
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let told = lockstep(
        &dir.0,
        &["compile", model, "--target", "toy", "--chips", "4", "-o", "vad.lks"],
    );
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    files::read_artifact(&dir.0.join("vad.lks")).expect("the artifact")
}

#[test]
fn every_operand_of_silero_has_a_producer() {
    let dir = Scratch::new("view-flow");
    let a = compile(&dir);
    let (flow, t) = (Flow::of(&a, 0), &a.target);
    let runs: Vec<_> = disasm::lines(&a, 0).collect();
    assert_eq!(runs.len(), flow.n_runs() as usize);
    let (mut rows, mut links) = (0, 0);
    for (number, line) in runs.iter().enumerate() {
        let sources = flow.sources(number as u32);
        let run = line.run;
        let load = matches!(run.op, Opcode::LoadRow | Opcode::LoadCol);
        let count = |via: Via| sources.iter().filter(|s| s.via == via).count();
        let taken = |is: fn(&Src) -> bool| [run.a, run.b, run.c].iter().filter(|o| is(&o.src)).count();
        let streams = taken(|s| matches!(s, Src::Stream(_)));
        let wanted = if load { run.belts as usize } else { streams };
        assert_eq!(count(Via::Stream), wanted, "{}", line.text(t));
        assert_eq!(count(Via::Alu), taken(|s| matches!(s, Src::Alu(_))), "{}", line.text(t));
        assert_eq!(
            count(Via::Link),
            usize::from(run.op == Opcode::Recv),
            "{}",
            line.text(t)
        );
        // Every product has a tile; what computed rows hold was written before it is read.
        assert!(run.op != Opcode::Mul || count(Via::Tile) > 0, "{}", line.text(t));
        for s in sources.iter().filter(|s| s.via == Via::Row) {
            let writer = &runs[s.run as usize];
            assert_eq!((writer.run.op, writer.run.queue), (Opcode::Write, run.queue));
            assert!(writer.cycle + t.latency_of(writer.run) as u64 <= line.cycle + run.last_offset() as u64);
        }
        (rows, links) = (rows + count(Via::Row), links + count(Via::Link));
        if let (Some(s), Src::Stream(_), 0, false) = (sources.first(), run.a.src, run.a.delay, load) {
            let from = &runs[s.run as usize];
            let way = t.queue_position(from.run.queue).abs_diff(t.queue_position(run.queue)) as u64;
            let arrives = |n| from.cycle + result_offset(t, from.run, n) as u64 + way;
            assert!(
                (0..from.run.results()).any(|n| arrives(n) == line.cycle),
                "{}",
                line.text(t)
            );
        }
    }
    assert!(rows > 100 && links > 10, "{rows} rows, {links} links");
}

#[test]
fn the_page_is_written_and_the_same_each_time() {
    let dir = Scratch::new("view-page");
    let a = compile(&dir);
    let told = lockstep(&dir.0, &["view", "vad.lks", "--json"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let said: Value = serde_json::from_slice(&told.stdout).expect("json");
    let page = std::fs::read(dir.0.join("vad.html")).expect("the page, in the current directory");
    assert_eq!(said["bytes"], page.len());
    assert_eq!(said["view"], "vad.html");
    assert_eq!(
        said["artifacts"][0]["entries"][0]["makespan_cycles"],
        a.entries[0].makespan
    );
    assert_eq!(said["artifacts"][0]["entries"][0]["runs"], disasm::lines(&a, 0).count());
    let again = lockstep(&dir.0, &["view", "vad.lks", "-o", "again.html"]);
    assert!(again.status.success());
    assert!(page == std::fs::read(dir.0.join("again.html")).expect("the second page"));
    let wrong = lockstep(&dir.0, &["view", "none.lks"]);
    assert_eq!(wrong.status.code(), Some(2));
}
