//! The threads of a session: each walks its list of a plan and waits where the plan says so.
//!
//! A thread publishes how many parts it has done; that count is all that threads share.

use super::ahead::look_ahead;
use super::drive::{Local, Machine, Probe, run_part};
use super::{FloatEnvironment, Kernels};
use crate::plan::Plan;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Spins before a waiting thread parks.
const SPINS: u32 = 4_000;

/// Progress of a thread that is done with its list.
const DONE: u64 = u32::MAX as u64;

/// What a run does.
struct Job {
    kernels: Kernels,
    machine: Machine,
    plan: *const Plan,
}

/// A count on a cache line of its own.
#[repr(align(128))]
struct Progress(AtomicU64);

struct Control {
    job: AtomicPtr<Job>,
    /// Counts runs.
    epoch: AtomicU64,
    stop: AtomicBool,
    /// Parts done by each thread in the current run, which is the upper half.
    progress: Vec<Progress>,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Control {
    /// Waits until `ready`: spins briefly, then parks.
    fn wait(&self, ready: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        let Ok(mut guard) = self.lock.lock() else {
            return;
        };
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            match self.wake.wait(guard) {
                Ok(g) => guard = g,
                Err(_) => break,
            }
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes parked threads after something that they wait for has changed.
    fn notify(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.lock.lock());
            self.wake.notify_all();
        }
    }

    /// States that thread `t` has done `count` parts of run `epoch`.
    fn publish(&self, t: usize, epoch: u64, count: u64) {
        self.progress[t].0.store(epoch << 32 | count, SeqCst);
        self.notify();
    }

    /// Returns when thread `t` has done `count` parts of run `epoch`.
    fn reach(&self, t: usize, epoch: u64, count: u64) {
        self.wait(|| self.progress[t].0.load(SeqCst) >= (epoch << 32 | count));
    }
}

/// The threads of a session; the caller's is thread 0.
pub struct Team {
    control: Arc<Control>,
    workers: Vec<JoinHandle<()>>,
    local: Local,
}

impl Team {
    /// Starts `threads - 1` threads. `local` makes the buffers of each.
    pub fn new(threads: usize, local: impl Fn() -> Local) -> Team {
        let progress = || Progress(AtomicU64::new(0));
        let control = Arc::new(Control {
            job: AtomicPtr::new(std::ptr::null_mut()),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            progress: (0..threads.max(1)).map(|_| progress()).collect(),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .map(|t| {
                let (control, local) = (Arc::clone(&control), local());
                std::thread::spawn(move || work(&control, t, local))
            })
            .collect();
        Team {
            control,
            workers,
            local: local(),
        }
    }

    /// Runs a plan on all threads. Its builder has checked it against the machine's spaces; it states the division of
    /// work over as many threads as the team has.
    /// The probe measures the caller's thread.
    pub fn run(&mut self, kernels: &Kernels, machine: &Machine, plan: &Plan, probe: &mut Option<Probe>) {
        let mut job = Job {
            kernels: *kernels,
            machine: *machine,
            plan,
        };
        let control = &self.control;
        let others = 1..control.progress.len();
        let epoch = control.epoch.load(SeqCst) + 1;
        if !others.is_empty() {
            control.job.store(&mut job, SeqCst);
            control.epoch.store(epoch, SeqCst);
            control.notify();
        }
        share(control, &job, 0, epoch, &mut self.local, probe);
        for t in others {
            control.reach(t, epoch, DONE);
        }
        if let Some(probe) = probe {
            probe.note(None, "wait");
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.control.stop.store(true, SeqCst);
        self.control.notify();
        for worker in self.workers.drain(..) {
            // A worker that panicked has nothing left to wait for.
            let _ = worker.join();
        }
    }
}

/// Thread `t`'s list of run `epoch`.
fn share(control: &Control, job: &Job, t: usize, epoch: u64, local: &mut Local, probe: &mut Option<Probe>) {
    // SAFETY: the plan outlives the run: `Team::run` returns only after all threads are done.
    let plan = unsafe { &*job.plan };
    let alone = control.progress.len() == 1;
    let list = plan.threads.get(t).map_or(&[][..], Vec::as_slice);
    for (done, part) in list.iter().enumerate() {
        let waits = plan.waits.get(part.waits.0 as usize..part.waits.1 as usize);
        for wait in waits.unwrap_or(&[]) {
            control.reach(wait.thread as usize, epoch, wait.count as u64);
            if let Some(probe) = probe {
                probe.note(Some(part.chain), "wait");
            }
        }
        look_ahead(&job.machine, plan, list, done);
        // SAFETY: the plan's builder checked it, and what the part waits for is done.
        unsafe { run_part(&job.kernels, &job.machine, plan, part, local, t, probe) };
        if !alone {
            control.publish(t, epoch, done as u64 + 1);
        }
    }
}

fn work(control: &Control, t: usize, mut local: Local) {
    let _environment = FloatEnvironment::enter();
    let mut seen = 0;
    loop {
        control.wait(|| control.epoch.load(SeqCst) != seen || control.stop.load(SeqCst));
        if control.stop.load(SeqCst) {
            return;
        }
        seen += 1;
        let job = control.job.load(SeqCst);
        // SAFETY: the job lives on the caller's stack until all threads are done.
        share(control, unsafe { &*job }, t, seen, &mut local, &mut None);
        control.publish(t, seen, DONE);
    }
}
