//! Traces against the artifact: tracks, slices, durations, flows and counters, read back with a reader of the wire format that shares
//! nothing with the writer. `tests/trace_schema.py` does the same with the published schema.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, silero, told};
use lockstep::isa::{Queue, disasm};
use lockstep::{Artifact, files};
use std::collections::{BTreeMap, BTreeSet};

/// A field of a message: its number, and a number or bytes.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in order.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&first, rest) = bytes.split_first().expect("a varint");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first < 0x80 {
                break;
            }
        }
        value
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => {
                let (word, rest) = bytes.split_at(8);
                bytes = rest;
                Field::Number(u64::from_le_bytes(word.try_into().expect("8 bytes")))
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (part, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(part)
            }
            wire => panic!("wire type {wire}"),
        };
        out.push((key >> 3, field));
    }
    out
}

/// Numbers and byte strings of a message by field number.
#[derive(Default)]
struct Message<'a> {
    numbers: BTreeMap<u64, Vec<u64>>,
    parts: BTreeMap<u64, Vec<&'a [u8]>>,
}

impl<'a> Message<'a> {
    fn new(bytes: &'a [u8]) -> Message<'a> {
        let mut out = Message::default();
        for (number, field) in fields(bytes) {
            match field {
                Field::Number(n) => out.numbers.entry(number).or_default().push(n),
                Field::Bytes(b) => out.parts.entry(number).or_default().push(b),
            }
        }
        out
    }

    fn number(&self, field: u64) -> Option<u64> {
        self.numbers.get(&field)?.first().copied()
    }

    fn all(&self, field: u64) -> &[u64] {
        self.numbers.get(&field).map_or(&[], Vec::as_slice)
    }

    fn messages(&self, field: u64) -> Vec<Message<'a>> {
        let parts = self.parts.get(&field).map_or(&[][..], Vec::as_slice);
        parts.iter().map(|b| Message::new(b)).collect()
    }

    fn message(&self, field: u64) -> Option<Message<'a>> {
        self.messages(field).into_iter().next()
    }

    fn text(&self, field: u64) -> Option<String> {
        let bytes = self.parts.get(&field)?.first()?;
        Some(String::from_utf8(bytes.to_vec()).expect("utf-8"))
    }
}

/// A slice: name, begin and end in nanoseconds, first and last cycle, operation.
type SliceSeen = (String, u64, u64, u64, u64, String);

/// What a trace says.
#[derive(Default)]
struct Seen {
    /// Process names.
    chips: Vec<String>,
    /// By track name.
    slices: BTreeMap<String, Vec<SliceSeen>>,
    /// Where flows leave and arrive: track name and begin.
    departs: BTreeMap<u64, (String, u64)>,
    arrives: BTreeMap<u64, (String, u64)>,
    /// Samples by chip and name of the counter.
    samples: BTreeMap<(String, String), Vec<(u64, f64)>>,
}

fn read(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut interned: [BTreeMap<u64, String>; 4] = Default::default();
    let mut tracks: BTreeMap<u64, (String, String)> = BTreeMap::new();
    for packet in Message::new(bytes).messages(1) {
        if let Some(data) = packet.message(12) {
            for (known, field) in interned.iter_mut().zip([1, 2, 3, 29]) {
                for one in data.messages(field) {
                    known.insert(one.number(1).expect("iid"), one.text(2).expect("text"));
                }
            }
        }
        if let Some(track) = packet.message(60) {
            let uuid = track.number(1).expect("uuid");
            if let Some(process) = track.message(3) {
                let name = process.text(6).expect("name");
                seen.chips.push(name.clone());
                tracks.insert(uuid, (name, String::new()));
            } else {
                let chip = tracks[&track.number(5).expect("parent")].0.clone();
                let name = track.text(2).expect("name");
                assert!(
                    !tracks.values().any(|t| *t == (chip.clone(), name.clone())),
                    "two tracks {name}"
                );
                tracks.insert(uuid, (chip, name));
            }
        }
        let Some(event) = packet.message(11) else { continue };
        let at = packet.number(8).expect("timestamp");
        let (chip, track) = tracks[&event.number(11).expect("track")].clone();
        match event.number(9) {
            Some(1) => {
                let args: BTreeMap<&str, Message<'_>> = event
                    .messages(4)
                    .into_iter()
                    .map(|a| (interned[2][&a.number(1).expect("key")].as_str(), a))
                    .collect();
                let cycle = |key: &str| args[key].number(3).expect("a number");
                let op = args["op"].number(17).expect("interned");
                let name = interned[1][&event.number(10).expect("name")].clone();
                for id in event.all(47) {
                    assert!(seen.departs.insert(*id, (track.clone(), at)).is_none());
                }
                for id in event.all(48) {
                    assert!(seen.arrives.insert(*id, (track.clone(), at)).is_none());
                }
                seen.slices.entry(track).or_default().push((
                    name,
                    at,
                    u64::MAX,
                    cycle("cycle"),
                    cycle("end_cycle"),
                    interned[3][&op].clone(),
                ));
            }
            Some(2) => {
                let open = seen.slices.get_mut(&track).and_then(|s| s.last_mut());
                open.expect("an open slice").2 = at;
            }
            Some(4) => {
                let value = match (event.number(30), event.number(44)) {
                    (Some(whole), _) => whole as f64,
                    (None, Some(bits)) => f64::from_bits(bits),
                    (None, None) => panic!("no value"),
                };
                seen.samples.entry((chip, track)).or_default().push((at, value));
            }
            other => panic!("event of type {other:?}"),
        }
    }
    seen
}

fn nanoseconds(artifact: &Artifact, cycle: u64) -> u64 {
    (u128::from(cycle) * 1_000_000_000 / u128::from(artifact.target.clock_hz)) as u64
}

/// The artifact of silero on 4 chips of toy, and its directory.
fn compiled(name: &str) -> (Scratch, Artifact) {
    let dir = Scratch::new(name);
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let args = ["compile", model, "--target", "toy", "--chips", "4", "-o", "vad.lks"];
    let out = lockstep(&dir.0, &args);
    assert!(out.status.success(), "{}", told(&out));
    let artifact = files::read_artifact(&dir.0.join("vad.lks")).expect("the artifact");
    (dir, artifact)
}

#[test]
fn a_perfetto_trace_says_what_the_artifact_says() {
    let (dir, artifact) = compiled("trace");
    let out = lockstep(&dir.0, &["trace", "vad.lks"]);
    assert!(out.status.success(), "{}", told(&out));
    let bytes = std::fs::read(dir.0.join("vad.pftrace")).expect("the trace");
    let seen = read(&bytes);

    assert_eq!(seen.chips, ["c0", "c1", "c2", "c3"]);
    let mut queues = BTreeSet::new();
    let (mut runs, mut receives) = (0, Vec::new());
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for line in disasm::lines(&artifact, 0) {
        queues.insert((line.chip, line.run.queue));
        runs += 1;
        let queue = disasm::queue_name(&artifact.target, line.chip, line.run.queue);
        // A track is named after its queue, and what shares the name is told apart by a word.
        let track = [" load", " mul", " send", " recv", ""]
            .iter()
            .map(|word| queue.clone() + word)
            .filter(|name| seen.slices.contains_key(name))
            .find(|name| match line.run.queue {
                Queue::MxmLoad(..) => name.ends_with("load"),
                Queue::MxmMul(..) => name.ends_with("mul"),
                Queue::Send(_) => name.ends_with("send"),
                Queue::Recv(_) => name.ends_with("recv"),
                _ => *name == queue,
            })
            .unwrap_or_else(|| panic!("no track of {queue}"));
        let (track, slices) = seen.slices.get_key_value(&track).expect("the track");
        let next = taken.entry(track).or_default();
        let (name, begin, end, cycle, end_cycle, op) = &slices[*next];
        *next += 1;
        let text = disasm::disasm_run(line.run);
        let mnemonic = text.split(' ').next().unwrap_or_default();
        assert_eq!(*name, format!("{mnemonic} h{}", line.chain));
        assert_eq!(*op, line.origin);
        let occupancy = artifact.target.occupancy(line.run.op, line.run.dtype);
        let last = line.cycle + u64::from(line.run.last_offset()) + u64::from(occupancy);
        assert_eq!((*cycle, *end_cycle), (line.cycle, last));
        let times = (nanoseconds(&artifact, line.cycle), nanoseconds(&artifact, last));
        assert_eq!((*begin, *end), times);
        if let Queue::Recv(_) = line.run.queue {
            receives.push((track.clone(), *begin));
        }
    }
    assert_eq!(seen.slices.len(), queues.len());
    assert_eq!(seen.slices.values().map(Vec::len).sum::<usize>(), runs);

    // Every receive ends a flow that a send began one latency before.
    let latency = u64::from(artifact.target.c2c.latency);
    let arrived: Vec<(String, u64)> = seen.arrives.values().cloned().collect();
    assert!(!receives.is_empty());
    assert_eq!(arrived, receives);
    assert_eq!(
        seen.departs.keys().collect::<Vec<_>>(),
        seen.arrives.keys().collect::<Vec<_>>()
    );
    for (id, (track, begin)) in &seen.departs {
        assert!(track.ends_with(" send"), "{track}");
        let (to, arrival) = &seen.arrives[id];
        assert!(to.ends_with(" recv") && to[..2] != track[..2], "{track} {to}");
        assert!(
            arrival.abs_diff(begin + nanoseconds(&artifact, latency)) <= 1,
            "flow {id}"
        );
    }
}

#[test]
fn counters_agree_with_the_report_and_fit_the_chip() {
    let (dir, artifact) = compiled("trace-counters");
    let out = lockstep(&dir.0, &["trace", "vad.lks", "-o", "t.perfetto-trace"]);
    assert!(out.status.success(), "{}", told(&out));
    let seen = read(&std::fs::read(dir.0.join("t.perfetto-trace")).expect("the trace"));
    let report: serde_json::Value = serde_json::from_str(&artifact.report).expect("json");
    let shares = report["entries"][0]["utilisation"].as_object().expect("shares");
    assert_eq!(shares.len(), 6);
    for (unit, share) in shares {
        let name = format!("{unit} utilisation");
        let mut mean = 0.0;
        for chip in &seen.chips {
            let samples = &seen.samples[&(chip.clone(), name.clone())];
            assert!(
                samples.iter().all(|s| (0.0..=100.0).contains(&s.1)),
                "{unit}: {samples:?}"
            );
            // Windows are whole cycles and times are rounded, so that areas are too.
            let area: f64 = samples.windows(2).map(|w| (w[1].0 - w[0].0) as f64 * w[0].1).sum();
            mean += area / (samples.last().expect("an end").0 as f64 * seen.chips.len() as f64);
        }
        let share = 100.0 * share.as_f64().expect("a number");
        assert!(
            (mean - share).abs() <= 0.02 * share.max(0.5),
            "{unit}: {mean} % of the time, {share} % in the report"
        );
    }
    let entry = &report["entries"][0]["sram_bytes_per_chip"];
    for (c, chip) in seen.chips.iter().enumerate() {
        let samples = &seen.samples[&(chip.clone(), "SRAM in use".to_owned())];
        let most = samples.iter().map(|s| s.1).fold(0.0, f64::max);
        let text = entry[c]["text"].as_f64().expect("bytes");
        assert!(most > samples[0].1 && samples[0].1 > text, "{samples:?}");
        assert!(most <= artifact.target.sram_bytes() as f64, "{chip}: {most}");
    }
}

#[test]
fn a_chrome_trace_says_the_same() {
    let (dir, artifact) = compiled("trace-chrome");
    let out = lockstep(&dir.0, &["trace", "vad.lks", "-o", "vad.json"]);
    assert!(out.status.success(), "{}", told(&out));
    let text = std::fs::read(dir.0.join("vad.json")).expect("the trace");
    let trace: serde_json::Value = serde_json::from_slice(&text).expect("json");
    let events = trace["traceEvents"].as_array().expect("events");
    let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
    let slices = of("X");
    let lines: Vec<_> = disasm::lines(&artifact, 0).collect();
    assert_eq!(slices.len(), lines.len());
    let us = |cycle: u64| cycle as f64 * 1e6 / artifact.target.clock_hz as f64;
    for (slice, line) in slices.iter().zip(&lines) {
        assert_eq!(slice["pid"], line.chip + 1);
        assert_eq!(slice["args"]["instruction"], disasm::disasm_run(line.run));
        assert_eq!(slice["args"]["op"], line.origin);
        let ts = slice["ts"].as_f64().expect("a time");
        // The reader of JSON may be off by the last bit.
        assert!((ts - us(line.cycle)).abs() <= 1e-14 * ts, "{slice}");
        let occupancy = u64::from(artifact.target.occupancy(line.run.op, line.run.dtype));
        let cycles = u64::from(line.run.last_offset()) + occupancy;
        let dur = slice["dur"].as_f64().expect("a duration");
        assert!((dur - us(cycles)).abs() < 1e-6 * us(cycles), "{slice}");
    }
    let names = of("M").iter().filter(|e| e["name"] == "thread_name").count();
    let queues: BTreeSet<_> = lines.iter().map(|l| (l.chip, l.run.queue)).collect();
    assert_eq!(names, queues.len());
    let receives = lines.iter().filter(|l| matches!(l.run.queue, Queue::Recv(_))).count();
    assert_eq!((of("s").len(), of("f").len()), (receives, receives));
    assert!(of("C").len() > 1000);
}

#[test]
fn wrong_uses() {
    let (dir, _) = compiled("trace-wrong");
    check!(dir, "trace_of_unknown_format", "trace", "vad.lks", "-o", "trace.txt");
    check!(
        dir,
        "trace_of_an_unknown_entry",
        "trace",
        "vad.lks",
        "--entry",
        "decode"
    );
}
