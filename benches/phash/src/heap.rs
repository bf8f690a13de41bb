//! The allocator of this program: the system's, which counts once it is told to.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed},
};

#[global_allocator]
static HEAP: Heap = Heap;

/// Counting costs time: only processes that measure memory do.
static COUNTS: AtomicBool = AtomicBool::new(false);
static NOW: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// Counts from now on.
pub fn count() {
    COUNTS.store(true, Relaxed);
}

/// Bytes handed out and not given back.
pub fn now() -> isize {
    NOW.load(Relaxed)
}

/// The most that ever were.
pub fn peak() -> isize {
    PEAK.load(Relaxed)
}

fn add(bytes: isize) {
    if COUNTS.load(Relaxed) {
        let now = NOW.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(now, Relaxed);
    }
}

struct Heap;

// SAFETY: every call goes to the allocator of the system as it came; counting does not touch the memory.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        add(len as isize - layout.size() as isize);
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.realloc(memory, layout, len) }
    }
}
