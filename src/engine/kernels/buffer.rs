//! Memory for the kernels: aligned to cache lines, and for weights in one piece on huge pages.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    marker::PhantomData,
    ptr::NonNull,
    sync::Arc,
};

/// Bytes of a cache line, and of an AVX-512 register.
const LINE: usize = 64;
/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Numbers whose bytes may hold any value.
pub(crate) trait Plain: Copy + Default + fmt::Debug + Send + Sync {
    fn is_finite(self) -> bool {
        true
    }
}
impl Plain for f32 {
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}
impl Plain for i32 {}
impl Plain for i8 {}
impl Plain for u8 {}

/// Zeroed bytes at an address that is a multiple of 64.
pub(crate) struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the bytes are owned and reached through `&` for reading and `&mut` for writing only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Room for `bytes` bytes.
    ///
    /// An array that is read from end to end for every message is put on huge pages, where the system has them to give:
    /// on pages of 4 KB, strewn over the memory, parts of it push each other out of the second-level cache, and a forward
    /// pass takes a quarter longer.
    fn zeroed(bytes: usize, huge: bool) -> Self {
        let huge = huge && cfg!(target_os = "linux") && bytes >= HUGE_PAGE / 2;
        let align = if huge { HUGE_PAGE } else { LINE };
        let bytes = bytes.max(LINE).next_multiple_of(align);
        let layout = Layout::from_size_align(bytes, align).expect("sizes are bounded by those of the model");
        // SAFETY: the layout is not of size zero.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if huge {
            // Before the first touch, with which the pages are chosen.
            // SAFETY: the range is whole pages of our own; advice changes no content. Without huge pages it fails, and
            // all is as before.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: just allocated with this size.
        unsafe { start.write_bytes(0, bytes) };
        Memory { start, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `zeroed`, and owned.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// An array of numbers at an address that is a multiple of 64.
pub(crate) struct Buffer<T> {
    memory: Place,
    /// How many values there is room for, in whole lines.
    len: usize,
    kind: PhantomData<T>,
}

enum Place {
    Own(Memory),
    /// From this byte on in memory that [`fill`] has made.
    Joined(Arc<Memory>, usize),
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let len = len.next_multiple_of(LINE / size_of::<T>());
        Buffer { memory: Place::Own(Memory::zeroed(len * size_of::<T>(), false)), len, kind: PhantomData }
    }

    /// The first `len` values, grown with zeros if need be. What they hold is what was last written there.
    #[inline]
    pub(crate) fn room(&mut self, len: usize) -> &mut [T] {
        if self.len < len || !matches!(self.memory, Place::Own(_)) {
            let mut grown = Self::zeros(len.max(self.len));
            grown.all_mut()[..self.len].copy_from_slice(self.as_slice());
            *self = grown;
        }
        &mut self.all_mut()[..len]
    }

    /// All there is, in whole lines.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        let start = match &self.memory {
            Place::Own(memory) => memory.start.as_ptr(),
            // SAFETY: `fill` has made the memory large enough for every array it was given.
            Place::Joined(memory, first) => unsafe { memory.start.as_ptr().add(*first) },
        };
        // SAFETY: `len` values lie within the memory from `start` on, a multiple of 64, by construction; the bytes are
        // initialised, and any bytes are a value of the number types above. They are borrowed as long as the result, and
        // not written meanwhile: `all_mut` needs `&mut self`, and joined memory is never written.
        unsafe { std::slice::from_raw_parts(start.cast(), self.len) }
    }

    fn all_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            // SAFETY: as in `as_slice`; this buffer alone has the memory, and is borrowed mutably.
            Place::Own(memory) => unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr().cast(), self.len) },
            Place::Joined(..) => &mut [],
        }
    }
}

impl<T: Plain> Default for Buffer<T> {
    fn default() -> Self {
        Self::zeros(0)
    }
}

/// A [`Buffer`] of any kind of number.
pub(crate) trait Part {
    fn bytes(&self) -> &[u8];
    fn is_finite(&self) -> bool;
    fn move_to(&mut self, memory: &Arc<Memory>, first: usize);
}

impl<T: Plain> Part for Buffer<T> {
    fn bytes(&self) -> &[u8] {
        let values = self.as_slice();
        // SAFETY: numbers without padding, seen as bytes, borrowed as long.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
    }

    fn is_finite(&self) -> bool {
        self.as_slice().iter().all(|value| value.is_finite())
    }

    fn move_to(&mut self, memory: &Arc<Memory>, first: usize) {
        self.memory = Place::Joined(Arc::clone(memory), first);
    }
}

/// Moves arrays that are read one after the other into one piece of memory, in this order.
pub(crate) fn join(parts: Vec<&mut dyn Part>) {
    let bytes = bytes_of(&parts);
    fill(parts, &bytes);
}

/// What [`fill`] would have to be given for arrays like these.
pub(crate) fn bytes_of(parts: &[&mut dyn Part]) -> Vec<u8> {
    parts.iter().map(|part| part.bytes()).collect::<Vec<_>>().concat()
}

/// Fills arrays with `bytes`, one array after the other, in one piece of memory; false, and nothing done, if they do not
/// hold as many.
pub(crate) fn fill(mut parts: Vec<&mut dyn Part>, bytes: &[u8]) -> bool {
    let lengths: Vec<usize> = parts.iter().map(|part| part.bytes().len()).collect();
    if lengths.iter().sum::<usize>() != bytes.len() {
        return false;
    }
    let memory = Memory::zeroed(bytes.len(), true);
    // SAFETY: the memory has room for all bytes, they are another piece of memory, and nobody else has the target yet.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.start.as_ptr(), bytes.len()) };
    let memory = Arc::new(memory);
    let mut at = 0;
    for (part, length) in parts.iter_mut().zip(lengths) {
        part.move_to(&memory, at);
        at += length;
    }
    true
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {} values", self.len)
    }
}
