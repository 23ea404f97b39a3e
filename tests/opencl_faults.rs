//! The opencl executor with a driver that fails on purpose: each failure is a clear error. Needs no device.

#![allow(missing_docs)]

mod common;

use common::silero;
use lockstep::files::{self, FileSource};
use lockstep::graph::Verified;
use lockstep::runtime::opencl::driver::{Contents, Device, Driven, Driver, Failure, Range3, Recorded};
use lockstep::runtime::opencl::{KernelStore, Kernels, OpenClSession};
use lockstep::{
    Artifact, Chips, ExecError, HostTensor, ImportOptions, LoadOptions, Options, Session, Silent, TensorView,
};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

/// What goes wrong.
#[derive(Clone, Default)]
struct Plan {
    memory_bytes: Option<u64>,
    buffer_bytes: Option<u64>,
    local_bytes: Option<u64>,
    /// The buffer that there is no room for.
    buffer: Option<usize>,
    /// A text that no kernel may have.
    refused: Option<&'static str>,
    /// Binaries are refused.
    binaries: bool,
    /// Commands are recorded, as so many; at 0 recording fails. Nothing is recorded without it.
    record: Option<usize>,
    /// Runs until the device is lost, those at load included.
    runs: Option<usize>,
}

/// What was asked for.
#[derive(Default)]
struct Seen {
    sizes: Vec<u64>,
    sources: usize,
    from_binary: usize,
    replays: usize,
}

/// A device that computes nothing.
struct Fake {
    device: Device,
    plan: Plan,
    seen: Rc<RefCell<Seen>>,
    launches: usize,
    programs: usize,
    runs: usize,
}

impl Fake {
    fn new(plan: Plan) -> (Box<Fake>, Rc<RefCell<Seen>>) {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let device = Device {
            name: "fake".to_owned(),
            platform: "none".to_owned(),
            driver: "1".to_owned(),
            memory_bytes: plan.memory_bytes.unwrap_or(1 << 30),
            buffer_bytes: plan.buffer_bytes.unwrap_or(1 << 28),
            units: 2,
            group_items: 64,
            local_bytes: plan.local_bytes.unwrap_or(1 << 15),
            width: 4,
            processor: false,
            records: plan.record.is_some(),
            refusal: None,
        };
        let fake = Fake {
            device,
            plan,
            seen: Rc::clone(&seen),
            launches: 0,
            programs: 0,
            runs: 0,
        };
        (Box::new(fake), seen)
    }
}

impl Driver for Fake {
    fn device(&self) -> &Device {
        &self.device
    }

    fn another(&self) -> Driven<Box<dyn Driver>> {
        Ok(Box::new(Fake {
            device: self.device.clone(),
            plan: self.plan.clone(),
            seen: Rc::clone(&self.seen),
            launches: 0,
            programs: self.programs,
            runs: 0,
        }))
    }

    fn buffer(&mut self, contents: Contents<'_>) -> Driven<usize> {
        let needed = match contents {
            Contents::Zeros(n) => n,
            Contents::Copy(bytes, more) => bytes.len() as u64 + more,
            Contents::Held(_, range) => range.len() as u64,
        };
        let mut seen = self.seen.borrow_mut();
        if self.plan.buffer == Some(seen.sizes.len()) {
            return Err(Failure::Memory { needed });
        }
        seen.sizes.push(needed);
        Ok(seen.sizes.len() - 1)
    }

    fn program(&mut self, source: &str, binary: Option<&[u8]>) -> Driven<usize> {
        if binary.is_some() {
            self.seen.borrow_mut().from_binary += 1;
            if self.plan.binaries {
                return Err(Failure::Build {
                    log: "stale".to_owned(),
                });
            }
        } else {
            self.seen.borrow_mut().sources += 1;
            if self.plan.refused.is_some_and(|text| source.contains(text)) {
                let log = "error: line 7:\n   expected ';'\n".to_owned();
                return Err(Failure::Build { log });
            }
        }
        self.programs += 1;
        Ok(self.programs - 1)
    }

    fn binary(&mut self, _: usize) -> Option<Vec<u8>> {
        Some(vec![1, 2, 3])
    }

    fn launch(&mut self, _: usize, _: &str, _: &[usize], _: u64, range: Range3) -> Driven<usize> {
        for (items, group) in range.items.iter().zip(range.group) {
            assert!(group > 0 && *items > 0 && items % group == 0, "{range:?}");
        }
        assert!(
            range.group.iter().product::<usize>() <= self.device.group_items,
            "{range:?}"
        );
        self.launches += 1;
        Ok(self.launches - 1)
    }

    fn run(&mut self, launches: Range<usize>) -> Driven<()> {
        assert!(launches.end <= self.launches);
        self.runs += 1;
        match self.plan.runs {
            Some(n) if self.runs > n => Err(Failure::Lost {
                what: "unplugged".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn record(&mut self, launches: Range<usize>) -> Driven<Option<Recorded>> {
        assert!(launches.end <= self.launches && !launches.is_empty());
        match self.plan.record {
            Some(0) => Err(Failure::Lost {
                what: "no tape".to_owned(),
            }),
            enqueues => Ok(enqueues.map(|enqueues| Recorded { number: 7, enqueues })),
        }
    }

    fn replay(&mut self, recording: usize) -> Driven<()> {
        assert_eq!(recording, 7);
        self.seen.borrow_mut().replays += 1;
        Ok(())
    }

    fn write(&mut self, _: usize, _: usize, _: &[u8]) -> Driven<()> {
        Ok(())
    }

    fn read(&mut self, _: usize, _: usize, _: &mut [u8]) -> Driven<()> {
        Ok(())
    }

    fn finish(&mut self) -> Driven<()> {
        Ok(())
    }
}

/// Keeps one thing.
#[derive(Default)]
struct Kept(RefCell<Option<(String, Vec<u8>)>>);

impl KernelStore for Kept {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let kept = self.0.borrow();
        kept.as_ref().filter(|(k, _)| k == key).map(|(_, bytes)| bytes.clone())
    }
    fn put(&self, key: &str, bytes: &[u8]) {
        *self.0.borrow_mut() = Some((key.to_owned(), bytes.to_vec()));
    }
}

fn artifact() -> Arc<Artifact> {
    static MADE: OnceLock<Arc<Artifact>> = OnceLock::new();
    let make = || {
        let source = FileSource::open(&silero()).expect("the shipped model");
        let graph = lockstep::import(&source, &ImportOptions::default()).expect("it imports");
        let graph = Verified::new(graph, &()).expect("a good graph");
        let options = Options {
            chips: Chips::Exactly(1),
            ..Options::default()
        };
        let target = files::target("toy").expect("a target");
        let made = lockstep::compile(&graph, &target, &options, &mut Silent).expect("it compiles");
        Arc::new(made.artifact.expect("an artifact"))
    };
    Arc::clone(MADE.get_or_init(make))
}

fn load(plan: Plan, store: Option<&dyn KernelStore>) -> Result<(OpenClSession, Rc<RefCell<Seen>>), ExecError> {
    let (driver, seen) = Fake::new(plan);
    let session = Kernels::new(driver).load(artifact(), store, &LoadOptions::default());
    session.map(|s| (s, seen))
}

fn refusal(plan: Plan) -> String {
    load(plan, None).err().expect("a failure").to_string()
}

#[test]
fn too_little_memory_says_what_is_needed_and_there() {
    let (_, seen) = load(Plan::default(), None).expect("it loads");
    let sizes = seen.borrow().sizes.clone();
    let small = Plan {
        memory_bytes: Some(1000),
        ..Plan::default()
    };
    let all: u64 = sizes.iter().sum();
    assert_eq!(
        refusal(small),
        format!("device \"fake\": the artifact needs {all} bytes, the device has 1000")
    );
    let narrow = Plan {
        local_bytes: Some(1),
        ..Plan::default()
    };
    let told = refusal(narrow);
    assert!(
        told.starts_with("device \"fake\": the local memory of a step needs ") && told.ends_with("the device has 1"),
        "{told}"
    );
    for (i, what) in ["chip memory", "scratch", "constants", "parameters", "weights"]
        .iter()
        .enumerate()
    {
        let plan = Plan {
            buffer: Some(i),
            ..Plan::default()
        };
        let want = format!(
            "device \"fake\": {what} needs {} bytes, the device has {}",
            sizes[i],
            1 << 30
        );
        assert_eq!(refusal(plan), want);
    }
}

#[test]
fn weights_go_into_several_buffers_where_one_is_too_small() {
    let (_, seen) = load(Plan::default(), None).expect("it loads");
    let whole = seen.borrow().sizes.clone();
    let most = whole[4] / 3;
    let plan = Plan {
        buffer_bytes: Some(most.max(whole[0]).max(whole[1])),
        ..Plan::default()
    };
    let limit = plan.buffer_bytes.unwrap_or(0);
    let (_, seen) = load(plan, None).expect("it loads");
    let parts = seen.borrow().sizes[4..].to_vec();
    assert!(
        parts.len() > 1 && parts.iter().all(|&n| n <= limit),
        "{parts:?} of {limit}"
    );
    assert!(parts.iter().sum::<u64>() >= whole[4]);
    let plan = Plan {
        buffer_bytes: Some(100),
        ..Plan::default()
    };
    assert!(refusal(plan).contains("the device has 100"), "no step fits");
}

#[test]
fn a_kernel_that_does_not_build_is_named_by_its_chain() {
    let plan = Plan {
        refused: Some("math_tanh(float"),
        ..Plan::default()
    };
    let told = refusal(plan);
    assert!(
        told.starts_with("device \"fake\": the kernel of entry \"main\" chain h0 does not build: "),
        "{told}"
    );
    assert!(told.ends_with("error: line 7: expected ';'"), "{told}");
    assert!(!told.contains('\n'));
    // A kernel that only a later chain needs.
    let (driver, _) = Fake::new(Plan {
        refused: Some("= tanh_f("),
        ..Plan::default()
    });
    let later = Kernels::new(driver).load(artifact(), None, &LoadOptions::default());
    let later = later.err().expect("silero has a tanh").to_string();
    assert!(later.contains("chain h") && !later.contains("chain h0 "), "{later}");
}

#[test]
fn a_lost_device_loses_the_session() {
    let at_load = Plan {
        runs: Some(0),
        ..Plan::default()
    };
    let want = "device \"fake\" is lost, and with it the session: unplugged";
    assert_eq!(refusal(at_load), want);
    // The launches of loading, then one good run.
    let artifact = artifact();
    let mut found = false;
    for runs in 1..400 {
        let plan = Plan {
            runs: Some(runs),
            ..Plan::default()
        };
        let Ok((mut session, _)) = load(plan, None) else {
            continue;
        };
        let wanted = &artifact.entries[0].inputs;
        let zeros: Vec<HostTensor> = wanted
            .iter()
            .map(|w| HostTensor::zeros(&w.name, w.dtype, &w.shape))
            .collect();
        let views: Vec<TensorView<'_>> = zeros.iter().map(HostTensor::view).collect();
        for _ in 0..2 {
            let told = session.run(0, &views).err().map(|e| e.to_string());
            assert_eq!(told.as_deref(), Some(want));
        }
        found = true;
        break;
    }
    assert!(found, "it loads once enough launches are allowed");
}

#[test]
fn launches_are_recorded_where_the_device_can_and_it_is_wanted() {
    let artifact = artifact();
    let wanted = &artifact.entries[0].inputs;
    let zeros = wanted.iter().map(|w| HostTensor::zeros(&w.name, w.dtype, &w.shape));
    let zeros: Vec<HostTensor> = zeros.collect();
    let views: Vec<TensorView<'_>> = zeros.iter().map(HostTensor::view).collect();
    let mut each = 0;
    for (record, want) in [(None, true), (Some(3), false), (Some(3), true)] {
        let plan = Plan {
            record,
            ..Plan::default()
        };
        let (driver, seen) = Fake::new(plan);
        let loaded = Kernels::new(driver)
            .record(want)
            .load(Arc::clone(&artifact), None, &LoadOptions::default());
        let mut session = loaded.expect("it loads");
        session.run(0, &views).expect("it runs");
        let (enqueues, replays) = (session.enqueues(0).unwrap_or(0), seen.borrow().replays);
        match record.filter(|_| want) {
            None => {
                assert!(
                    enqueues > 3 && (each == 0 || enqueues == each) && replays == 0,
                    "{enqueues} {replays}"
                );
                each = enqueues;
            }
            Some(n) => assert_eq!((enqueues, replays), (n, 1)),
        }
    }
    let fails = Plan {
        record: Some(0),
        ..Plan::default()
    };
    assert_eq!(
        refusal(fails),
        "device \"fake\" is lost, and with it the session: no tape"
    );
}

#[test]
fn kept_kernels_are_used_and_stale_ones_built_again() {
    let store = Kept::default();
    let counts = |plan: Plan| {
        let (_, seen) = load(plan, Some(&store)).expect("it loads");
        let seen = seen.borrow();
        (seen.sources, seen.from_binary)
    };
    assert_eq!(counts(Plan::default()), (1, 0));
    assert_eq!(counts(Plan::default()), (0, 1));
    let stale = Plan {
        binaries: true,
        ..Plan::default()
    };
    assert_eq!(counts(stale), (1, 1));
    if let Some((_, bytes)) = store.0.borrow_mut().as_mut() {
        bytes.pop();
    }
    assert_eq!(counts(Plan::default()), (1, 0));
}

#[test]
fn sessions_share_kernels_that_were_built_together() {
    let (driver, seen) = Fake::new(Plan::default());
    let mut kernels = Kernels::new(driver);
    let (one, options) = (artifact(), LoadOptions::default());
    let (first, _) = Fake::new(Plan::default());
    let mut alone = Kernels::new(first);
    alone.load(Arc::clone(&one), None, &options).expect("it loads");
    kernels
        .add(&[Arc::clone(&one), Arc::clone(&one)], &options)
        .expect("it builds");
    assert_eq!((seen.borrow().sources, kernels.count()), (1, alone.count()));
    assert!(seen.borrow().sizes.is_empty(), "building takes no memory");
    for _ in 0..2 {
        kernels.load(Arc::clone(&one), None, &options).expect("it loads");
    }
    assert_eq!((seen.borrow().sources, kernels.count()), (1, alone.count()));
    let (driver, _) = Fake::new(Plan {
        refused: Some("= tanh_f("),
        ..Plan::default()
    });
    let told = Kernels::new(driver).add(&[one], &options).expect_err("a refusal");
    assert!(told.to_string().contains("chain h"), "{told}");
}
