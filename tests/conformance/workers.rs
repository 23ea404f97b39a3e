//! Processes that run tests, each restarted when it dies or takes too long.

use crate::outcome::{Outcome, Record};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Tests whose kernels are built together: a driver takes longer for a program than for ten kernels in it.
const BLOCK: usize = 36;

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
        self.answer(limit)
    }

    fn answer(&mut self, limit: Duration) -> Result<String, &'static str> {
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

/// Runs the tests on `jobs` processes, with `opencl` also on a device; results in the order of the tests.
pub fn run(
    tests: &[(String, String)],
    from: &str,
    opencl: bool,
    jobs: usize,
    limit: Duration,
) -> Result<Vec<Record>, String> {
    let next = AtomicUsize::new(0);
    let block = if opencl { BLOCK } else { 1 };
    let died = |stage: &str| {
        let message = match stage {
            "time" => format!("over {} s", limit.as_secs()),
            _ => "the process died".to_string(),
        };
        Outcome::failed(stage, message)
    };
    let parse = |line: String| Record::parse(&line).ok_or_else(|| format!("bad answer {line}"));
    let work = || -> Result<Vec<(usize, Record)>, String> {
        let mut done: Vec<(usize, Record)> = Vec::new();
        let mut worker = Worker::start(opencl)?;
        loop {
            let first = next.fetch_add(block, Ordering::Relaxed);
            let Some(own) = tests
                .get(first..tests.len().min(first + block))
                .filter(|b| !b.is_empty())
            else {
                worker.stop();
                return Ok(done);
            };
            // Indices of those that passed so far, which the worker keeps for the device.
            let mut kept: Vec<usize> = Vec::new();
            for (at, (suite, name)) in (first..).zip(own) {
                let record = match worker.ask(&format!("{from} {suite} {name}"), limit) {
                    Ok(line) => parse(line)?,
                    Err(stage) => {
                        worker.stop();
                        worker = Worker::start(opencl)?;
                        for i in kept.drain(..) {
                            done[i].1.opencl = Some(died("crash"));
                        }
                        let mut record = Record {
                            name: name.clone(),
                            ..Record::default()
                        };
                        record.all(&died(stage));
                        record
                    }
                };
                if opencl && record.outcome().passed() {
                    kept.push(done.len());
                }
                done.push((at, record));
            }
            // The first answer comes after all kernels have been built.
            let mut answer = match kept.is_empty() {
                true => continue,
                false => worker.ask("opencl", limit * 5),
            };
            for (n, &i) in kept.iter().enumerate() {
                match answer {
                    Ok(line) => done[i].1 = parse(line)?,
                    Err(stage) => {
                        for &i in &kept[n..] {
                            done[i].1.opencl = Some(died(stage));
                        }
                        worker.stop();
                        worker = Worker::start(opencl)?;
                        break;
                    }
                }
                if n + 1 == kept.len() {
                    break;
                }
                answer = worker.answer(limit);
            }
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
