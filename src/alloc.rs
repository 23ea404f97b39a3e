//! An allocator that counts while it is asked to: `bench` shows that a run allocates nothing. Counting all the time would make
//! threads that allocate wait for each other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The system's allocator with a count of allocations and reallocations.
pub struct Counting;

fn note() {
    if COUNTING.load(Ordering::Relaxed) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often all threads allocate or reallocate while `work` goes on.
pub fn count<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.load(Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    let result = work();
    COUNTING.store(false, Ordering::SeqCst);
    (result, COUNT.load(Ordering::SeqCst) - before)
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator as it came, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of this method, which is that of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_while_work_goes_on() {
        let (kept, n) = count(|| std::hint::black_box(vec![1u8; 100]));
        assert_eq!(kept.len(), 100);
        assert!(n >= 1);
        let before = COUNT.load(Ordering::SeqCst);
        drop(std::hint::black_box(vec![1u8; 100]));
        assert_eq!(COUNT.load(Ordering::SeqCst), before);
    }
}
