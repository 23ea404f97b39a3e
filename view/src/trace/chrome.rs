//! Writes a trace as Chrome's trace events: one JSON object per line, times in microseconds.

use super::{Clock, Sink, Slice};
use serde_json::{Value, json};
use std::io::{self, Write};

/// Writes events.
pub(super) struct Writer<'a> {
    out: &'a mut dyn Write,
    clock: Clock,
    begun: bool,
    pid: u32,
    tid: u32,
    counter: (String, String),
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, clock: Clock) -> io::Result<Writer<'a>> {
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
        Ok(Writer {
            out,
            clock,
            begun: false,
            pid: 0,
            tid: 0,
            counter: Default::default(),
        })
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        if self.begun {
            self.out.write_all(b",\n")?;
        }
        self.begun = true;
        serde_json::to_writer(&mut *self.out, event)?;
        Ok(())
    }

    fn metadata(&mut self, name: &str, args: &Value) -> io::Result<()> {
        let (pid, tid) = (self.pid, self.tid);
        self.event(&json!({ "ph": "M", "name": name, "pid": pid, "tid": tid, "args": args }))
    }
}

impl Sink for Writer<'_> {
    fn chip(&mut self, chip: u16, name: &str, labels: &[String]) -> io::Result<()> {
        (self.pid, self.tid) = (u32::from(chip) + 1, 0);
        self.metadata("process_name", &json!({ "name": name }))?;
        self.metadata("process_labels", &json!({ "labels": labels.join("; ") }))?;
        self.metadata("process_sort_index", &json!({ "sort_index": chip }))
    }

    fn track(&mut self, name: &str) -> io::Result<()> {
        self.tid += 1;
        self.metadata("thread_name", &json!({ "name": name }))?;
        let index = self.tid;
        self.metadata("thread_sort_index", &json!({ "sort_index": index }))
    }

    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()> {
        let (pid, tid) = (self.pid, self.tid);
        let ts = self.clock.microseconds(slice.start);
        let a = &slice.args;
        let mut args = json!({
            "instruction": a.instruction, "chain": format!("h{}", a.chain), "cycle": slice.start, "end_cycle": slice.end,
            "issues": a.issues, "op": a.op, "nodes": a.nodes,
        });
        if let Some((address, value)) = &a.memory {
            args["address"] = json!(address);
            args["value"] = json!(format!("v{value}"));
        }
        self.event(&json!({
            "ph": "X", "name": slice.name, "cat": slice.unit, "pid": pid, "tid": tid, "ts": ts,
            "dur": self.clock.microseconds(slice.end) - ts, "args": args,
        }))?;
        let flow = |ph: &str, id: u64| {
            json!({
                "ph": ph, "id": id, "name": "link", "cat": "c2c", "pid": pid, "tid": tid, "ts": ts, "bp": "e",
            })
        };
        for &id in slice.departs {
            self.event(&flow("s", id))?;
        }
        slice.arrives.map_or(Ok(()), |id| self.event(&flow("f", id)))
    }

    fn counter(&mut self, name: &str, unit: &str) -> io::Result<()> {
        self.counter = (name.to_owned(), unit.to_owned());
        Ok(())
    }

    fn sample(&mut self, cycle: u64, value: f64) -> io::Result<()> {
        let (name, unit) = &self.counter;
        let event = json!({
            "ph": "C", "name": name, "pid": self.pid, "ts": self.clock.microseconds(cycle), "args": { unit.as_str(): value },
        });
        self.event(&event)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()
    }
}
