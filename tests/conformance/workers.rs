//! Processes that run tests, each restarted when it dies or takes too long.

use crate::outcome::{Outcome, Record};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(opencl: bool) -> Result<Worker, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(program)
            .arg("--worker")
            .args(opencl.then_some("--opencl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start a worker: {e}"))?;
        let requests = child.stdin.take().ok_or("no stdin")?;
        let out = child.stdout.take().ok_or("no stdout")?;
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker {
            child,
            requests,
            answers,
        })
    }

    fn ask(&mut self, request: &str, limit: Duration) -> Result<String, &'static str> {
        writeln!(self.requests, "{request}").map_err(|_| "crash")?;
        self.answers.recv_timeout(limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => "time",
            RecvTimeoutError::Disconnected => "crash",
        })
    }

    fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the tests on `jobs` processes; results in the order of the tests.
pub fn run(
    tests: &[(String, String)],
    from: &str,
    opencl: bool,
    jobs: usize,
    limit: Duration,
) -> Result<Vec<Record>, String> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Record)>, String> {
        let mut done = Vec::new();
        let mut worker = Worker::start(opencl)?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((suite, name)) = tests.get(at) else {
                worker.stop();
                return Ok(done);
            };
            let record = match worker.ask(&format!("{from} {suite} {name}"), limit) {
                Ok(line) => Record::parse(&line).ok_or_else(|| format!("bad answer {line}"))?,
                Err(stage) => {
                    worker.stop();
                    worker = Worker::start(opencl)?;
                    let mut record = Record {
                        name: name.clone(),
                        ..Record::default()
                    };
                    let message = match stage {
                        "time" => format!("over {} s", limit.as_secs()),
                        _ => "the process died".to_string(),
                    };
                    record.all(&Outcome::failed(stage, message));
                    record
                }
            };
            done.push((at, record));
        }
    };
    let mut all = std::thread::scope(|scope| -> Result<Vec<(usize, Record)>, String> {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a thread died".to_string())??);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, r)| r).collect())
}
