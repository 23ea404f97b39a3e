//! The threads of a session: they walk the chains of a plan together and meet where the plan says so.

use super::drive::{Local, Machine, run_chain};
use super::{FloatEnvironment, Kernels};
use crate::cpu::plan::Plan;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Spins before a waiting thread parks.
const SPINS: u32 = 4_000;

/// What a run does.
struct Job {
    kernels: Kernels,
    machine: Machine,
    plan: *const Plan,
}

struct Control {
    threads: usize,
    job: AtomicPtr<Job>,
    /// Counts runs.
    epoch: AtomicU64,
    stop: AtomicBool,
    arrived: AtomicUsize,
    /// Counts meetings.
    phase: AtomicU64,
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

    /// Returns when all threads have come here.
    fn meet(&self) {
        let phase = self.phase.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.threads {
            self.arrived.store(0, SeqCst);
            self.phase.store(phase + 1, SeqCst);
            self.notify();
        } else {
            self.wait(|| self.phase.load(SeqCst) != phase);
        }
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
        let control = Arc::new(Control {
            threads: threads.max(1),
            job: AtomicPtr::new(std::ptr::null_mut()),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            phase: AtomicU64::new(0),
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
    pub fn run(&mut self, kernels: &Kernels, machine: &Machine, plan: &Plan) {
        let mut job = Job {
            kernels: *kernels,
            machine: *machine,
            plan,
        };
        let control = &self.control;
        if control.threads > 1 {
            control.job.store(&mut job, SeqCst);
            control.epoch.fetch_add(1, SeqCst);
            control.notify();
        }
        share(control, &job, 0, &mut self.local);
        if control.threads > 1 {
            control.meet();
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

/// Thread `t`'s share of a run.
fn share(control: &Control, job: &Job, t: usize, local: &mut Local) {
    // SAFETY: the plan outlives the run: `Team::run` returns only after all threads have met.
    let plan = unsafe { &*job.plan };
    let meet = || control.meet();
    for chain in &plan.chains {
        let part = (t, control.threads);
        // SAFETY: the plan's builder checked it, and every thread of the team walks the same chains.
        unsafe { run_chain(&job.kernels, &job.machine, plan, chain, local, part, &meet) };
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
        // SAFETY: the job lives on the caller's stack until all threads have met at the end of the run.
        share(control, unsafe { &*job }, t, &mut local);
        control.meet();
    }
}
