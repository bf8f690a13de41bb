//! Read-only bytes of a finished file, mapped or copied where mapping is not possible; and a page that a fork wipes.
//! The one file with `unsafe` in the core.

#![expect(
    unsafe_code,
    reason = "mapping a file, prefetching and madvise are unsafe calls; what makes them sound is stated at each"
)]

use std::{fs::File, io, ops::Deref, sync::Arc};

use memmap2::{Mmap, MmapMut};

/// Size of a cache line, in bytes.
const LINE: usize = 64;

/// The same number on every Unix.
const ENODEV: i32 = 19;

/// The bytes of a finished file, cheap to clone. Cloning keeps the map, and so the file's space, alive.
///
/// A [`File`](crate::env::File) that keeps its bytes in memory makes one with [`Region::from`].
#[derive(Clone, Debug)]
pub struct Region(Backing);

/// Owner of the bytes.
#[derive(Clone, Debug)]
#[expect(clippy::rc_buffer, reason = "shared with files in memory, which grow while they have one owner")]
enum Backing {
    /// Mapped from a real file.
    Map(Arc<Mmap>),
    /// Kept in memory.
    Heap(Arc<Vec<u8>>),
}

impl From<Arc<Vec<u8>>> for Region {
    /// Shares bytes in memory.
    fn from(bytes: Arc<Vec<u8>>) -> Self {
        Self(Backing::Heap(bytes))
    }
}

impl From<Vec<u8>> for Region {
    /// Takes bytes in memory.
    fn from(bytes: Vec<u8>) -> Self {
        Arc::new(bytes).into()
    }
}

impl Region {
    /// Maps `file` for reading.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            // An empty map is an error on some systems.
            return Ok(Vec::new().into());
        }
        // SAFETY: a map is sound while nothing changes the bytes under it. The engine maps only files that it finished:
        // they were created exclusively under a name that is never reused, the one writer has closed them, nothing in
        // this crate opens an existing file for writing or truncating, and the exclusive lock on the directory keeps
        // other engines away. If another program truncates the file, the process dies of SIGBUS: use
        // `Options::mmap(false)` where that can happen.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(Backing::Map(Arc::new(map))))
    }

    /// Returns whether a map failed only because the system allows no further map, or none of such a file: then it can
    /// still be read.
    pub(crate) fn is_refused(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported)
            // This file system has no maps.
            || cfg!(unix) && error.raw_os_error() == Some(ENODEV)
    }

    /// Prefetches bytes that will be read soon. It neither waits nor returns anything. (Rejected: reading a byte of
    /// each line. Later instructions proceed meanwhile, but only some hundreds of them, and the walk that follows is
    /// longer.)
    #[inline]
    pub(crate) fn fetch(&self, at: usize, len: usize) {
        let bytes: &[u8] = self;
        let end = at.saturating_add(len).min(bytes.len());
        for line in bytes.get(at..end).unwrap_or_default().chunks(LINE) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 has the instruction. It is a hint: whatever the address, and this one lies in a live
            // slice, it changes nothing that a program sees and never faults.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            std::hint::black_box(line.first());
        }
    }

    /// Returns the owner for shared windows into these bytes.
    pub(crate) fn owner(&self) -> Arc<dyn AsRef<[u8]> + Send + Sync> {
        match &self.0 {
            Backing::Map(map) => Arc::<Mmap>::clone(map),
            Backing::Heap(heap) => Arc::<Vec<u8>>::clone(heap),
        }
    }
}

impl Deref for Region {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Backing::Map(map) => map,
            Backing::Heap(heap) => heap,
        }
    }
}

/// The process that created it. A forked child has a copy of everything but the threads: locks that they held stay
/// locked for ever, and files and system locks are shared. So code that may run in such a child checks first.
///
/// On Linux it is a page that the system wipes in a child: the check reads one byte. (Rejected: comparing process ids,
/// which costs as much as a read that finds its key in memory; and a handler that runs in the child, which takes an
/// unsafe call that cannot be undone.)
#[derive(Debug)]
pub(crate) struct Origin {
    page: Option<MmapMut>,
    process: u32,
}

impl Default for Origin {
    fn default() -> Self {
        Self { page: wiped_page(), process: std::process::id() }
    }
}

impl Origin {
    /// Returns whether this process was forked from the one that created it.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        match &self.page {
            // Hidden from the compiler, which may assume that a byte it can see does not change.
            Some(page) => std::hint::black_box(page).first() == Some(&0),
            None => std::process::id() != self.process,
        }
    }

    /// Returns the id of the process that created it.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }
}

/// Returns a page whose first byte is 1 here and 0 in every child; `None` where the system has none.
#[cfg(target_os = "linux")]
fn wiped_page() -> Option<MmapMut> {
    let mut page = MmapMut::map_anon(1).ok()?;
    // SAFETY: the advice concerns one private page that belongs to this value alone, and only what children forked from
    // now on read of it: there it is zero, which is as valid a byte as any.
    let advised =
        unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), page.len(), rustix::mm::Advice::LinuxWipeOnFork) };
    *page.first_mut()? = 1;
    advised.is_ok().then_some(page)
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> Option<MmapMut> {
    None
}
