//! A loaded session allocates nothing while it runs.
#![allow(unsafe_code)]

use lockstep_runtime::{CpuSession, HostTensor, LoadOptions, Session};
use lockstep_testkit::asm::{assemble, toy, verify_cases};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn runs_allocate_nothing() {
    for (name, text) in verify_cases() {
        let artifact = Arc::new(assemble(&text, &toy()).expect("valid text"));
        let inputs: Vec<HostTensor> = artifact.entries[0]
            .inputs
            .iter()
            .map(|t| HostTensor::zeros(&t.name, t.dtype, &t.shape))
            .collect();
        let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
        for threads in [1, 2] {
            let options = LoadOptions {
                threads,
                ..LoadOptions::default()
            };
            let mut session = CpuSession::load(artifact.clone(), &options).expect("loads");
            session.run(0, &views).expect("a clean run");
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            for _ in 0..10 {
                session.run(0, &views).expect("a clean run");
            }
            let after = ALLOCATIONS.load(Ordering::SeqCst);
            assert_eq!(after - before, 0, "{name} with {threads} threads");
        }
    }
}
