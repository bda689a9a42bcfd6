//! `check` allocates nothing once it is warm. In a test program of its own, whose allocator counts.

mod common;

use common::Tiny;
use intentgate::{Flow, Guard};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this function.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_warm_guard_allocates_nothing() {
    let guards = [Tiny::default(), Tiny { eight_bit: Some(".layer."), four_bit: true, ..Tiny::default() }]
        .map(|tiny| Guard::from_bundle(&tiny.bundle()).unwrap());
    let long = "where is my order? ".repeat(200);
    let messages = [
        "where is my order?",
        "",
        "¿Dónde está mi pedido?",
        "w😀r😀i😀t😀e a poem ＮＯＷ",
        "оrder with a Cyrillic letter",
        "मेरा ऑर्डर कब तक आएगा",
        "e\u{301} \u{200b}",
        &long,
    ];
    for guard in &guards {
        let check = || {
            for text in messages {
                for flow in [None, Some(Flow::Order)] {
                    std::hint::black_box(guard.check_message(flow, text));
                }
            }
        };
        assert!(allocations(check) > 0, "the counter counts");
        assert_eq!(allocations(check), 0);
    }
}
