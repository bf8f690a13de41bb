//! Read-only bytes of a finished file: mapped, or a copy where there is no map. The one file with `unsafe` in the core.

#![expect(
    unsafe_code,
    reason = "mapping a file and fetching ahead are unsafe calls; what makes them sound is told at each"
)]

use std::{fs::File, io, ops::Deref, sync::Arc};

use memmap2::Mmap;

/// A line of the processor's caches, in bytes.
const LINE: usize = 64;

/// The bytes of a finished file, cheap to clone. Cloning keeps the map, and so the file's space, alive.
#[derive(Clone, Debug)]
pub enum Region {
    /// Mapped from a real file.
    Map(Arc<Mmap>),
    /// Held in memory.
    Heap(Arc<Vec<u8>>),
}

impl Region {
    /// Maps `file` for reading.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            // An empty map is an error on some systems.
            return Ok(Self::Heap(Arc::new(Vec::new())));
        }
        // SAFETY: a map is sound while nobody changes the bytes under it. The engine maps only files that it finished:
        // they were created exclusively under a name that is never used again, the one writer has closed them,
        // nothing in this crate opens an existing file for writing or cutting, and the exclusive lock on the
        // directory keeps other engines away. Another program that cuts the file under us ends the process with
        // SIGBUS: `Options::mmap(false)` exists for whoever must fear that.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self::Map(Arc::new(map)))
    }

    /// Has the processor fetch bytes that will be read soon. It waits for nothing, and answers nothing. (Rejected: to read a byte of each line. Later
    /// instructions go on meanwhile, but only some hundreds of them, and the walk that follows is longer.)
    #[inline]
    pub(crate) fn fetch(&self, at: usize, len: usize) {
        let bytes: &[u8] = self;
        let end = at.saturating_add(len).min(bytes.len());
        for line in bytes.get(at..end).unwrap_or_default().chunks(LINE) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 has the instruction. It is a hint: whatever the address is, and this one lies in a live slice, it changes
            // nothing that a program sees, and never faults.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            std::hint::black_box(line.first());
        }
    }

    /// An owner for shared windows into these bytes.
    pub(crate) fn owner(&self) -> Arc<dyn AsRef<[u8]> + Send + Sync> {
        match self {
            Self::Map(map) => Arc::<Mmap>::clone(map),
            Self::Heap(heap) => Arc::<Vec<u8>>::clone(heap),
        }
    }
}

impl Deref for Region {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Heap(heap) => heap,
        }
    }
}
